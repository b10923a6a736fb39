"""Tensors that say they are on cuda:0 and hold their numbers on the CPU.

A `TorchDispatchMode` sees every operation of its thread, a subclass those on its tensors. Each is checked by the rules of
CUDA, its memory is noted as read or written by the current stream, and the CPU's operation computes the result.
"""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.device import pinned, rules
from tests.device.memory import MEMORY
from tests.device.streams import DEVICE, HOST, current
from tests.ops.host import poison

CPU = torch.device("cpu")


class CudaTensor(torch.Tensor):
    """A tensor of the pretend device; ``inner`` has its numbers, ``block`` its memory."""

    @staticmethod
    def __new__(cls, inner):
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, **layout, device=DEVICE)
        made.block = MEMORY.block(inner)  # first, so that it goes before the memory does
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return dispatched(function, args, kwargs or {})

    # What PyTorch does in C++, below the dispatcher.

    def data_ptr(self):
        address = self.inner.data_ptr()
        self.block.passed[address] = self.inner
        return address

    def record_stream(self, stream):
        self.block.recorded.add(stream.number)

    def tolist(self):
        return self.cpu().tolist()

    def numpy(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory")

    def __array__(self, *_, **__):
        return self.numpy()

    def new_tensor(self, data, *, dtype=None, device=None, **_):
        return torch.tensor(data, dtype=dtype or self.dtype, device=device or self.device)

    def __getitem__(self, index):
        return torch.Tensor.__getitem__(self, _moved(index))

    def __setitem__(self, index, value):
        torch.Tensor.__setitem__(self, _moved(index), value)

    def __repr__(self, **_):
        return f"{self.inner!r} on {DEVICE}"

    def __reduce_ex__(self, protocol):
        return CudaTensor, (self.inner,)

    def __deepcopy__(self, memo):
        copy = CudaTensor(self.inner.clone())
        if isinstance(self, torch.nn.Parameter):
            copy = torch.nn.Parameter(copy, self.requires_grad)
        return memo.setdefault(id(self), copy)


def _moved(index):
    """An index whose lists are tensors on the device: a blocking copy."""
    if isinstance(index, tuple):
        return tuple(map(_moved, index))
    return torch.tensor(index, device=DEVICE) if isinstance(index, list) else index


class Everywhere(TorchDispatchMode):
    """Sees operations on no tensor of the device: they make some, send some, or pin memory."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        device, pins = kwargs.get("device"), kwargs.get("pin_memory") or function in _OF_PINNED
        if not types and not pins and (device is None or device.type == "cpu"):  # most of what a CPU does, without delay
            return function(*args, **kwargs)
        return dispatched(function, args, kwargs)

    @classmethod
    def _should_skip_dynamo(cls):
        """False: without torch.compile, to guard each call against it is lost time."""
        return False


_OF_PINNED = (torch.ops.aten.is_pinned.default, torch.ops.aten._pin_memory.default)


def dispatched(function, args, kwargs):
    """Check an operation and compute it on the CPU."""
    call = rules.Call(function, args, kwargs, CudaTensor)
    if not call.concerns_cuda:
        return _on_the_host(call)
    if function.namespace == "gpulime":  # its kernel for CUDA, which is written in Python
        with Everywhere():
            return function._op_dk(torch._C.DispatchKey.CUDA, *args, **kwargs)
    if call.name in ("_to_copy", "copy_") and len({_is_on_cuda(one) for one in _ends(call)}) == 2:
        return _copied(call)
    rules.one_device(call)
    rules.compiler(call)
    if (reason := rules.waits(call)) is not None:
        HOST.waits(current().clock, reason)
    result = _computed(call)
    if torch.Tag.data_dependent_output in function.tags:  # read by the host, so over as well
        HOST.learns(current().clock)
    return result


# ---- Operations on the device


def _computed(call):
    if call.launches:
        _uses(call)
    result = _on_cpu(call)
    if call.allocates:
        result.fill_(poison(result.dtype))
    if not (written := call.written()):
        return rules.mapped(lambda one: CudaTensor(one) if isinstance(one, torch.Tensor) else one, result)
    for tensor in written:
        if isinstance(tensor, CudaTensor) and (tensor.shape, tensor.stride()) != (tensor.inner.shape, tensor.inner.stride()):
            raise NotImplementedError(f"the pretend device changes no tensor's shape in place: {call.name}")
    return written[0] if len(written) == 1 else tuple(written)


def _uses(call):
    """Note what a piece of the current stream's work reads and writes."""
    stream = current()
    piece = stream.begins()
    written = {id(tensor.block) for tensor in call.written() if isinstance(tensor, CudaTensor)}
    for tensor in call.there:
        tensor.block.use(stream, piece, id(tensor.block) in written, call.name)


def _on_cpu(call):
    """The result of the CPU's operation."""

    def inner(one):
        return one.inner if isinstance(one, CudaTensor) else CPU if isinstance(one, torch.device) else one

    args, kwargs = rules.mapped(inner, (call.args, call.kwargs))
    return call.function(*args, **kwargs)


# ---- Copies between host and device


def _ends(call):
    """The source of a copy and its goal, a tensor or a device."""
    return (call.args[0], call.device or call.args[0]) if call.name == "_to_copy" else (call.args[1], call.args[0])


def _is_on_cuda(one):
    return (one if isinstance(one, torch.device) else one.device).type == "cuda"


def _copied(call):
    source, goal = _ends(call)
    _uses(call)
    numbers = _on_cpu(call) if call.name == "_to_copy" else None
    if isinstance(source, CudaTensor):
        return _fetched(call, numbers)
    if not (call.given("non_blocking") and pinned.is_pinned(source)):
        HOST.waits(current().clock, f"a copy of {tuple(source.shape)} to the device")
    if numbers is not None:
        return CudaTensor(numbers)
    goal.inner.copy_(source)
    return goal


def _fetched(call, numbers):
    """Copy to the host: asynchronously, the numbers arrive once the host has waited for them."""
    source, goal = _ends(call)
    if numbers is None:
        here, numbers = goal, source.inner.clone()
    elif call.given("non_blocking"):
        here = pinned.pin(torch.empty_like(numbers))
    else:
        here = torch.empty_like(numbers)
    here.fill_(poison(here.dtype))
    HOST.expects(current(), lambda: here.copy_(numbers))
    if not call.given("non_blocking"):
        HOST.waits(current().clock, f"a copy of {tuple(source.shape)} from the device")
    return here


# ---- Operations on the host


def _on_the_host(call):
    """An operation on the CPU alone, with memory pinned where that is asked for."""
    if call.name == "is_pinned":
        return pinned.is_pinned(call.args[0])
    if call.name == "_pin_memory":
        return pinned.copy(call.args[0])
    if call.kwargs.get("pin_memory"):
        return pinned.pin(call.function(*call.args, **{**call.kwargs, "pin_memory": False}))
    return call.function(*call.args, **call.kwargs)
