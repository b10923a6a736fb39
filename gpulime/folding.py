"""What follows a convolution, folded into it: where a module runs on a CPU, a pass over the pixels less for each such step.

In eval mode BatchNorm is a scale and a shift of each channel, and so are the weights before it; a ReLU costs nothing while a
value is at hand. Nothing of the model is touched: while it runs, a mode of PyTorch sees each function that it calls. A
convolution whose output goes to a BatchNorm or a ReLU and nowhere else is, from then on, called so that it does both, and the
step behind it gives back what it gets.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, hardtanh, max_pool2d, pad, relu, relu6
from torch.overrides import TorchFunctionMode

from gpulime.errors import check

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
ACTIVATIONS = {*RELUS, relu6, hardtanh}
SUMS = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__, torch.cat}


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
    kind : what its image was like, by `_kind`
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
        return Folded(weight, bias, sources, self.state(), _all_finite([weight, bias]))

    def sources(self) -> list[Tensor]:
        """The tensors that are folded."""
        return [tensor for tensor in (self.weight, self.bias, *(self.norm or ())[:4]) if tensor is not None]

    def state(self) -> list[tuple[int, int]]:
        """What changes where one of them is written to, or gets other memory."""
        return [(tensor._version, tensor.data_ptr()) for tensor in self.sources()]

    def serves(self, image: Tensor, weight: Tensor, bias: Tensor | None, rest: Arguments) -> bool:
        """Whether a call is of this convolution, on such an image as in the trial, with weights unchanged since."""
        same = self.weight is weight and self.bias is bias and self.rest == rest
        return same and self.kind == _kind(image, weight) and self.folded.state == self.state()

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


class Place(NamedTuple):
    """How far a tensor is on its way through a chain, and the image that went in, at a version of it."""

    tensor: Tensor
    chain: Chain
    done: int
    image: Tensor
    version: int


class Folding(TorchFunctionMode):
    """How one model's convolutions are called, for as long as its weights are what they are.

    The first rows are its trial: each step is done both ways there, and stands only if both give the same and what is between
    goes nowhere else: it must be gone when the next function is called. Where something of the kind happens later (a branch
    that takes it), that call is made again without, and so are all that follow; so a model may see one call more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.chains: dict[int, Chain] = {}  # by the id of the convolution's weight, which the chain keeps alive
        # By the id of a tensor: on its way to the next step, in the trial or later; what has been there, and what to cut then
        # if it is held; what is known to be finite, at a version of it.
        self._tried: dict[int, Place] = {}
        self._due: dict[int, Place] = {}
        self._spent: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()
        self._cuts: dict[int, tuple[Tensor, int]] = {}
        self._finite: weakref.WeakValueDictionary[int, Tensor] = weakref.WeakValueDictionary()
        self._finite_at: dict[int, int] = {}
        self._given = 0  # the id of what the last step gave
        self._trial, self._sound, self._folded = True, True, False
        self._free = Lock()

    @staticmethod
    def suits(module: nn.Module) -> bool:
        """Whether all that ``module`` does can be seen, and no hook of the user's looks between its layers."""
        if torch.nn.modules.module._has_any_global_hook() or torch._C._len_torch_function_stack() > 0:
            return False
        return not any(
            part._forward_hooks
            or part._forward_pre_hooks
            or isinstance(part, torch.jit.ScriptModule)
            or part._compiled_call_impl is not None
            or hasattr(part, "_orig_mod")  # of torch.compile
            for part in module.modules()
        )

    def __call__(self, model: Callable[[Tensor], Any], rows: Tensor) -> Any:
        """``model(rows)``."""
        if not self._sound or not self._free.acquire(blocking=False):  # or another thread is in it
            return model(rows)
        trial, version, self._folded = self._trial, rows._version, False
        try:
            with self:
                outputs = model(rows.clone() if trial else rows)  # it may write into them, and be called again
            self._outlived()
            if trial and self._sound:
                self._trial, self._sound = False, bool(self.chains)  # where there are none, nothing is to be won
                return outputs
        except BaseException as error:
            if trial:
                self.chains.clear()
            if not (isinstance(error, Exception) and self._folded and rows._version == version):
                raise
            outputs = model(rows)  # raises where the error is its own
            self._sound = False
            return outputs
        finally:
            for table in (self._tried, self._due, self._spent, self._cuts, self._finite, self._finite_at):
                table.clear()
            self._free.release()
        if self._sound:
            return outputs
        check(rows._version == version, "the model changes its ways and writes into its input: take one that copies")
        return model(rows)

    def __torch_function__(self, func: Any, types: Any, args: Arguments = (), kwargs: Named | None = None) -> Any:
        kwargs = kwargs or {}
        if func in LOOKS:
            return func(*args, **kwargs)
        if torch.compiler.is_compiling():  # a compiled function in the model: what it takes cannot be seen again
            self._sound = False
            return func(*args, **kwargs)
        if self._spent and [id(tensor) for tensor in _tensors((*args, *kwargs.values()))] != [self._given]:
            self._outlived()  # but for a caller that holds what it is just passing on
        if (self._tried or self._due) and args and (step := _step(func, args, kwargs)) is not None:
            key = id(args[0])
            if key in self._due and self._due[key].chain.steps[self._due[key].done].same(step):
                return self._pass(self._due.pop(key))
            if key in self._tried:
                return self._try(self._tried.pop(key), step, lambda tensor: func(tensor, *args[1:], **kwargs))
        for tensor in _tensors((*args, *kwargs.values())) if self._tried or self._due else ():
            self._tried.pop(id(tensor), None)
            self._sound = self._sound and id(tensor) not in self._due
        if func is torch.conv2d and len(args) == 7 and not kwargs and _is_plain(args[0]):  # as nn.Conv2d calls it
            return self._convolution(*args)
        output = func(*args, **kwargs)
        if _keeps_finite(func, args, kwargs) and all(map(self._knows, _tensors((*args, *kwargs.values())))):
            self._note(output)
        return output

    def _convolution(self, image: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
        chain = self.chains.get(id(weight))
        # A ReLU inside a convolution makes NaN a number, and nobody would see it.
        if chain and chain.serves(image, weight, bias, rest) and (not chain.activation or self._is_finite(image)):
            self._folded = True
            output = chain(image)
            self._due[id(output)] = Place(output, chain, 0, image, image._version)
            if self._knows(image):
                self._note(output)
            return output
        output = torch.conv2d(image, weight, bias, *rest)
        own = isinstance(weight, nn.Parameter) and (bias is None or isinstance(bias, nn.Parameter))  # not made for this call
        if self._trial and own and chain is None:
            last = output.is_contiguous(memory_format=torch.channels_last)
            memory_format = torch.channels_last if last else torch.contiguous_format
            chain = Chain(weight, bias, rest, _kind(image, weight), output.dtype, memory_format)
            self._tried[id(output)] = Place(output, chain, 0, image, image._version)
        return output

    def _try(self, place: Place, step: Step, do: Callable[[Tensor], Tensor]) -> Tensor:
        """A step of something that nothing else has taken: it joins the chain if that gives the same."""
        tensor, chain, done, image, version = place
        suited = done == 0 and not step.training if isinstance(step, Norm) else self._is_finite(image)
        if not suited or image._version != version:
            return do(tensor)
        longer = chain.and_then(step)
        first = do(tensor[:1].clone() if step.writes else tensor[:1])  # in eval mode no row knows of another
        if (folded := longer.tried(image, first)) is None:
            return do(tensor)
        self.chains[id(chain.weight)], self._folded = longer, True
        if step.writes:
            return tensor.copy_(folded)
        self._spent[id(tensor)], self._cuts[id(tensor)] = tensor, (chain.weight, done)
        if isinstance(step, Norm):
            self._tried[id(folded)] = Place(folded, longer, done + 1, image, version)
        return self._give(folded, self._knows(image))

    def _pass(self, place: Place) -> Tensor:
        """A step that is done already: what it got, as another tensor, so that the two can be told apart, unless it writes."""
        tensor, chain, done, image, version = place
        output = tensor
        if not chain.steps[done].writes:
            self._spent[id(tensor)] = tensor
            output = tensor.detach()
        if done + 1 < len(chain.steps):
            self._due[id(output)] = Place(output, chain, done + 1, image, version)
        return self._give(output, self._knows(tensor))

    def _give(self, output: Tensor, finite: bool) -> Tensor:
        self._given = id(output)
        if finite:
            self._note(output)
        return output

    def _outlived(self) -> None:
        """What should be gone is held by someone, who may take it: no chain may pass there."""
        for key, _ in list(self._spent.items()):
            if key in self._cuts:  # in the trial it is what it should be: only what comes after is not to be folded
                weight, done = self._cuts.pop(key)
                chain = self.chains.pop(id(weight), None)
                if chain is not None and done > 0:
                    self.chains[id(weight)] = replace(chain, steps=chain.steps[:done])
            else:
                self._sound = False
            self._spent.pop(key, None)

    def _is_finite(self, tensor: Tensor) -> bool:
        if not self._knows(tensor) and _all_finite([tensor]):
            self._note(tensor)
        return self._knows(tensor)

    def _knows(self, tensor: Tensor) -> bool:
        return self._finite.get(id(tensor)) is tensor and self._finite_at[id(tensor)] == tensor._version

    def _note(self, tensor: Tensor) -> None:
        self._finite[id(tensor)], self._finite_at[id(tensor)] = tensor, tensor._version


def _step(func: Any, args: Arguments, kwargs: Named) -> Step | None:
    """What is called, if it can follow a convolution."""
    if func is batch_norm:
        return Norm.of(args, kwargs)
    return Activation.of(func, kwargs) if func in ACTIVATIONS else None


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)
        elif isinstance(value, dict):
            yield from _tensors(value.values())


def _is_plain(image: Tensor) -> bool:
    """Whether it is a batch, and nothing transforms or differentiates what is done to it."""
    return image.ndim == 4 and not torch.is_grad_enabled() and torch._C._functorch.peek_interpreter_stack() is None


def _kind(image: Tensor, weight: Tensor) -> Arguments:
    """What decides a convolution's arithmetic and the layout of its output."""
    last = image.is_contiguous(memory_format=torch.channels_last)
    return image.dtype, weight.dtype, weight.stride(), last, torch.is_autocast_enabled("cpu")


def _keeps_finite(func: Any, args: Arguments, kwargs: Named) -> bool:
    """Whether it gives finite numbers for finite tensors, short of overflow."""
    if func in SUMS:
        return not kwargs and not any(isinstance(arg, float | complex) for arg in args)
    return func is max_pool2d or (func is pad and not kwargs.get("value"))


def _all_finite(tensors: Sequence[Tensor | None]) -> bool:
    """Whether they are, and the sum of each too: that is one pass."""
    return all(tensor is None or bool(tensor.sum().isfinite()) for tensor in tensors)


def _fuses(dtype: torch.dtype, rest: Arguments) -> bool:
    """Whether PyTorch has a convolution with an activation inside, from oneDNN, for these."""
    known = dtype in (torch.float32, torch.bfloat16) and not any(isinstance(n, str) for n in rest)
    return known and bool(torch.backends.mkldnn.enabled) and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
