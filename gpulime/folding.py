"""What follows a convolution, folded into it: where a module runs on a CPU, a pass over the pixels less for each such step.

In eval mode BatchNorm is a scale and a shift of each channel, and so are the weights before it; a ReLU costs nothing while a
value is at hand. Nothing of the model is touched: while it runs, a mode of PyTorch sees each function that it calls. A
convolution whose output goes to a BatchNorm or a ReLU and nowhere else is, from then on, called so that it does both, and the
step behind it gives back what it gets. So it is with zeros around the image, which a convolution can do without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.functional import max_pool2d, pad
from torch.overrides import TorchFunctionMode

from gpulime.border import Border, Bordered, with_borders
from gpulime.chain import Arguments, Chain, all_finite, kind_of
from gpulime.errors import check
from gpulime.of_tensors import OfTensors
from gpulime.steps import Norm, Step, step_of

# What may be asked of a tensor on its way to the next step; anything else is a use of its values.
LOOKS = {
    Tensor.dim,
    Tensor.size,
    *(getattr(Tensor, name).__get__ for name in ("shape", "ndim", "dtype", "device", "layout", "is_cuda", "requires_grad")),
}
# What hands out a tensor's memory without a trace of what is written there.
BARES_MEMORY = {
    Tensor.data.__get__,  # type: ignore[attr-defined]
    Tensor.data.__set__,  # type: ignore[attr-defined]
    Tensor.numpy,
    Tensor.__array__,
    Tensor.__dlpack__,
    Tensor.untyped_storage,
    Tensor.storage,
    Tensor.data_ptr,
}
PLAIN = {Tensor, nn.Parameter, Bordered}  # what does nothing of its own when a function is called with it
JOINS = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__, torch.cat}
MANY, FEW = 8, 4  # of so many rows or more, so few are the trial


class Place(NamedTuple):
    """How far a tensor is on its way through a chain, and the image that went in, at a version of it."""

    tensor: Tensor
    chain: Chain
    done: int
    image: Tensor
    version: int

    def is_before(self, step: Step) -> bool:
        """Whether ``step`` comes next in the chain, with the weights that it has been folded with."""
        return self.chain.steps[self.done].same(step) and self.chain.is_current


class Inner(NamedTuple):
    """An image that has been given a border, and its version and that of the bordered one then."""

    image: Tensor
    border: Border
    version: int
    outer: int

    def is_in(self, bordered: Tensor) -> bool:
        """Whether both are still what they were."""
        made = isinstance(bordered, Bordered) and bordered.is_made  # it may have been written to
        return not made and self.image._version == self.version and bordered._version == self.outer


class Cut(NamedTuple):
    """Where the chain of a convolution's weight ends if what is between its steps has another use: after so many of them."""

    weight: Tensor
    done: int


class Folding(TorchFunctionMode):
    """How one model's convolutions are called, for as long as its weights are what they are.

    The first rows are its trial, a few of many, for which the model is called once more: each step is done both ways there, and
    stands only if both give the same and what is between goes nowhere else: it must be gone when the next function is called.
    Where something of the kind happens later (a branch that takes it), that call is made again without, and so are all that
    follow; what the model keeps of the first one may be wrong.
    """

    def __init__(self) -> None:
        super().__init__()
        self.chains: dict[int, Chain] = {}  # by the id of the convolution's weight, which the chain keeps alive
        # By the id of a tensor: on its way to the next step, in the trial or later.
        self._tried: dict[int, Place] = {}
        self._due: dict[int, Place] = {}
        self._spent: OfTensors[Cut | None] = OfTensors()  # has been between two steps; where to cut, in the trial
        self._finite: OfTensors[int] = OfTensors()  # known to be finite, at a version of it
        self._bordered: OfTensors[Inner] = OfTensors()  # has a border, which a convolution may take that is called next
        self._stand_ins: OfTensors[None] = OfTensors()  # all that have been given out in place of those
        self._given = 0  # the id of what the last step gave
        self._bared: set[int] = set()  # memory that may be written to unseen
        self._trial, self._sound, self._borders, self._writes = True, True, False, False
        self._times = 1  # as many rows as the trial has are to come
        self._folded, self._at_work = False, False  # an error may come of what has been done here in this call, or is
        self._inside = Lock()

    @staticmethod
    def suits(module: nn.Module) -> bool:
        """Whether all that ``module`` does can be seen, and no hook of the user's looks between its layers."""
        everywhere = nn.modules.module
        if everywhere._global_forward_hooks or everywhere._global_forward_pre_hooks or torch._C._len_torch_function_stack() > 0:
            return False
        return not any(
            part._forward_hooks
            or part._forward_pre_hooks
            or isinstance(part, torch.jit.ScriptModule)
            or part._compiled_call_impl is not None
            or "_orig_mod" in part._modules  # of torch.compile
            for part in module.modules()
        )

    def __call__(self, model: Callable[[Tensor], Any], rows: Tensor) -> Any:
        """``model(rows)``."""
        if self._trial and self._sound and len(rows) >= MANY:
            self._try_few(model, rows)
        return self._outputs(model, rows)

    def _try_few(self, model: Callable[[Tensor], Any], rows: Tensor) -> None:
        """The trial, in a call of its own. Where that fails all rows are it: the model may be made for that many alone."""
        randomness = torch.get_rng_state()
        self._times = len(rows) // FEW
        try:
            with suppress(Exception):
                self._outputs(model, rows[:FEW].clone())
        finally:
            self._times = 1
            torch.set_rng_state(randomness)

    def _outputs(self, model: Callable[[Tensor], Any], rows: Tensor) -> Any:
        if not self._sound or rows.is_inference() or not self._inside.acquire(blocking=False):  # or another thread is in it
            return model(rows)
        trial, version, randomness = self._trial, rows._version, torch.get_rng_state()
        self._folded = False
        try:
            outputs = self._attempt(model, rows)
            if self._sound:
                if trial:
                    self._end_trial()
                return outputs
            del outputs
        except BaseException as error:
            if trial:
                self.chains.clear()
            of_the_model = self._sound and not self._folded and not self._at_work
            if of_the_model or not isinstance(error, Exception) or self._are_written(rows, version):
                raise
        finally:
            self._at_work = False
            for table in (self._tried, self._due, self._spent, self._finite, self._bordered, self._stand_ins):
                table.clear()
            self._inside.release()
        written = self._are_written(rows, version)
        check(not written, "the model changes its ways and writes into its input: take one that copies")
        torch.set_rng_state(randomness)
        outputs = model(rows)  # raises where an error is the model's
        self._sound = False
        return outputs

    def _attempt(self, model: Callable[[Tensor], Any], rows: Tensor) -> Any:
        """What the model gives, seen and folded; it has to be called again where `_sound` is false then."""
        given = rows.clone() if self._trial or self._writes else rows  # which may have to be given again
        version = given._version
        with self:
            outputs = model(given)
        self._at_work = True
        self._writes = self._writes or bool(self._bared) or given._version != version
        self._outlived()
        # The next step may come in another call, or where nobody sees it, and what has its border to come must not leave.
        self._sound = self._sound and not self._due and not self._stand_ins
        return outputs

    def _are_written(self, rows: Tensor, version: int) -> bool:
        return rows._version != version or _memory(rows) in self._bared

    def _end_trial(self) -> None:
        self._borders = any(chain.border for chain in self.chains.values())
        self._trial, self._sound = False, bool(self.chains)  # where there are none, nothing is to be won

    def __torch_function__(self, func: Any, types: Any, args: Arguments = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if torch.compiler.is_compiling():  # a compiled function in the model: what it takes cannot be seen again
            self._sound = False
            return func(*args, **kwargs)
        self._at_work = True
        try:
            output = self._see(func, types, args, kwargs)
        except Exception:
            self._sound = self._sound and not self._at_work  # the model may catch it and go on
            raise
        self._at_work = False
        return output

    def _see(self, func: Any, types: Any, args: Arguments, kwargs: dict[str, Any]) -> Any:
        if func in LOOKS:
            real = (arg.made() if isinstance(arg, Bordered) and arg.is_made else arg for arg in args)
            return self._as_it_is(func, *real, **kwargs)
        self._notice(func, types, args, kwargs)
        on_the_way = (self._tried or self._due) and args and not torch.is_grad_enabled()
        if on_the_way and (step := step_of(func, args, kwargs)) is not None:
            key = id(args[0])
            if key in self._due and self._due[key].is_before(step):
                return self._pass(self._due.pop(key))
            if key in self._tried:
                return self._try(self._tried.pop(key), step, lambda tensor: self._as_it_is(func, tensor, *args[1:], **kwargs))
        if self._tried or self._due:
            self._lose(args, kwargs)
        if func is torch.conv2d and len(args) == 7 and not kwargs and _is_bare(args[0]):  # as nn.Conv2d calls it
            return self._convolution(*args)
        if func is pad and (self._trial or self._borders) and (bordered := self._with_border(args, kwargs)) is not None:
            return bordered
        return self._call(func, args, kwargs)

    def _notice(self, func: Any, types: Any, args: Arguments, kwargs: dict[str, Any]) -> None:
        """What any call means for what is on its way, before it is done: it may be a step, and so comes after this."""
        if (self._tried or self._due) and (_is_watched() or any(kind not in PLAIN for kind in types)):
            self._tried.clear()  # whatever stands behind it may do anything with them
            self._sound = self._sound and not self._due
        if self._bordered and not (func is torch.conv2d and args and self._bordered.get(args[0]) is not None):
            self._make_borders()
        if func in BARES_MEMORY:
            self._bare(_tensors(args))
        if self._spent and [id(tensor) for tensor in _tensors((*args, *kwargs.values()))] != [self._given]:
            self._outlived()  # but for a caller that holds what it is just passing on

    def _lose(self, args: Arguments, kwargs: dict[str, Any]) -> None:
        """What is taken by anything but its next step is not folded in the trial, and later should not have been."""
        for tensor in _tensors((*args, *kwargs.values())):
            self._tried.pop(id(tensor), None)
            self._sound = self._sound and id(tensor) not in self._due

    def _call(self, func: Any, args: Arguments, kwargs: dict[str, Any]) -> Any:
        first = args[0] if args else None
        if self._stand_ins:  # PyTorch would ask for the real ones by itself, but that takes a second of imports
            args, kwargs = with_borders(args), with_borders(kwargs)
        finite = _keeps_finite(func, args, kwargs) and all(map(self._knows, _tensors((*args, *kwargs.values()))))
        output = self._as_it_is(func, *args, **kwargs)
        if isinstance(first, Bordered) and output is args[0]:  # it has been written to
            return first
        if finite:
            self._note(output)
        return output

    def _bare(self, tensors: Iterable[Tensor]) -> None:
        """From now on their memory may be written to unseen: nothing is folded of it, and nothing is known to be finite."""
        self._bared |= {_memory(tensor) for tensor in tensors if tensor.layout is torch.strided}
        self._finite.clear()
        self.chains = {key: chain for key, chain in self.chains.items() if not self._is_bared(chain)}

    def _is_bared(self, chain: Chain) -> bool:
        return bool(self._bared) and any(_memory(source) in self._bared for source in chain.sources())

    def _as_it_is(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """What the model calls: an error there is the model's own."""
        self._at_work = False
        output = func(*args, **kwargs)
        self._at_work = True
        return output

    def _with_border(self, args: Arguments, kwargs: dict[str, Any]) -> Tensor | None:
        """What `pad` gives: the real one in the trial, and then one that is made if anything but its convolution needs it."""
        border = Border.of(args, kwargs)
        image_is_plain = bool(args) and type(args[0]) is Tensor and _is_bare(args[0])
        if border is None or self._bared or not image_is_plain or not _is_channels_last(args[0]):
            return None
        self._folded = True
        image, output = args[0], pad(*args, **kwargs) if self._trial else Bordered(args[0], border)
        self._bordered[output] = Inner(image, border, image._version, output._version)
        if isinstance(output, Bordered):
            self._stand_ins[output] = None
        if self._knows(image):
            self._note(output)
        return output

    def _make_borders(self) -> None:
        """No convolution takes them: from now on their images may change."""
        for tensor in self._bordered.tensors():
            if isinstance(tensor, Bordered):
                tensor.made()
        self._bordered.clear()

    def _convolution(self, image: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
        chain, whole, border, inner = self.chains.get(id(weight)), image, None, self._bordered.get(image)
        if inner is not None and inner.is_in(whole) and inner.border.fits(weight, *rest[1:]):
            image, border = inner.image, inner.border
        else:
            image = with_borders(whole)
        # A ReLU inside a convolution makes NaN a number, and nobody would see it.
        if chain and chain.serves(image, border, weight, bias, rest) and (not chain.needs_finite or self._is_finite(image)):
            self._folded = True
            folded = chain(image)
            self._due[id(folded)] = Place(folded, chain, 0, image, image._version)
            if self._knows(image):
                self._note(folded)
            return folded
        output: Tensor = self._as_it_is(torch.conv2d, with_borders(whole), weight, bias, *rest)
        own = type(weight) is nn.Parameter and (bias is None or type(bias) is nn.Parameter)  # not made for this call
        if self._trial and own and chain is None:
            memory_format = torch.channels_last if _is_channels_last(output) else torch.contiguous_format
            chain = Chain(weight, bias, rest, kind_of(image, weight), output.dtype, memory_format, border)
            self._tried[id(output)] = Place(output, chain, 0, image, image._version)
        return output

    def _try(self, place: Place, step: Step, do: Callable[[Tensor], Tensor]) -> Tensor:
        """A step of something that nothing else has taken: it joins the chain if that gives the same."""
        tensor, chain, done, image, version = place
        suited = done == 0 and not step.training if isinstance(step, Norm) else self._is_finite(image)
        if not suited or image._version != version:
            return do(tensor)
        if any(source.is_inference() for source in (*chain.sources(), *step.sources)):  # they keep no versions
            return do(tensor)
        longer = chain.and_then(step)
        expected = do(tensor.clone() if step.writes else tensor)
        if self._is_bared(longer) or (folded := longer.tried(image, expected, self._times)) is None:
            return tensor.copy_(expected) if step.writes else expected
        self.chains[id(chain.weight)], self._folded = longer, True
        if step.writes:
            return tensor.copy_(folded)
        self._spent[tensor] = Cut(chain.weight, done)
        if isinstance(step, Norm):
            self._tried[id(folded)] = Place(folded, longer, done + 1, image, version)
        return self._give(folded, self._knows(image))

    def _pass(self, place: Place) -> Tensor:
        """A step that is done already: what it got, as another tensor, so that the two can be told apart, unless it writes."""
        tensor, chain, done, image, version = place
        output = tensor
        if not chain.steps[done].writes:
            self._spent[tensor] = None
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
        for cut in self._spent.values():
            if cut is None:
                self._sound = False
                continue
            # In the trial it is what it should be: only what comes after is not to be folded.
            chain = self.chains.pop(id(cut.weight), None)
            if chain is not None and cut.done > 0:
                self.chains[id(cut.weight)] = replace(chain, steps=chain.steps[: cut.done])
        self._spent.clear()

    def _is_finite(self, tensor: Tensor) -> bool:
        if self._knows(tensor):
            return True
        finite = all_finite([tensor])
        if finite:
            self._note(tensor)
        return finite

    def _knows(self, tensor: Tensor) -> bool:
        return (version := self._finite.get(tensor)) is not None and version == tensor._version

    def _note(self, tensor: Tensor) -> None:
        if not self._bared and not tensor.is_inference():  # which keeps no versions
            self._finite[tensor] = tensor._version


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)
        elif isinstance(value, dict):
            yield from _tensors(value.values())


def _is_bare(image: Tensor) -> bool:
    """Whether it is a batch, and nothing transforms, differentiates or watches what is done to it."""
    if type(image) not in (Tensor, Bordered) or image.ndim != 4 or image.is_inference() or torch.is_inference_mode_enabled():
        return False
    return not _is_watched() and not torch.is_grad_enabled()


def _is_watched() -> bool:
    """Whether something transforms or sees what functions do, or carries tangents along."""
    transformed = torch._C._functorch.peek_interpreter_stack() is not None
    return transformed or torch._C._len_torch_dispatch_stack() > 0 or forward_ad._current_level >= 0


def _memory(tensor: Tensor) -> int:
    """The same number for all tensors that share it."""
    return int(tensor.untyped_storage()._cdata)


def _is_channels_last(image: Tensor) -> bool:
    return image.is_contiguous(memory_format=torch.channels_last)


def _keeps_finite(func: Any, args: Arguments, kwargs: dict[str, Any]) -> bool:
    """Whether it gives finite numbers for finite tensors, short of overflow."""
    if func in JOINS:
        return not kwargs and all(isinstance(arg, Tensor | int | tuple | list) for arg in args)
    if func is max_pool2d:  # a window with gaps may hold nothing but the infinities around an image
        return (kwargs.get("dilation") or (*args, 1, 1, 1, 1)[4]) in (1, (1, 1), [1, 1])
    return func is pad and not kwargs.get("value")
