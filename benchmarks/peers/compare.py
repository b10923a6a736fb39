"""Compare peers: first the coefficients of each, then the times of all, in turns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial

import numpy as np
import torch

from benchmarks.entries import DEFINITION
from benchmarks.peers.field import GPULIME, Comparison, Peer
from benchmarks.rows import columns, seconds, yes
from benchmarks.setups import Setup
from benchmarks.sides import Array, Run, cpu, difference, tolerance, wall
from gpulime.bench.clock import attempt, in_turns
from gpulime.device import installed

LEAST_AGREEMENT = 0.2  # a rank correlation below is no better than chance, and gets no time
REFERENCE_TIMES = 4  # the common reference has this many times the samples, and another seed


COLUMNS = (
    "comparison side version unlike s q20 q80 images_s ratio bound cpu_s error error_limit spearman top5 ok "
    "reason model n samples batch precision segmentation repeats"
)


class Row(columns(COLUMNS)):
    """One peer in one comparison; the file holds it as text, empty if there is nothing.

    Seconds are those of all ``n`` images on the wall, ``cpu_s`` of all threads; ``ratio`` is the peer's time over gpulime's.
    ``error`` is the largest difference of coefficients from the definition's with the same masks, relative to the largest; it
    may not exceed ``error_limit``. ``spearman`` and ``top5`` tell the agreement with one reference of many more samples, means
    over the images: the rank correlation of segments, and the share of the five strongest in common. ``reason`` is the error
    that ended a peer; a peer with an error or wrong coefficients gets no time.
    """

    FOLDER, KEY = "peers", ("comparison", "side")

    def __str__(self) -> str:
        agreement = f"error {self.error or 'not comparable'}, Spearman {self.spearman}, top 5 {self.top5}"
        time = f"{self.s} s ({self.q20} to {self.q80}), {self.images_s} images/s, ratio {self.ratio}" if self.s else "no time"
        verdict = "ok" if self.ok == "yes" else f"FAILED {self.reason}".rstrip()
        return f"    {self.side:24} {time} {self.bound and f'(must be {self.bound}) '}; {agreement}: {verdict}"


def compare(comparison: Comparison, repeats: int, place: dict[str, str]) -> Iterator[Row | str]:
    """Yield a row for each peer, ours first; or the reason for skipping it, and the bounds that were not checked."""
    setup = comparison.setup
    device = torch.device(setup.device)
    for of_reference in (plain(setup), more(setup)):
        definition(of_reference)  # a failure here is not a peer's
    rows: dict[Peer, Row] = {}
    for peer in (GPULIME, *comparison.peers):
        row = unmeasured(peer, comparison, repeats, place)
        found, why = attempt(partial(checked, row, peer, comparison), device)
        if isinstance(found, ImportError):
            yield f"{peer.side.name}: left out, {found} (pip install -e '.[peers]')"
        else:
            rows[peer] = found or replace(row, ok="no", reason=why)
    calls = {peer: partial(peer.side.run, setup) for peer, row in rows.items() if row.ok == "yes"}
    runs, failed = in_turns(calls, (), device, repeats)
    for peer, row in rows.items():
        if peer in failed:
            rows[peer] = replace(row, ok="no", reason=failed[peer])
        elif peer in runs:
            rows[peer] = timed(row, setup, runs[peer], runs.get(GPULIME))
    yield from bounded(rows, comparison)


def unmeasured(peer: Peer, comparison: Comparison, repeats: int, place: dict[str, str]) -> Row:
    """The row of a peer before it has run."""
    setup, version = comparison.setup, installed(peer.package) or ""
    segmentation = "each its own" if setup.segments else "given"
    problem = {"model": setup.model_name, "n": setup.n, "samples": setup.s, "batch": peer.side.b or setup.batch}
    problem |= {"precision": setup.precision, "segmentation": segmentation, "repeats": repeats}
    told = {name: str(value) for name, value in problem.items()}
    return Row(comparison.name, peer.side.name, version, peer.unlike, **told, **place)


def checked(row: Row, peer: Peer, comparison: Comparison) -> Row | ImportError:
    """The row with the peer's coefficients compared with the definition's, of the same masks, and with the reference's."""
    setup, most = comparison.setup, limit(comparison)
    try:
        coefficients = peer.side.run(setup).coefficients
    except ImportError as missing:
        return missing
    error = difference(coefficients, definition(plain(setup)))[0]
    agreement = correlation(coefficients, definition(more(setup)))
    return replace(
        row,
        error="" if peer.unlike else f"{error:.2g}",
        error_limit="" if peer.unlike else f"{most:.2g}",
        spearman=f"{agreement:.3f}",
        top5=f"{difference(coefficients, definition(more(setup)))[1]:.2f}",
        ok=yes(error <= most if not peer.unlike else agreement >= LEAST_AGREEMENT),
    )


def limit(comparison: Comparison) -> float:
    """The largest allowed error."""
    setup = comparison.setup
    exact, rounded = plain(setup), replace(plain(setup), precision="bfloat16")

    def noise() -> float:
        return difference(definition(rounded), definition(exact))[0]

    return tolerance(setup.device, setup.precision, comparison.tolerance, noise)


def timed(row: Row, setup: Setup, runs: list[Run], ours: list[Run] | None) -> Row:
    """The row with its time."""
    took = wall(runs)
    ratio = f"{took.median / wall(ours).median:.3f}" if ours else ""
    return replace(row, **seconds(took), images_s=f"{setup.n / took.median:.4g}", ratio=ratio, cpu_s=f"{cpu(runs).median:.4g}")


def bounded(rows: dict[Peer, Row], comparison: Comparison) -> Iterator[Row | str]:
    """Rows, of which the fastest of a kind has its bound; and the kinds without a time, whose bounds were not checked."""
    missed = []
    for kind, least in comparison.least:
        of_kind = [peer for peer, row in rows.items() if peer.kind == kind and row.ratio]
        if of_kind:
            fastest = min(of_kind, key=lambda peer: float(rows[peer].ratio))
            holds = float(rows[fastest].ratio) >= least
            rows[fastest] = replace(rows[fastest], bound=f"at least {least:g}", ok=yes(holds))
        else:
            missed.append(f"{kind}: at least {least:g} was not checked, none has a time beside ours")
    yield from rows.values()
    yield from missed


@cache
def definition(setup: Setup) -> Array | None:
    """LIME's coefficients by its definition."""
    return DEFINITION.run(setup).coefficients


def plain(setup: Setup) -> Setup:
    """The setup of the definition, the same for all comparisons that share its answer."""
    return replace(setup, precision="float32", segments=False)


def more(setup: Setup) -> Setup:
    """The setup of the reference: more samples and another seed, so that no peer shares its noise."""
    return replace(plain(setup), s=REFERENCE_TIMES * setup.s, seed=setup.seed + 1)


def correlation(coefficients: Array, others: Array) -> float:
    """Spearman's rank correlation of an image's segments, the mean over images."""
    from scipy.stats import spearmanr

    pairs = zip(coefficients, others, strict=True)
    return float(np.mean([spearmanr(a[b != 0], b[b != 0]).statistic for a, b in pairs]))  # 0 is padding
