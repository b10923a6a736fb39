"""Values of a categorical column, as numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpulime.tables.bins import Array


@dataclass
class Categories:
    """The values of a categorical column of a DataFrame, numbered; values that training lacks follow when they come."""

    values: list[Any]
    seen: int = field(init=False)  # values of training

    def __post_init__(self) -> None:
        self.seen = len(self.values)
        self.numbers = {value: number for number, value in enumerate(self.values)}

    def forget(self) -> None:
        """Forget the values that training lacks."""
        for value in self.values[self.seen :]:
            del self.numbers[value]
        del self.values[self.seen :]

    def of(self, codes: Array) -> tuple[Array, list[Any]]:
        """Codes (n,) and the values they number: those of training, and of the others the ones that are there."""
        new = dict.fromkeys(codes[codes >= self.seen].tolist())
        if not new:
            return codes, self.values[: self.seen]
        renumbered = np.arange(-1, len(self.values))  # at 1 + code; -1 is for a missing value
        for number, code in enumerate(new, self.seen):
            renumbered[1 + code] = number
        return renumbered[1 + codes], [*self.values[: self.seen], *(self.values[code] for code in new)]

    def encode(self, column: Any) -> Array:
        """Number of each value of a pandas Series, (n,) float64; NaN if it is missing."""
        missing = column.isna().to_numpy()
        found = np.full(len(column), np.nan)
        for row in np.flatnonzero(~missing):
            value = column.iloc[row]
            if value not in self.numbers:
                self.numbers[value] = len(self.values)
                self.values.append(value)
            found[row] = self.numbers[value]
        return found
