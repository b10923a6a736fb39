"""The seam: inputs that consist of parts, which the engine can show or hide without knowing what they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from gpulime.engine.batch_size import Kind
from gpulime.engine.masks import Sampler
from gpulime.engine.wanted import Wanted
from gpulime.errors import stage
from gpulime.explanations.batch import Explanations


class Masked:
    """n inputs, each divided into parts that can be shown or hidden.

    A kind of inputs gives the attributes without a value, `rows`, `part` and `explained`. It overrides the others if its masks,
    its regressors or its neighbourhood are its own.

    Attributes
    ----------
    counts : (n,) int64, the parts of each input
    k : int, the columns of a mask: the most parts of any input, or more
    most : int, the most parts of any input
    kind : shape without b, dtype and device of the rows; inputs of one kind share model batches
    keys : (n,) int64, seeds of the masks
    wanted : Wanted, the labels to explain
    extra : tuple of tensors (n, ...), further inputs of the model
    origin : (n, k) float64, the regressors of sample 0; None for ones
    shared : bool, True if samples 1 to s - 1 are the same rows for all inputs: the model is then asked n + s - 1 times
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
    shared = False
    one, parts = "input", "parts"

    def __len__(self) -> int:
        return len(self.counts)

    @stage("masks")
    def draw(self, sampler: Sampler, index: Tensor, samples: Tensor) -> Tensor:
        """Draw masks.

        Parameters
        ----------
        index, samples : int64 tensors that broadcast to (...)
            The number of the input, and that of the sample; 0 shows everything.

        Returns
        -------
        (..., k) bool, True if a part is shown; False beyond an input's count
        """
        counts = self.counts[index]
        masks = sampler(self.keys[index], samples, counts, self.k)
        return masks & (torch.arange(self.k, device=masks.device) < counts[..., None])

    def rows(self, index: Tensor, samples: Tensor, masks: Tensor) -> Tensor:
        """Rows of the model's input (b, ...), from the input (b,), the sample (b,) and the mask (b, k) bool of each."""
        raise NotImplementedError

    def regressors(self, index: Tensor, samples: Tensor, masks: Tensor) -> Tensor:
        """Columns (n, s, k) that the surrogate is fitted to: the masks, or numbers in any dtype that becomes float64."""
        del index, samples
        return masks

    def part(self, where: slice) -> Masked:
        """Some of the inputs."""
        raise NotImplementedError

    def explained(self, found: dict[str, Any]) -> Explanations:
        """The explanations of these inputs, from the tensors that every kind has."""
        return Explanations(**found)


class Masker(Protocol):
    """From a batch as people give it to inputs that can be masked, a few at a time: checks, parts, and what hides them."""

    def masked(self, batch: Any) -> Iterator[Masked]: ...
