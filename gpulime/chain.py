"""A convolution and the steps behind it, done in one pass: BatchNorm in its weights, a ReLU while a value is at hand."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from gpulime.border import Border
from gpulime.steps import Activation, Norm, Step

Arguments = tuple[Any, ...]
# How far both ways may be apart, of the largest value: some roundings; for the short dtypes, half of the digits.
TOLERANCE = {
    **{dtype: 64 * torch.finfo(dtype).eps for dtype in (torch.float64, torch.float32)},
    **{dtype: torch.finfo(dtype).eps ** 0.5 for dtype in (torch.bfloat16, torch.float16)},
}


class Folded(NamedTuple):
    """The weights and biases of a convolution and the BatchNorm behind it.

    ``sources`` are the tensors that they are made of and keep their memory, so that no other can be at its place; ``state`` is
    theirs. Once ``is_packed``, the weight is in the order that suits the images to come.
    """

    weight: Tensor
    bias: Tensor | None
    sources: list[Tensor]
    state: list[tuple[int, int]]
    is_finite: bool
    is_packed: bool = False


@dataclass(frozen=True, eq=False)
class Chain:
    """A convolution and the steps behind it, as they were in the trial.

    Attributes
    ----------
    weight, bias : the convolution's own
    rest : stride, padding, dilation, groups
    kind : what its image was like, by `kind_of`
    dtype, memory_format : of its output
    border : zeros that are put around its image first
    """

    weight: Tensor
    bias: Tensor | None
    rest: Arguments
    kind: Arguments
    dtype: torch.dtype
    memory_format: torch.memory_format
    border: Border | None = None
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
        if self.border is not None:
            weight = pad(weight, self.border.widening)
        weight = weight.to(self.dtype).contiguous(memory_format=self.memory_format)
        bias = None if bias is None else bias.detach().to(self.dtype)
        sources = [tensor.detach() for tensor in self.sources()]
        return Folded(weight, bias, sources, self.state(), all_finite([weight, bias]))

    def sources(self) -> list[Tensor]:
        """The tensors that are folded."""
        own = [self.weight] if self.bias is None else [self.weight, self.bias]
        return own if self.norm is None else [*own, *self.norm.sources]

    def state(self) -> list[tuple[int, int]]:
        """What changes where one of them is written to, or gets other memory."""
        return [(tensor._version, tensor.data_ptr()) for tensor in self.sources()]

    @property
    def is_current(self) -> bool:
        """Whether none of them has changed since."""
        return self.folded.state == self.state()

    def serves(self, image: Tensor, border: Border | None, weight: Tensor, bias: Tensor | None, rest: Arguments) -> bool:
        """Whether a call is of this convolution, on such an image as in the trial, with weights unchanged since."""
        same = self.weight is weight and self.bias is bias and self.rest == rest and self.border == border
        return same and self.kind == kind_of(image, weight) and self.is_current

    def __call__(self, image: Tensor) -> Tensor:
        """The convolution and its steps, in one pass."""
        self._pack(image.shape)
        weight, bias = self.folded[:2]
        stride, padding, dilation, groups = self._rest_with_border
        if self.activation is None and not weight.is_mkldnn:
            return torch.conv2d(image, weight, bias, stride, padding, dilation, groups)
        act = (self.activation.name, list(self.activation.limits), "") if self.activation else ("none", [], "")
        way = padding, stride, dilation, groups
        output: Tensor = torch.ops.mkldnn._convolution_pointwise(image.to(self.dtype), weight, bias, *way, *act)
        return output

    @property
    def needs_finite(self) -> bool:
        """Whether it makes something else of a NaN or an infinity: a ReLU inside does, and so does a weight of 0 beside it."""
        return self.activation is not None or (self.border is not None and any(self.border.widening))

    def tried(self, image: Tensor, expected: Tensor, times: int = 1) -> Tensor | None:
        """What it gives for ``image``, or None where that is not what the steps give one by one: ``expected``.

        ``times`` as many images are to come.
        """
        if expected.numel() == 0 or (self.activation is not None and not self._fuses):
            return None
        try:
            self._pack((image.shape[0] * times, *image.shape[1:]))
            output = self(image)
        except RuntimeError:  # no such kernel on this processor
            return None
        if (
            output.dtype != expected.dtype
            or output.dtype not in TOLERANCE
            or output.stride()[1:] != expected.stride()[1:]
            or not self.folded.is_finite
        ):
            return None
        near = _largest(output - expected) <= TOLERANCE[expected.dtype] * _largest(expected)  # NaN is not
        return output if near else None

    def _pack(self, shape: Sequence[int]) -> None:
        """Put the weights in the order in which oneDNN reads them for such images: else it makes it at every call."""
        if self.folded.is_packed:
            return
        weight = self.folded.weight
        if self._fuses and self.kind[3] and self.memory_format is torch.channels_last:  # plain planes take another kernel then
            with contextlib.suppress(RuntimeError):
                order: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
                stride, padding, dilation, groups = self._rest_with_border
                weight = order(weight.to_mkldnn(), padding, stride, dilation, groups, list(shape))
        self.__dict__["folded"] = self.folded._replace(weight=weight, is_packed=True)

    @cached_property
    def _rest_with_border(self) -> Arguments:
        """Stride, padding, dilation (each for height and width, or a word) and groups, the border among the padding."""
        *pairs, groups = self.rest
        stride, padding, dilation = ([n, n] if isinstance(n, int) else n for n in pairs)
        if self.border is not None:
            padding = [n + more for n, more in zip(padding, self.border.padding, strict=True)]
        return stride, padding, dilation, groups

    @property
    def _fuses(self) -> bool:
        """Whether oneDNN does it, from where a convolution comes with an activation inside."""
        is_there = torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
        if any(isinstance(n, str) for n in self.rest) or not is_there:
            return False
        here = self.dtype is torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return self.dtype is torch.float32 or here


def kind_of(image: Tensor, weight: Tensor) -> Arguments:
    """What decides a convolution's arithmetic and the layout of its output."""
    last = image.is_contiguous(memory_format=torch.channels_last)
    autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu")
    return image.dtype, weight.dtype, weight.stride(), last, autocast


def _largest(images: Tensor) -> Tensor:
    """The largest absolute value, in one pass in the order of the memory; NaN where there is one."""
    in_order = images.permute(0, 2, 3, 1) if images.is_contiguous(memory_format=torch.channels_last) else images
    low, high = torch.aminmax(in_order.reshape(-1))
    return torch.maximum(-low, high)


def all_finite(tensors: Sequence[Tensor | None]) -> bool:
    """Whether they are, and the sum of each too: that is one pass."""
    return all(tensor is None or bool(tensor.sum().isfinite()) for tensor in tensors)
