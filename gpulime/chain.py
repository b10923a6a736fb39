"""A convolution and the steps behind it, done in one pass: BatchNorm in its weights, a ReLU while a value is at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import batch_norm, hardtanh, relu, relu6

Arguments = tuple[Any, ...]
Named = dict[str, Any]

WRITING_RELUS = {torch.relu_, Tensor.relu_}
RELUS = {relu, torch.relu, Tensor.relu, *WRITING_RELUS}
ACTIVATIONS = {*RELUS, relu6, hardtanh}


class Norm(NamedTuple):
    """A BatchNorm; every tensor is (channels,)."""

    mean: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float
    training: bool

    @classmethod
    def of(cls, args: Arguments, kwargs: Named) -> Norm:
        """From batch_norm's arguments as it passes them on: input, mean and variance by place, the others by name."""
        return cls(args[1], args[2], kwargs["weight"], kwargs["bias"], kwargs["eps"], kwargs["training"])

    @property
    def writes(self) -> bool:
        """Whether it writes into its input."""
        return False

    def same(self, other: Step) -> bool:
        """Whether ``other`` has these very tensors."""
        if not isinstance(other, Norm):
            return False
        return all(mine is its for mine, its in zip(self[:4], other[:4], strict=True)) and self[4:] == other[4:]

    def into(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """The weights (channels, ...) and biases (channels,) of a convolution and this, one after the other; float64."""
        scale = (self.var.double() + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        shift = -self.mean.double() if bias is None else bias.double() - self.mean
        shift = shift * scale if self.bias is None else shift * scale + self.bias
        return weight.double() * scale.view(-1, *[1] * (weight.ndim - 1)), shift


class Activation(NamedTuple):
    """A ReLU or what cuts values off at both ends, by oneDNN's name; ``writes`` where it writes into its input."""

    name: str
    limits: tuple[float, ...]
    writes: bool

    @classmethod
    def of(cls, func: Any, kwargs: Named) -> Activation:
        """From the function that is called, one of `ACTIVATIONS`, and its arguments by name."""
        writes = bool(kwargs.get("inplace")) or func in WRITING_RELUS
        if func in RELUS:
            return cls("relu", (), writes)
        limits = (0.0, 6.0) if func is relu6 else (float(kwargs["min_val"]), float(kwargs["max_val"]))
        return cls("hardtanh", limits, writes)

    def same(self, other: Step) -> bool:
        """Whether ``other`` does the same."""
        return self == other


Step = Norm | Activation


class Folded(NamedTuple):
    """The weights and biases of a convolution and the BatchNorm behind it.

    ``sources`` are the tensors that they are made of and keep their memory, so that no other can be at its place; ``state`` is
    theirs.
    """

    weight: Tensor
    bias: Tensor | None
    sources: list[Tensor]
    state: list[tuple[int, int]]
    is_finite: bool


@dataclass(frozen=True, eq=False)
class Chain:
    """A convolution and the steps behind it, as they were in the trial.

    Attributes
    ----------
    weight, bias : the convolution's own
    rest : stride, padding, dilation, groups
    kind : what its image was like, by `kind_of`
    dtype, memory_format : of its output
    """

    weight: Tensor
    bias: Tensor | None
    rest: Arguments
    kind: Arguments
    dtype: torch.dtype
    memory_format: torch.memory_format
    steps: tuple[Step, ...] = ()

    @property
    def norm(self) -> Norm | None:
        """The one at its start."""
        return self.steps[0] if self.steps and isinstance(self.steps[0], Norm) else None

    @property
    def activation(self) -> Activation | None:
        """The one at its end."""
        return self.steps[-1] if self.steps and isinstance(self.steps[-1], Activation) else None

    def and_then(self, step: Step) -> Chain:
        """With another step behind it; an activation leaves the weights as they are."""
        longer = replace(self, steps=(*self.steps, step))
        if isinstance(step, Activation):
            longer.__dict__["folded"] = self.folded
        return longer

    @cached_property
    def folded(self) -> Folded:
        """The weights with those of the BatchNorm, in the output's dtype."""
        weight, bias = self.weight.detach(), self.bias
        if self.norm is not None:
            weight, bias = self.norm.into(weight, bias)
        weight = weight.to(self.dtype).contiguous(memory_format=self.memory_format)
        bias = None if bias is None else bias.detach().to(self.dtype)
        sources = [tensor.detach() for tensor in self.sources()]
        return Folded(weight, bias, sources, self.state(), all_finite([weight, bias]))

    def sources(self) -> list[Tensor]:
        """The tensors that are folded."""
        return [tensor for tensor in (self.weight, self.bias, *(self.norm or ())[:4]) if tensor is not None]

    def state(self) -> list[tuple[int, int]]:
        """What changes where one of them is written to, or gets other memory."""
        return [(tensor._version, tensor.data_ptr()) for tensor in self.sources()]

    def serves(self, image: Tensor, weight: Tensor, bias: Tensor | None, rest: Arguments) -> bool:
        """Whether a call is of this convolution, on such an image as in the trial, with weights unchanged since."""
        same = self.weight is weight and self.bias is bias and self.rest == rest
        return same and self.kind == kind_of(image, weight) and self.folded.state == self.state()

    def __call__(self, image: Tensor) -> Tensor:
        """The convolution and its steps, in one pass."""
        if (activation := self.activation) is None:
            return torch.conv2d(image, *self.folded[:2], *self.rest)
        stride, padding, dilation, groups = self.rest
        shape = [[n, n] if isinstance(n, int) else n for n in (padding, stride, dilation)]
        act = activation.name, list(activation.limits), ""
        output: Tensor = torch.ops.mkldnn._convolution_pointwise(image.to(self.dtype), *self.folded[:2], *shape, groups, *act)
        return output

    def tried(self, image: Tensor, expected: Tensor) -> Tensor | None:
        """What it gives for ``image``, or None where the steps one by one give another first row than ``expected`` has."""
        if expected.numel() == 0 or (self.activation is not None and not _fuses(self.dtype, self.rest)):
            return None
        try:
            output = self(image)
        except RuntimeError:  # no such kernel on this processor
            return None
        if output.dtype != expected.dtype or output.stride()[1:] != expected.stride()[1:] or not self.folded.is_finite:
            return None
        actual, expected = output[:1], expected[:1]
        difference = (actual - expected).abs().max()  # half of the digits agree; NaN does not
        near = difference <= torch.finfo(expected.dtype).eps ** 0.5 * expected.abs().max()
        return output if near else None


def step_of(func: Any, args: Arguments, kwargs: Named) -> Step | None:
    """What is called, if it can follow a convolution."""
    if func is batch_norm:
        return Norm.of(args, kwargs)
    return Activation.of(func, kwargs) if func in ACTIVATIONS else None


def kind_of(image: Tensor, weight: Tensor) -> Arguments:
    """What decides a convolution's arithmetic and the layout of its output."""
    last = image.is_contiguous(memory_format=torch.channels_last)
    return image.dtype, weight.dtype, weight.stride(), last, torch.is_autocast_enabled("cpu")


def all_finite(tensors: Sequence[Tensor | None]) -> bool:
    """Whether they are, and the sum of each too: that is one pass."""
    return all(tensor is None or bool(tensor.sum().isfinite()) for tensor in tensors)


def _fuses(dtype: torch.dtype, rest: Arguments) -> bool:
    """Whether PyTorch has a convolution with an activation inside, from oneDNN, for these."""
    known = dtype in (torch.float32, torch.bfloat16) and not any(isinstance(n, str) for n in rest)
    return known and bool(torch.backends.mkldnn.enabled) and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
