"""What can follow a convolution and be done with it: BatchNorm, and a ReLU or what cuts values off at both ends."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import batch_norm, hardtanh, relu, relu6

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
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Norm:
        """From batch_norm's arguments as it passes them on: input, mean and variance by place, the others by name."""
        return cls(args[1], args[2], kwargs["weight"], kwargs["bias"], kwargs["eps"], kwargs["training"])

    @property
    def writes(self) -> bool:
        """Whether it writes into its input."""
        return False

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """Its tensors."""
        return tuple(tensor for tensor in self[:4] if tensor is not None)

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
    def of(cls, func: Any, kwargs: dict[str, Any]) -> Activation:
        """From the function that is called, one of `ACTIVATIONS`, and its arguments by name."""
        writes = bool(kwargs.get("inplace")) or func in WRITING_RELUS
        if func in RELUS:
            return cls("relu", (), writes)
        limits = (0.0, 6.0) if func is relu6 else (float(kwargs["min_val"]), float(kwargs["max_val"]))
        return cls("hardtanh", limits, writes)

    @property
    def sources(self) -> tuple[Tensor, ...]:
        """Its tensors: none."""
        return ()

    def same(self, other: Step) -> bool:
        """Whether ``other`` does the same."""
        return self == other


Step = Norm | Activation


def step_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Step | None:
    """What is called, if it can follow a convolution."""
    if func is batch_norm:
        return Norm.of(args, kwargs)
    return Activation.of(func, kwargs) if func in ACTIVATIONS else None
