"""Masked inputs, made of parts that can be shown or hidden: the interface between the engine and a kind of inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from gpulime.engine.batch_size import Kind
from gpulime.engine.masks import Sampler
from gpulime.errors import check, stage
from gpulime.explanations.batch import Explanations


@dataclass(frozen=True)
class Wanted:
    """The labels to explain for n inputs."""

    labels: Tensor | None = None  # (n, l) int64; -1 pads shorter rows, in which the input's first label is explained again
    top: bool = True  # explain the classes with the highest output, too, before ``labels``
    highest: tuple[int, int] | None = None  # the input with the highest label in the whole batch, and that label

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


class Masked:
    """A batch of n inputs, each divided into parts that can be shown or hidden.

    A subclass sets the attributes without a value and defines `rows` and `part`. It overrides `explained` to add its own
    tensors or lists, and the other members if it has its own masks, regressors or neighbourhood.

    Attributes
    ----------
    counts : (n,) int64, the parts of each input
    k : int, the columns of a mask: the most parts of any input, or more
    most : int, the most parts of any input
    kind : shape without b, dtype and device of the rows; inputs of the same kind share model batches
    keys : (n,) int64, seeds of the masks
    wanted : Wanted, the labels to explain
    extra : tuple of tensors (n, ...), further inputs of the model
    origin : (n, k) float64, the regressors of sample 0; None for ones
    shared : bool, True if samples 1 to s - 1 are the same rows for all inputs: the model then gets n + s - 1 rows
    by_mask : bool, True if the rows of an input depend on their masks alone: samples with equal masks are predicted once
    at_once : bool, True if all samples of an input are fitted together, by `gpulime.engine.shared`, if memory allows
    one, parts : str, names of an input and of its parts in messages
    """

    counts: Tensor
    k: int
    most: int
    kind: Kind
    keys: Tensor
    wanted: Wanted
    extra: tuple[Tensor, ...] = ()
    origin: Tensor | None = None
    shared = by_mask = at_once = False
    one, parts = "input", "parts"

    def __len__(self) -> int:
        return len(self.counts)

    @cached_property
    def sizes(self) -> Tensor:
        """The counts (n,) on the CPU. A subclass that has them there sets this, so that the host does not wait for a GPU."""
        return self.counts.cpu()

    def draw(self, sampler: Sampler, index: Tensor, samples: Tensor) -> Tensor:
        """Draw masks.

        Parameters
        ----------
        index, samples : int64 tensors that broadcast to (...)
            Number of the input, and of the sample; sample 0 shows everything.

        Returns
        -------
        (..., k) bool, True if a part is shown; False beyond an input's count
        """
        counts = self.counts[index]
        masks = sampler(self.keys[index], samples, counts, self.k)
        return masks & (torch.arange(self.k, device=masks.device) < counts[..., None])

    def rows(self, index: Tensor, samples: Tensor, masks: Tensor) -> Tensor:
        """Rows of the model's input (b, ...), each from its input (b,), sample (b,) and mask (b, k) bool."""
        raise NotImplementedError

    def regressors(self, index: Tensor, samples: Tensor, masks: Tensor) -> Tensor:
        """Regressors (n, s, k) of the surrogate: the masks, or numbers of any dtype that converts to float64."""
        del index, samples
        return masks

    def groups(self, s: int) -> Tensor | None:
        """Groups (s - 1,) int64, from 0 without gaps, of the samples 1 to s - 1 of inputs that share them.

        Samples of a group have equal regressors for every input. None if few do.
        """
        return None

    def part(self, where: slice) -> Masked:
        """Select inputs by a slice."""
        raise NotImplementedError

    def explained(self, found: dict[str, Any]) -> Explanations:
        """Build the explanations of these inputs from the tensors of a fit by name."""
        return Explanations(**found)


class Masker(Protocol):
    """Turns a user's batch into masked inputs, a few at a time: checks it, divides it into parts and prepares their fill."""

    def masked(self, batch: Any) -> Iterator[Masked]: ...
