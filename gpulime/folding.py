"""BatchNorm folded into the convolution before it: where a module runs on a CPU, one pass over the pixels less for each pair.

In eval mode BatchNorm is a scale and a shift of each channel, and so are the weights before it. Nothing of the model is
touched: while it runs, a mode of PyTorch sees each function it calls. A convolution whose output goes to a BatchNorm and
nowhere else is, from then on, called with weights that hold both, and the BatchNorm gives back what it gets.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.overrides import TorchFunctionMode

Arguments = tuple[Any, ...]

# What may be asked of a convolution's output on its way to the BatchNorm; anything else is a use of its values.
LOOKS = {
    Tensor.dim,
    Tensor.size,
    *(getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device", "layout", "is_cuda", "requires_grad")),
}


class Norm(NamedTuple):
    """A BatchNorm; every tensor is (channels,)."""

    mean: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float
    training: bool

    @classmethod
    def of(cls, args: Arguments, kwargs: dict[str, Any]) -> Norm:
        """From batch_norm's arguments as it passes them on: input, mean and variance by place, the others by name."""
        return cls(args[1], args[2], kwargs["weight"], kwargs["bias"], kwargs["eps"], kwargs["training"])

    def same(self, other: Norm) -> bool:
        """Whether these are the very tensors of ``other``."""
        return all(mine is its for mine, its in zip(self[:4], other[:4], strict=True)) and self[4:] == other[4:]

    def into(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """The weights (channels, ...) and biases (channels,) of a convolution and this, one after the other; float64."""
        scale = (self.var.double() + self.eps).rsqrt()
        if self.weight is not None:
            scale = scale * self.weight
        shift = -self.mean.double() if bias is None else bias.double() - self.mean
        shift = shift * scale if self.bias is None else shift * scale + self.bias
        return weight.double() * scale.view(-1, *[1] * (weight.ndim - 1)), shift


@dataclass
class Pair:
    """A convolution's weights and the BatchNorm that follows; ``folded`` are both in one, in the dtype of their output."""

    weight: Tensor
    bias: Tensor | None
    norm: Norm
    dtype: torch.dtype
    memory_format: torch.memory_format
    folded: tuple[Tensor, Tensor] | None = None

    def weights(self) -> tuple[Tensor, Tensor]:
        """Made once, until ``folded`` is forgotten."""
        if self.folded is None:
            weight, bias = self.norm.into(self.weight, self.bias)
            self.folded = weight.to(self.dtype).contiguous(memory_format=self.memory_format), bias.to(self.dtype)
        return self.folded


class Call(NamedTuple):
    """A convolution that has been called as it is, and what came of it."""

    image: Tensor
    weight: Tensor
    bias: Tensor | None
    rest: Arguments
    output: Tensor


class Folding(TorchFunctionMode):
    """How one model's convolutions are called.

    The first rows are its trial: each convolution there is called both ways, and a pair stands only if both give the same and
    nothing else takes the convolution's own output. Should a later call go another way (a branch that does take it), that call
    is made again without, and so are all that follow.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pairs: dict[int, Pair] = {}  # by the id of the convolution's weight, which the pair keeps alive
        # By the id of a convolution's output: calls as they are and folded ones, on their way to the BatchNorm, then what has
        # been there and is still held by someone.
        self._tried: dict[int, Call] = {}
        self._due: dict[int, tuple[Tensor, Pair]] = {}
        self._spent: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()
        self._pair_of: dict[int, Pair] = {}
        self._trial, self._sound = True, True

    @staticmethod
    def suits(module: nn.Module) -> bool:
        """Whether all that ``module`` does can be seen, and no hook of the user's looks between its layers."""
        return not torch.nn.modules.module._has_any_global_hook() and not any(
            part._forward_hooks
            or part._forward_pre_hooks
            or isinstance(part, torch.jit.ScriptModule)
            or part._compiled_call_impl is not None
            or hasattr(part, "_orig_mod")  # of torch.compile
            for part in module.modules()
        )

    def forget(self) -> None:
        """The weights may have changed: fold them anew."""
        for pair in self.pairs.values():
            pair.folded = None

    def __call__(self, model: Callable[[Tensor], Any], rows: Tensor) -> Any:
        """``model(rows)``."""
        if not self._sound:
            return model(rows)
        given = rows.clone() if self._trial else rows  # it may write into them, and be called again
        version = given._version
        try:
            with self:
                outputs = model(given)
            self._sound = self._sound and given._version == version
            self._trial = False
        finally:
            for table in (self._tried, self._due, self._spent, self._pair_of):
                table.clear()
        return outputs if self._sound else model(rows)

    def __torch_function__(self, func: Any, types: Any, args: Arguments = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if torch.compiler.is_compiling():  # a compiled function in the model: what it takes cannot be seen again
            self._sound = False
            return func(*args, **kwargs)
        if func is batch_norm and id(args[0]) in self._due:
            return self._pass(*self._due.pop(id(args[0])), args, kwargs)
        if func is batch_norm and id(args[0]) in self._tried:
            return self._try(self._tried.pop(id(args[0])), args, kwargs)
        if (self._tried or self._due or self._spent) and func not in LOOKS:
            self._use(*args, *kwargs.values())
        if func is torch.conv2d and len(args) > 2 and not kwargs:  # as nn.Conv2d calls it
            return self._convolution(*args)
        return func(*args, **kwargs)

    def _convolution(self, image: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
        pair = self.pairs.get(id(weight))
        if pair is not None and pair.bias is bias:
            output = torch.conv2d(image, *pair.weights(), *rest)
            self._due[id(output)] = output, pair
            return output
        output = torch.conv2d(image, weight, bias, *rest)
        own = isinstance(weight, nn.Parameter) and (bias is None or isinstance(bias, nn.Parameter))  # not made for this call
        if self._trial and own:
            self._tried[id(output)] = Call(image, weight, bias, rest, output)
        return output

    def _try(self, call: Call, args: Arguments, kwargs: dict[str, Any]) -> Tensor:
        """The BatchNorm of an output that nothing else has taken: both ways, and a pair if they agree."""
        plain, norm = batch_norm(*args, **kwargs), Norm.of(args, kwargs)
        if norm.training:
            return plain
        last = call.output.is_contiguous(memory_format=torch.channels_last)
        memory_format = torch.channels_last if last else torch.contiguous_format
        pair = Pair(call.weight, call.bias, norm, call.output.dtype, memory_format)
        folded = torch.conv2d(call.image, *pair.weights(), *call.rest)
        if not _near(folded, plain):
            return plain
        self.pairs[id(call.weight)] = pair
        self._spend(call.output, pair)
        return folded

    def _pass(self, output: Tensor, pair: Pair, args: Arguments, kwargs: dict[str, Any]) -> Tensor:
        """The BatchNorm of an output that is its own already; another tensor, so that the two can be told apart."""
        self._sound = self._sound and pair.norm.same(Norm.of(args, kwargs))
        self._spend(output, pair)
        return output.detach()

    def _spend(self, output: Tensor, pair: Pair) -> None:
        self._spent[id(output)], self._pair_of[id(output)] = output, pair

    def _use(self, *values: Any) -> None:
        """Something takes these: what the BatchNorm alone should have taken is not its own."""
        for key in map(id, _tensors(values)):
            self._tried.pop(key, None)
            if key in self._due:
                self._sound = False
            elif key in self._spent:  # the trial's own output is right: only what comes after it is not to be folded
                self._sound = self._sound and self._trial and self.pairs.pop(id(self._pair_of[key].weight), None) is not None


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)


def _near(actual: Tensor, expected: Tensor) -> bool:
    """Whether they differ by rounding alone: half of the digits of their dtype agree."""
    difference = (actual - expected).abs().max()
    return bool(difference <= torch.finfo(expected.dtype).eps ** 0.5 * expected.abs().max())
