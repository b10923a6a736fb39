"""The entries: what is measured beside what, how fast it must be and how exact, as plain data."""

from benchmarks.entries.engine import ENGINE
from benchmarks.entries.entry import Entry
from benchmarks.entries.peers import PEERS

ENTRIES: tuple[Entry, ...] = (*ENGINE, *PEERS)
