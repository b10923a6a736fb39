"""Dynamic symbols of shared libraries (64-bit little-endian ELF), without binutils.

References
----------
System V Application Binary Interface, "Object Files": the file header, section headers and the symbol table.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import NamedTuple

HEADER = struct.Struct("<40xQ10xHH2x")  # place of the section headers, size and number of them
SECTION = struct.Struct("<4xI16xQQI4x8xQ")  # type, place, size, link, size of an entry
SYMBOL = struct.Struct("<IBxH16x")  # place of the name, type in the lower 4 bits, section; 0 if it is undefined
DYNAMIC_SYMBOLS, FUNCTIONS = 11, (2, 10)  # of SHT_DYNSYM; of STT_FUNC and STT_GNU_IFUNC


class Symbols(NamedTuple):
    """Names that a library needs from others, and functions that it has for them."""

    needed: set[str]
    functions: set[str]


def symbols(path: Path) -> Symbols:
    """Read the dynamic symbols of a library; none if the file is something else, such as a linker script."""
    found = Symbols(set(), set())
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:6] != b"\x7fELF\x02\x01":
            return found
        place, size, number = HEADER.unpack_from(data)
        sections = [SECTION.unpack_from(data, place + i * size) for i in range(number)]
        for kind, start, length, link, _ in sections:
            if kind != DYNAMIC_SYMBOLS:
                continue
            _, first, names_length, _, _ = sections[link]
            names = data[first : first + names_length]
            for name, about, section in SYMBOL.iter_unpack(data[start : start + length]):
                if not section or about & 15 in FUNCTIONS:
                    text = names[name : names.index(b"\0", name)].decode()
                    (found.functions if section else found.needed).add(text)
    return found
