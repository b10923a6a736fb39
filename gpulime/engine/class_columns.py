"""Columns of a model's outputs as classes: one probability per row, and the number of class names."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gpulime.engine.functions import NO_PROBABILITIES, NoProbabilitiesError
from gpulime.errors import check

ROUNDING = 1e-6  # by which a probability may miss [0, 1]


@dataclass
class ClassColumns:
    """Makes one column of probabilities p the two columns 1 - p and p; the first outputs settle if they are probabilities.

    Attributes
    ----------
    named : int or None, the number of names that the user gave
    divides : bool, False leaves one column as it is
    scores : bool, True if one column may be scores, which stay one column
    """

    named: int | None = None
    divides: bool = True
    scores: bool = True
    _are_probabilities: bool | None = None  # None before the first outputs

    def __call__(self, outputs: Tensor) -> Tensor:
        """Columns (b, classes) of activated outputs (b, columns).

        Raises
        ------
        NoProbabilitiesError
            If there is one column of scores, and ``scores`` is False.
        GpulimeError
            If there is another number of classes than of names.
        """
        found = self._divided(outputs) if self.divides and outputs.shape[1] == 1 else outputs
        columns = found.shape[1]
        what = "column" if columns == 1 else "columns"
        hint = "; a column is not divided, since it has values outside [0, 1]" if self._are_probabilities is False else ""
        fits = self.named in (None, columns)
        check(fits, f"class_names must name each column of the model's output; got {self.named} names, {columns} {what}{hint}")
        return found

    def _divided(self, outputs: Tensor) -> Tensor:
        finite = outputs[outputs.isfinite()]
        outside = finite[(finite < -ROUNDING) | (finite > 1 + ROUNDING)]
        if len(outside) and not self.scores:
            raise NoProbabilitiesError(
                f"{NO_PROBABILITIES}; a single output per row must be the probability of the second class, in [0, 1]; got "
                f"{outside[0].item():g}"
            )
        if self._are_probabilities is None:
            self._are_probabilities = not len(outside)
        if not self._are_probabilities:
            return outputs
        one = outputs.where(~outputs.isfinite() | (outputs < -ROUNDING) | (outputs > 1 + ROUNDING), outputs.clamp(0, 1))
        return torch.cat([1 - one, one], 1)
