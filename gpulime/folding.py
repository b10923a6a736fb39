"""What follows a convolution, folded into it: where a module runs on a CPU, a pass over the pixels less for each such step.

In eval mode BatchNorm is a scale and a shift of each channel, and so are the weights before it; a ReLU costs nothing while a
value is at hand. Nothing of the model is touched: while it runs, a mode of PyTorch sees each function that it calls. A
convolution whose output goes to a BatchNorm or a ReLU and nowhere else is, from then on, called so that it does both, and the
step behind it gives back what it gets.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain as joined
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, hardtanh, relu, relu6
from torch.overrides import TorchFunctionMode

Arguments = tuple[Any, ...]
Named = dict[str, Any]

# What may be asked of a tensor on its way to the next step; anything else is a use of its values.
LOOKS = {
    Tensor.dim,
    Tensor.size,
    *(getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device", "layout", "is_cuda", "requires_grad")),
}
WRITING_RELUS = {torch.relu_, Tensor.relu_}
RELUS = {relu, torch.relu, Tensor.relu, *WRITING_RELUS}

# Functions that make no NaN of finite numbers, short of overflow, by their names. A ReLU inside a convolution makes NaN a
# number, so behind any other function, a division say, it stays outside.
# fmt: off
FINITE = {
    "conv2d", "batch_norm", "linear", "relu", "relu_", "relu6", "hardtanh", "hardswish", "hardsigmoid", "silu", "sigmoid",
    "add", "add_", "__add__", "__radd__", "__iadd__", "sub", "sub_", "__sub__", "__isub__", "mul", "mul_", "__mul__",
    "__rmul__", "__imul__", "cat", "stack", "chunk", "split", "pad", "interpolate", "mean", "dropout", "max_pool2d",
    "avg_pool2d", "adaptive_avg_pool2d", "flatten", "view", "reshape", "permute", "transpose", "squeeze", "unsqueeze",
    "contiguous", "detach", "expand", "__getitem__", "__get__", "dim", "size", "numel", "gelu", "softmax", "_assert",
}
# fmt: on


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
    def of(cls, func: Any, kwargs: Named) -> Activation | None:
        """From the function that is called and its arguments by name; None for any other function."""
        writes = bool(kwargs.get("inplace")) or func in WRITING_RELUS
        if func in RELUS:
            return cls("relu", (), writes)
        if func is relu6:
            return cls("hardtanh", (0.0, 6.0), writes)
        if func is hardtanh:
            return cls("hardtanh", (float(kwargs["min_val"]), float(kwargs["max_val"])), writes)
        return None

    def same(self, other: Step) -> bool:
        """Whether ``other`` does the same."""
        return self == other


Step = Norm | Activation


@dataclass(frozen=True, eq=False)
class Chain:
    """A convolution's weights and the steps behind it; ``rest`` is stride, padding, dilation and groups."""

    weight: Tensor
    bias: Tensor | None
    rest: Arguments
    dtype: torch.dtype
    memory_format: torch.memory_format
    steps: tuple[Step, ...] = ()

    @property
    def activation(self) -> Activation | None:
        """The one at its end."""
        return self.steps[-1] if self.steps and isinstance(self.steps[-1], Activation) else None

    @cached_property
    def folded(self) -> tuple[Tensor, Tensor | None]:
        """The weights with those of the BatchNorm, in the output's dtype."""
        weight, bias = self.weight.detach(), self.bias
        if self.steps and isinstance(norm := self.steps[0], Norm):
            weight, bias = norm.into(weight, bias)
        weight = weight.to(self.dtype).contiguous(memory_format=self.memory_format)
        return weight, None if bias is None else bias.detach().to(self.dtype)

    def __call__(self, image: Tensor) -> Tensor:
        """The convolution and its steps, in one pass."""
        if (activation := self.activation) is None:
            return torch.conv2d(image, *self.folded, *self.rest)
        stride, padding, dilation, groups = self.rest
        shape = [[n, n] if isinstance(n, int) else n for n in (padding, stride, dilation)]
        act = activation.name, list(activation.limits), ""
        output: Tensor = torch.ops.mkldnn._convolution_pointwise(image.to(self.dtype), *self.folded, *shape, groups, *act)
        return output

    def tried(self, image: Tensor, expected: Tensor) -> Tensor | None:
        """What it gives for ``image``, or None where that is not what the steps gave one by one; one row is looked at."""
        if self.activation is not None and not _fuses(self.dtype, self.rest):
            return None
        output = self(image)
        if output.dtype != expected.dtype or output.stride() != expected.stride():
            return None
        actual, expected = output[:1], expected[:1]
        difference = (actual - expected).abs().max()  # half of the digits agree; NaN does not
        near = difference <= torch.finfo(expected.dtype).eps ** 0.5 * expected.abs().max()
        return output if near else None


class Place(NamedTuple):
    """How far a tensor is on its way through a chain, and the image that went in."""

    tensor: Tensor
    chain: Chain
    done: int
    image: Tensor


class Folding(TorchFunctionMode):
    """How one model's convolutions are called.

    The first rows are its trial: each step is done both ways there, and stands only if both give the same and nothing else
    takes what is between. Should a later call go another way (a branch that does take it), that call is made again without,
    and so are all that follow.
    """

    def __init__(self) -> None:
        super().__init__()
        self.chains: dict[int, Chain] = {}  # by the id of the convolution's weight, which the chain keeps alive
        # By the id of a tensor: on its way to the next step, in the trial or later, and what has been there and is still held.
        self._tried: dict[int, Place] = {}
        self._due: dict[int, Place] = {}
        self._spent: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()
        self._spent_at: dict[int, tuple[Tensor, int]] = {}
        self._trial, self._sound, self._finite = True, True, True

    @staticmethod
    def suits(module: nn.Module) -> bool:
        """Whether all that ``module`` does can be seen, no hook of the user's looks between its layers, and it has no NaN."""
        if torch.nn.modules.module._has_any_global_hook() or any(
            part._forward_hooks
            or part._forward_pre_hooks
            or isinstance(part, torch.jit.ScriptModule)
            or part._compiled_call_impl is not None
            or hasattr(part, "_orig_mod")  # of torch.compile
            for part in module.modules()
        ):
            return False
        return all(_is_finite(tensor) for tensor in joined(module.parameters(), module.buffers()))

    def forget(self) -> None:
        """The weights may have changed: fold them anew."""
        self.chains = {key: replace(chain) for key, chain in self.chains.items()}

    def __call__(self, model: Callable[[Tensor], Any], rows: Tensor) -> Any:
        """``model(rows)``."""
        if not self._sound:
            return model(rows)
        given = rows.clone() if self._trial else rows  # it may write into them, and be called again
        version = given._version
        self._finite = _is_finite(given)
        try:
            with self:
                outputs = model(given)
            self._sound = self._sound and given._version == version
            self._trial = False
        finally:
            for table in (self._tried, self._due, self._spent, self._spent_at):
                table.clear()
        return outputs if self._sound else model(rows)

    def __torch_function__(self, func: Any, types: Any, args: Arguments = (), kwargs: Named | None = None) -> Any:
        kwargs = kwargs or {}
        if torch.compiler.is_compiling():  # a compiled function in the model: what it takes cannot be seen again
            self._sound = False
            return func(*args, **kwargs)
        self._finite = self._finite and getattr(func, "__name__", "") in FINITE
        if args and (step := _step(func, args, kwargs)) is not None:
            key = id(args[0])
            if key in self._due and self._due[key].chain.steps[self._due[key].done].same(step):
                return self._pass(self._due.pop(key))
            if key in self._tried:
                return self._try(self._tried.pop(key), step, func(*args, **kwargs))
        if (self._tried or self._due or self._spent) and func not in LOOKS:
            self._use(*args, *kwargs.values())
        if func is torch.conv2d and len(args) == 7 and not kwargs and args[0].ndim == 4:  # as nn.Conv2d calls it
            return self._convolution(*args)
        return func(*args, **kwargs)

    def _convolution(self, image: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
        chain = self.chains.get(id(weight))
        if chain is not None and chain.bias is bias and chain.rest == rest and (self._finite or not chain.activation):
            output = chain(image)
            self._due[id(output)] = Place(output, chain, 0, image)
            return output
        output = torch.conv2d(image, weight, bias, *rest)
        own = isinstance(weight, nn.Parameter) and (bias is None or isinstance(bias, nn.Parameter))  # not made for this call
        if self._trial and own:
            last = output.is_contiguous(memory_format=torch.channels_last)
            memory_format = torch.channels_last if last else torch.contiguous_format
            self._tried[id(output)] = Place(output, Chain(weight, bias, rest, output.dtype, memory_format), 0, image)
        return output

    def _try(self, place: Place, step: Step, output: Tensor) -> Tensor:
        """A step, done, of something that nothing else has taken: it joins the chain if that gives the same."""
        _, chain, done, image = place
        suited = done == 0 and not step.training if isinstance(step, Norm) else self._finite
        longer = replace(chain, steps=(*chain.steps, step))
        if not suited or (folded := longer.tried(image, output)) is None:
            return output
        self.chains[id(chain.weight)] = longer
        if step.writes:
            return output.copy_(folded)
        self._spend(place)
        if isinstance(step, Norm):
            self._tried[id(folded)] = Place(folded, longer, done + 1, image)
        return folded

    def _pass(self, place: Place) -> Tensor:
        """A step that is done already: what it got, as another tensor, so that the two can be told apart, unless it writes."""
        tensor, chain, done, image = place
        output = tensor
        if not chain.steps[done].writes:
            self._spend(place)
            output = tensor.detach()
        if done + 1 < len(chain.steps):
            self._due[id(output)] = Place(output, chain, done + 1, image)
        return output

    def _spend(self, place: Place) -> None:
        self._spent[id(place.tensor)], self._spent_at[id(place.tensor)] = place.tensor, (place.chain.weight, place.done)

    def _use(self, *values: Any) -> None:
        """Something takes these: what the next step alone should have taken is not its own."""
        for key in map(id, _tensors(values)):
            self._tried.pop(key, None)
            if key in self._due or (key in self._spent and not self._trial):
                self._sound = False
            elif key in self._spent:  # the trial's own output is right: only what comes after it is not to be folded
                self._cut(*self._spent_at[key])

    def _cut(self, weight: Tensor, done: int) -> None:
        chain = self.chains.pop(id(weight), None)
        if chain is not None and done > 0:
            self.chains[id(weight)] = replace(chain, steps=chain.steps[:done])


def _step(func: Any, args: Arguments, kwargs: Named) -> Step | None:
    """What is called, if it can follow a convolution."""
    return Norm.of(args, kwargs) if func is batch_norm else Activation.of(func, kwargs)


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)


def _is_finite(tensor: Tensor) -> bool:
    """Whether all of it is, and its sum too: that is one pass."""
    return not tensor.is_floating_point() or bool(tensor.sum().isfinite())


def _fuses(dtype: torch.dtype, rest: Arguments) -> bool:
    """Whether PyTorch has a convolution with an activation inside, from oneDNN, for these."""
    known = dtype in (torch.float32, torch.bfloat16) and not any(isinstance(n, str) for n in rest)
    return known and bool(torch.backends.mkldnn.enabled) and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
