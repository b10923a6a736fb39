"""Labels to explain: the classes with the highest output, given labels, or both."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gpulime.errors import check, stage


@dataclass(frozen=True)
class Wanted:
    """The labels to explain for n inputs.

    Attributes
    ----------
    labels : (n, l) int64 or None
        Labels asked for; -1 pads shorter rows, and the input's first label is explained again in its place.
    top : bool
        If True, the classes with the highest output are explained too, before ``labels``.
    highest : (input, label) or None
        The highest label in the whole batch, with its input.
    """

    labels: Tensor | None = None
    top: bool = True
    highest: tuple[int, int] | None = None

    def part(self, where: slice) -> Wanted:
        """Select the labels of some inputs."""
        return replace(self, labels=None if self.labels is None else self.labels[where])

    def check(self, classes: int, one: str = "input") -> None:
        """Raise `GpulimeError` unless the highest label is below the model's number of classes."""
        if self.highest is not None:
            number, label = self.highest
            with stage(one):
                check(label < classes, f"labels must be below the model's {classes} classes; {one} {number} has {label}")

    def choose(self, outputs: Tensor, top_labels: int, one: str = "input") -> Tensor:
        """Choose the labels (n, l) from the outputs (n, classes) for sample 0.

        Raises
        ------
        GpulimeError
            If a label is not below the number of classes.
        """
        self.check(outputs.shape[1], one)
        wanted = None if self.labels is None else self.labels.where(self.labels >= 0, self.labels[:, :1])
        if wanted is not None and not self.top:
            return wanted
        best = outputs.topk(min(top_labels, outputs.shape[1]), dim=1).indices
        if wanted is None:
            return best
        assert self.labels is not None
        return torch.cat([best, self.labels.where(self.labels >= 0, best[:, :1])], dim=1)
