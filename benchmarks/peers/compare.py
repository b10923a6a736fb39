"""One comparison: what each peer finds, before any clock is started, and then how long they all take, in turns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from benchmarks import noise
from benchmarks.entries.entry import DEFINITION
from benchmarks.peers.field import GPULIME, Comparison, Peer
from benchmarks.rows import Placed
from benchmarks.run import difference
from benchmarks.setups import Setup
from benchmarks.timer import Array, Run, Timing, in_turn
from gpulime.device import installed

LEAST_AGREEMENT = 0.2  # a rank correlation below is no better than chance: such a side does not explain, and gets no time
REASON_LENGTH = 300
REFERENCE_TIMES = 4  # the common reference has so many times the samples, and another seed: nobody shares its noise


@dataclass(frozen=True)
class Row(Placed):
    """What is kept of one peer in one comparison; the file holds it as text, empty where there is nothing.

    Seconds are those of all ``n`` images on the wall, ``cpu_s`` of all threads; ``ratio`` is the peer's time over gpulime's.
    ``error`` is the coefficients' greatest difference from the definition's with the same masks, as a part of the largest, and
    may not pass ``error_limit``. ``spearman`` and ``top5`` tell the agreement with one reference of many more samples: the rank
    correlation of the segments, and the part of the five strongest that both have, means over the images. ``reason`` tells the
    error that ended a peer; its time, and that of one whose coefficients are wrong, is not kept.
    """

    comparison: str
    side: str
    version: str = ""
    unlike: str = ""
    s: str = ""
    q20: str = ""
    q80: str = ""
    images_s: str = ""
    ratio: str = ""
    bound: str = ""
    cpu_s: str = ""
    error: str = ""
    error_limit: str = ""
    spearman: str = ""
    top5: str = ""
    ok: str = ""
    reason: str = ""
    model: str = ""
    n: str = ""
    samples: str = ""
    batch: str = ""
    precision: str = ""
    segmentation: str = ""
    repeats: str = ""

    def __str__(self) -> str:
        agreement = f"error {self.error or 'not comparable'}, Spearman {self.spearman}, top 5 {self.top5}"
        time = f"{self.s} s ({self.q20} to {self.q80}), {self.images_s} images/s, ratio {self.ratio}" if self.s else "no time"
        verdict = "ok" if self.ok == "yes" else f"FAILED {self.reason}".rstrip()
        return f"    {self.side:24} {time} {self.bound and f'(must be {self.bound}) '}; {agreement}: {verdict}"


def compare(comparison: Comparison, repeats: int, place: dict[str, str]) -> Iterator[Row | str]:
    """Give a row for each peer, ours first; or why a peer is left out, and of which bounds that is the end."""
    rows: list[Row] = []
    peers: list[Peer] = []
    runs: list[list[Run]] = []
    for setup in (plain(comparison.setup), more(comparison.setup)):
        definition(setup)  # what fails here is no peer's fault
    for peer in (GPULIME, *comparison.peers):
        row = unmeasured(peer, comparison, repeats, place)
        try:
            row = found(row, peer, comparison)
        except ImportError as missing:
            yield f"{peer.side.name}: left out, {missing} (pip install -e '.[peers]')"
            continue
        except Exception as error:  # out of memory, or what a package of its own raises: the others are compared all the same
            row = failed(row, error)
        rows.append(row)
        peers.append(peer)
        runs.append([])
    for turn in range(repeats):
        for i in in_turn(range(len(rows)), turn):
            if rows[i].ok == "yes":
                try:
                    runs[i].append(peers[i].side.run(comparison.setup))
                except Exception as error:
                    rows[i] = failed(rows[i], error)
    timings = [Timing(tuple(of_peer)) if row.ok == "yes" else None for row, of_peer in zip(rows, runs, strict=True)]
    ours = next((timing for peer, timing in zip(peers, timings, strict=True) if peer is GPULIME), None)
    rows = [timed(row, comparison.setup, timing, ours) if timing else row for row, timing in zip(rows, timings, strict=True)]
    yield from bounded(rows, peers, comparison)


def unmeasured(peer: Peer, comparison: Comparison, repeats: int, place: dict[str, str]) -> Row:
    """The row of a peer of whom nothing is known yet."""
    setup = comparison.setup
    return Row(
        comparison.name,
        peer.side.name,
        version=installed(peer.package) or "",
        unlike=peer.unlike,
        model=setup.model_name,
        n=str(setup.n),
        samples=str(setup.s),
        batch=str(peer.side.b or setup.batch),
        precision=setup.precision,
        segmentation="each its own" if setup.segments else "given",
        repeats=str(repeats),
        **place,
    )


def found(row: Row, peer: Peer, comparison: Comparison) -> Row:
    """The row with what the peer finds, beside the definition with the same masks and beside the reference."""
    setup, most = comparison.setup, limit(comparison)
    coefficients = peer.side.run(setup).coefficients
    assert coefficients is not None
    error = difference(coefficients, definition(plain(setup)))[0]
    agreement = correlation(coefficients, reference(setup))
    exact = error <= most if not peer.unlike else agreement >= LEAST_AGREEMENT
    return replace(
        row,
        error="" if peer.unlike else f"{error:.2g}",
        error_limit="" if peer.unlike else f"{most:.2g}",
        spearman=f"{agreement:.3f}",
        top5=f"{difference(coefficients, reference(setup))[1]:.2f}",
        ok="yes" if exact else "no",
    )


def failed(row: Row, error: Exception) -> Row:
    """The row of one who ended with an error."""
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return replace(row, ok="no", reason=reason[:REASON_LENGTH])


def limit(comparison: Comparison) -> float:
    """The most that an error may be; on a GPU by what the definition has in the comparison's precision."""
    setup = comparison.setup
    if setup.device == "cpu":
        return comparison.tolerance
    in_precision = definition(replace(plain(setup), precision=setup.precision))
    return noise.in_bfloat16(difference(in_precision, definition(plain(setup)))[0])


def timed(row: Row, setup: Setup, timing: Timing, ours: Timing | None) -> Row:
    """The row with its time."""
    return replace(
        row,
        **timing.on_the_wall(),
        images_s=f"{setup.n / timing.wall:.4g}",
        ratio=f"{timing.wall / ours.wall:.3f}" if ours else "",
        cpu_s=f"{timing.cpu:.4g}",
    )


def bounded(rows: list[Row], peers: list[Peer], comparison: Comparison) -> Iterator[Row | str]:
    """Rows of which the fastest of a kind has its bound; and the bounds of kinds of which nobody has a time beside ours."""
    missed = []
    for kind, least in comparison.least:
        of_kind = [i for i, peer in enumerate(peers) if peer.kind == kind and rows[i].ratio]
        if of_kind:
            fastest = min(of_kind, key=lambda i: float(rows[i].ratio))
            holds = float(rows[fastest].ratio) >= least
            rows[fastest] = replace(rows[fastest], bound=f"at least {least:g}", ok="yes" if holds else "no")
        else:
            missed.append(f"{kind}: at least {least:g} was not looked at, none has a time beside ours")
    yield from rows
    yield from missed


@cache
def definition(setup: Setup) -> Array:
    """LIME's coefficients by its definition, in float32."""
    coefficients = DEFINITION.run(setup).coefficients
    assert coefficients is not None
    return coefficients


def reference(setup: Setup) -> Array:
    """What they all are after, or nearly."""
    return definition(more(setup))


def more(setup: Setup) -> Setup:
    """The setup of that reference."""
    return replace(plain(setup), s=REFERENCE_TIMES * setup.s, seed=setup.seed + 1)


def plain(setup: Setup) -> Setup:
    """The setup as the definition takes it, the same for all comparisons that share its answer."""
    return replace(setup, precision="float32", segments=False)


def correlation(coefficients: Array, others: Array) -> float:
    """Spearman's rank correlation of an image's segments, the mean over images."""
    from scipy.stats import spearmanr

    pairs = zip(coefficients, others, strict=True)
    return float(np.mean([spearmanr(a[b != 0], b[b != 0]).statistic for a, b in pairs]))  # 0 is padding
