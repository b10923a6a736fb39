"""Rules of CUDA that a CPU does not have: one device for all tensors, and operations that the host waits for."""

from __future__ import annotations

from functools import cache

import torch

from tests.device.findings import where

_INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
_ALLOCATING = ("empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided")
# Libraries that wait by themselves, for one in MAGMA or to look for failures: sync debug mode of PyTorch does not see it.
_LIBRARIES = ("cholesky_solve", "linalg_eig", "_linalg_eigh", "_linalg_svd", "linalg_lstsq", "histc")
_TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}  # of results that only the values tell


def leaves(given):
    """What lists, tuples and dicts hold, in order."""
    if isinstance(given, list | tuple | dict):
        for one in given.values() if isinstance(given, dict) else given:
            yield from leaves(one)
    else:
        yield given


def mapped(function, given):
    """The same lists, tuples and dicts, with ``function`` of what they hold."""
    if isinstance(given, dict):
        return {name: mapped(function, one) for name, one in given.items()}
    if isinstance(given, list | tuple):
        values = [mapped(function, one) for one in given]
        return values if type(given) is list else tuple(values)
    return function(given)


class Call:
    """One call of an operation.

    Attributes
    ----------
    name : without "aten::"
    there, here : its tensors on the pretend device, and those on the CPU
    device : the one that an argument names, or None
    """

    def __init__(self, function, args, kwargs, kind):
        self.function, self.args, self.kwargs = function, args, kwargs
        self.name = function._schema.name.removeprefix("aten::")
        flat = list(leaves((args, kwargs)))
        tensors = [one for one in flat if isinstance(one, torch.Tensor)]
        self.there = [one for one in tensors if isinstance(one, kind)]
        self.here = [one for one in tensors if not isinstance(one, kind)]
        self.device = next((one for one in flat if isinstance(one, torch.device)), None)

    @property
    def concerns_cuda(self):
        return bool(self.there) or (self.device is not None and self.device.type == "cuda")

    @property
    def allocates(self):
        """True if nothing is written into the result's memory."""
        return self.name in _ALLOCATING

    @property
    def launches(self):
        return not (self.allocates or self.name == "_unsafe_view" or _is_view(self.function))

    def given(self, name, default=None):
        """The argument of that name."""
        place = next((place for place, one in enumerate(self.function._schema.arguments) if one.name == name), len(self.args))
        return self.args[place] if place < len(self.args) else self.kwargs.get(name, default)

    def written(self):
        """The arguments that the operation writes into, in the order of its results."""
        return [self.given(name) for name in _written(self.function)]


@cache
def _written(function):
    arguments = function._schema.arguments
    return [one.name for one in arguments if one.alias_info is not None and one.alias_info.is_write]


@cache
def _is_view(function):
    """Tell if a result shares an argument's memory, which is not written."""
    aliases = [result.alias_info for result in function._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


def one_device(call):
    """Raise as PyTorch does for tensors of both devices; elementwise operations and indexing take numbers from the CPU."""
    if call.name in _INDEXING:
        return _one_device_indexed(call)
    elementwise = torch.Tag.pointwise in call.function.tags or call.name == "fill_"
    wrong = [tensor for tensor in call.here if tensor.dim() or not elementwise]
    if call.there and wrong:
        _refuse(call, wrong)
    return None


def _one_device_indexed(call):
    values, is_there = call.given("values"), any(tensor is call.args[0] for tensor in call.there)
    if not is_there and call.there:
        _refuse(call, [call.args[0]])
    if values is not None and values.dim() and any(tensor is values for tensor in call.here):
        _refuse(call, [values])


def _refuse(call, wrong):
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in wrong)
    two = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
    raise RuntimeError(f"{two} {call.name} has {shapes} on the CPU, at {where()}")


def waits(call):
    """The reason why the host waits for the operation, or None."""
    if call.name in _INDEXING:
        if any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in call.given("indices")):
            return f"{call.name} by a mask"
        return f"{call.name} with tensors of the CPU" if call.here else None
    if call.name == "where" and call.here:
        return "where with a number from the CPU"
    if call.name == "repeat_interleave" and call.given("output_size") is not None:
        return None
    if call.name in _LIBRARIES or not _TAGS.isdisjoint(call.function.tags):
        return call.name
    return None


def compiler(call):
    """Raise where PyTorch 2.14 compiles a kernel at run time, which needs a C compiler: products along a dimension of one."""
    if call.name == "bmm" and call.args[0].shape[2] == 1:
        raise RuntimeError(f"Failed to find C compiler. bmm along a dimension of one, at {where()}")
