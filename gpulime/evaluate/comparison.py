"""Comparison: a table with a row for each method."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gpulime.errors import GpulimeError, unknown
from gpulime.evaluate.scores import Reasons

if TYPE_CHECKING:
    import pandas

OK = "ok"
HEAD = ("method", "deletion", "insertion", "gap", "held-out R2", "forwards", "backwards", "s", "status")


@dataclass(frozen=True)
class Compared:
    """A method's row: means over the images and labels that could be judged; NaN for a method without maps.

    Attributes
    ----------
    deletion, insertion, gap : float, areas under the curves, and insertion minus deletion: see `gpulime.evaluate.Curves`
    held_out_r2 : float, see `gpulime.evaluate.HeldOut`; NaN if it was not asked for
    forwards, backwards, seconds : float, of the explanation alone, for each image
    judged : int, pairs of image and label that could be judged
    status : "ok"; "not available: " or "failed: " and the reason; or notes, with a semicolon between them: "equal to " and a
        method with the same maps, up to a positive factor; activations that the method does not cover; "2 of 8 not judged: "
        and each different reason, with its number if there are several; and the same of the held-out R2, of those judged
    """

    method: str
    deletion: float = torch.nan
    insertion: float = torch.nan
    gap: float = torch.nan
    held_out_r2: float = torch.nan
    forwards: float = torch.nan
    backwards: float = torch.nan
    seconds: float = torch.nan
    judged: int = 0
    status: str = OK

    def noted(self, *notes: str) -> Compared:
        """The same row with notes before those of its status."""
        known = [] if self.status == OK else [self.status]
        return replace(self, status="; ".join([*notes, *known]) or OK)


@dataclass(frozen=True, eq=False)
class Comparison:
    """A table with a row for each method; ``print`` shows it.

    Attributes
    ----------
    rows : sequence of Compared, in the order of the methods; then "random", random segments, and "centre", a centre blob
    labels : (n, l) int64, classes
    unit, fill : str, of the curves
    maps : method -> (n, l, h, w) float32 on the CPU, of the methods that are available; NaN for labels without a map
    reasons : method -> dict (i, j) -> str, for each image i and place of a label j that could not be judged
    """

    rows: Sequence[Compared]
    labels: Tensor
    unit: str
    fill: str
    maps: Mapping[str, Tensor] = field(repr=False)
    reasons: Mapping[str, Reasons] = field(default_factory=dict, repr=False)

    def __getitem__(self, method: str) -> Compared:
        """The row of a method."""
        found = {row.method: row for row in self.rows}
        if method not in found:
            raise unknown("method", method, found)
        return found[method]

    def to_frame(self) -> pandas.DataFrame:
        """A table with a row for each method and `Compared`'s attributes as columns; needs pandas.

        Raises
        ------
        GpulimeError
            If pandas is missing.
        """
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise GpulimeError("to_frame needs pandas: pip install pandas") from error
        return pandas.DataFrame([{**asdict(row), "unit": self.unit, "fill": self.fill} for row in self.rows])

    def __str__(self) -> str:
        n, l = self.labels.shape
        lines = [HEAD, *(_cells(row) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        shown = [
            "  ".join(
                [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:-1], strict=True)), last]
            )
            for first, *cells, last in lines
        ]
        of = f"{n} image{'s' * (n > 1)}, {l} label{'s' * (l > 1)} each"
        what = f"{of}; curves by {self.unit}, fill {self.fill}; cost for each image"
        return "\n".join([what, *shown])


def _cells(row: Compared) -> tuple[str, ...]:
    """A row as it is shown."""
    scores = [f"{value:.3f}" for value in (row.deletion, row.insertion, row.gap, row.held_out_r2)]
    cost = [f"{row.forwards:,.0f}", f"{row.backwards:,.0f}", f"{row.seconds:.2f}"]
    return (row.method, *("-" if cell == "nan" else cell for cell in (*scores, *cost)), row.status)


def not_judged(reasons: Reasons, total: int) -> str:
    """Say how many of all labels are not judged, and why."""
    return f"{len(reasons)} of {total} not judged: {listed(reasons.values())}"


def listed(reasons: Iterable[str]) -> str:
    """Reasons in one line, the most frequent first; ones that differ by their numbers alone are shown once, as one."""
    alike: dict[str, list[str]] = {}
    for why in reasons:
        alike.setdefault(re.sub(r"-?\d[\w.+-]*", "0", why), []).append(why)
    groups = sorted(alike.values(), key=len, reverse=True)
    return "; ".join(f"{group[0]} ({len(group)})" if len(groups) > 1 else group[0] for group in groups)
