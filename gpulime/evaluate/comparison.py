"""Comparison: a table with a row for each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gpulime.errors import GpulimeError, unknown

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
    status : "ok"; "equal to " and a method above with the same maps, up to a positive factor; "not available: ",
        "failed: " or "2 of 8 not judged: " and the reason
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


@dataclass(frozen=True, eq=False)
class Comparison:
    """A table with a row for each method; ``print`` shows it.

    Attributes
    ----------
    rows : sequence of Compared, in the order of the methods; then "random", random segments, and "centre", a centre blob
    labels : (n, l) int64, classes
    unit, fill : str, of the curves
    maps : method -> (n, l, h, w) float32 on the CPU, of the methods that are available
    """

    rows: Sequence[Compared]
    labels: Tensor
    unit: str
    fill: str
    maps: Mapping[str, Tensor] = field(repr=False)

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
        what = f"{n} images, {l} label{'s' * (l > 1)} each; curves by {self.unit}, fill {self.fill}; cost for each image"
        return "\n".join([what, *shown])


def _cells(row: Compared) -> tuple[str, ...]:
    """A row as it is shown."""
    scores = [f"{value:.3f}" for value in (row.deletion, row.insertion, row.gap, row.held_out_r2)]
    cost = [f"{row.forwards:,.0f}", f"{row.backwards:,.0f}", f"{row.seconds:.2f}"]
    return (row.method, *("-" if cell == "nan" else cell for cell in (*scores, *cost)), row.status)
