"""One comparison: what each peer finds, before any clock is started, and then how long they all take, in turns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from benchmarks.entries.entry import DEFINITION
from benchmarks.peers.field import GPULIME, Comparison, Peer
from benchmarks.rows import Placed
from benchmarks.run import difference
from benchmarks.setups import Setup
from benchmarks.timer import Array, Timing, interleaved
from gpulime.device import installed

LEAST_AGREEMENT = 0.2  # a rank correlation below is no better than chance: such a side does not explain, and gets no time
REFERENCE_TIMES = 4  # the common reference has so many times the samples, and another seed: nobody shares its noise


@dataclass(frozen=True)
class Row(Placed):
    """What is kept of one peer in one comparison; the file holds it as text, empty where there is nothing.

    Seconds are those of all ``n`` images on the wall, ``cpu_s`` of all threads; ``ratio`` is the peer's time over gpulime's.
    ``error`` is the coefficients' greatest difference from the definition's with the same masks, as a part of the largest, and
    may not pass ``error_limit``. ``spearman`` and ``top5`` tell the agreement with one reference of many more samples: the rank
    correlation of the segments, and the part of the five strongest that both have, means over the images. Without ``ok`` there
    is no time.
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
        verdict = "ok" if self.ok == "yes" else "FAILED"
        return f"    {self.side:24} {time} {self.bound and f'(must be {self.bound}) '}; {agreement}: {verdict}"


def compare(comparison: Comparison, repeats: int, place: dict[str, str]) -> Iterator[Row | str]:
    """Give a row for each peer, ours first; or why a peer is left out."""
    rows, peers = [], []
    for peer in (GPULIME, *comparison.peers):
        try:
            rows.append(found(peer, comparison, repeats, place))
            peers.append(peer)
        except ImportError as missing:
            yield f"{peer.side.name}: left out, {missing} (pip install -e '.[peers]')"
    able = [i for i, row in enumerate(rows) if row.ok == "yes"]
    timings = interleaved([peers[i].side for i in able], comparison.setup, repeats)
    for i, timing in zip(able, timings, strict=True):
        rows[i] = timed(rows[i], comparison.setup, timing, timings[0] if able[0] == 0 else None)
    yield from bounded(rows, peers, comparison)


def found(peer: Peer, comparison: Comparison, repeats: int, place: dict[str, str]) -> Row:
    """A row without its time: what the peer finds, beside the definition with the same masks and beside the reference."""
    setup = comparison.setup
    coefficients = peer.side.run(setup).coefficients
    assert coefficients is not None
    error = difference(coefficients, definition(plain(setup)))[0]
    agreement = correlation(coefficients, reference(setup))
    exact = error <= comparison.tolerance if not peer.unlike else agreement >= LEAST_AGREEMENT
    return Row(
        comparison.name,
        peer.side.name,
        version=installed(peer.package) or "",
        unlike=peer.unlike,
        error="" if peer.unlike else f"{error:.2g}",
        error_limit="" if peer.unlike else f"{comparison.tolerance:g}",
        spearman=f"{agreement:.3f}",
        top5=f"{difference(coefficients, reference(setup))[1]:.2f}",
        ok="yes" if exact else "no",
        model=setup.model_name,
        n=str(setup.n),
        samples=str(setup.s),
        batch=str(peer.side.b or setup.batch),
        precision=setup.precision,
        segmentation="each its own" if setup.segments else "given",
        repeats=str(repeats),
        **place,
    )


def timed(row: Row, setup: Setup, timing: Timing, ours: Timing | None) -> Row:
    """The row with its time."""
    return replace(
        row,
        **timing.on_the_wall(),
        images_s=f"{setup.n / timing.wall:.4g}",
        ratio=f"{timing.wall / ours.wall:.3f}" if ours else "",
        cpu_s=f"{timing.cpu:.4g}",
    )


def bounded(rows: list[Row], peers: list[Peer], comparison: Comparison) -> list[Row]:
    """Rows of which the fastest of a kind has its bound."""
    for kind, least in comparison.least:
        of_kind = [i for i, peer in enumerate(peers) if peer.kind == kind and rows[i].ratio]
        if of_kind:
            fastest = min(of_kind, key=lambda i: float(rows[i].ratio))
            holds = float(rows[fastest].ratio) >= least
            rows[fastest] = replace(rows[fastest], bound=f"at least {least:g}", ok="yes" if holds else "no")
    return rows


@cache
def definition(setup: Setup) -> Array:
    """LIME's coefficients by its definition, in float32."""
    coefficients = DEFINITION.run(setup).coefficients
    assert coefficients is not None
    return coefficients


def reference(setup: Setup) -> Array:
    """What they all are after, or nearly."""
    return definition(replace(plain(setup), s=REFERENCE_TIMES * setup.s, seed=setup.seed + 1))


def plain(setup: Setup) -> Setup:
    """The setup as the definition takes it, the same for all comparisons that share its answer."""
    return replace(setup, precision="float32", segments=False)


def correlation(coefficients: Array, others: Array) -> float:
    """Spearman's rank correlation of an image's segments, the mean over images."""
    from scipy.stats import spearmanr

    pairs = zip(coefficients, others, strict=True)
    return float(np.mean([spearmanr(a[b != 0], b[b != 0]).statistic for a, b in pairs]))  # 0 is padding
