"""What the pretend device puts in the place of functions of torch and of CuPy, for the whole process."""

from __future__ import annotations

import sys
import warnings
from contextlib import nullcontext
from types import SimpleNamespace

import torch

from tests.device import launches, pinned, streams
from tests.device.memory import MEMORY, TOTAL
from tests.device.streams import DEVICE, HOST
from tests.device.tensors import Everywhere

NAME = "Pretend H200"
CAPABILITY = 9, 0
PRIVATE = (  # of PyTorch, that a later one may lack
    (torch._C, "_ensureCUDADeviceGuardSet"),
    (torch._C, "_disabled_torch_function_impl"),
    (torch._C, "DispatchKey"),
    (torch.ops.aten.add.Tensor, "_op_dk"),
    (torch.Tensor, "_make_wrapper_subclass"),
    (torch.cuda, "_lazy_init"),
)


def install():
    """Make this process see a GPU; returns the reason why that fails, or None."""
    missing = [name for place, name in PRIVATE if not hasattr(place, name)]
    if missing:
        return f"needs {', '.join(missing)} of PyTorch, which this one does not have"
    torch._C._ensureCUDADeviceGuardSet()
    _replace(torch.cuda, _cuda())
    _replace(torch, {"tensor": _maker(torch.tensor), "as_tensor": _maker(torch.as_tensor)})
    _replace(torch.profiler, {"profile": _profile(torch.profiler.profile)})
    _replace(torch.Tensor, {"is_pinned": lambda tensor, device=None: pinned.is_pinned(tensor), "pin_memory": _pin_memory})
    torch.backends.cudnn.enabled = False  # its operations are not the CPU's
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch.version.cuda = torch.version.cuda or "13.0"
    torch.set_num_threads(1)  # tensors are small
    _install_cupy()
    Everywhere().__enter__()
    return _trial()


def _trial():
    """The reason why simple work fails, or None."""
    try:
        there = torch.ones(3, device="cuda") + torch.arange(3).cuda()
        works = there.cpu().tolist() == [1, 2, 3]
    except Exception as error:
        return f"this PyTorch does not let it pretend: {type(error).__name__}: {error}"
    return None if works else "this PyTorch does not let it pretend: a sum is wrong"


def _replace(module, functions):
    for name, function in functions.items():
        assert hasattr(module, name), f"{module.__name__} has no {name}"
        setattr(module, name, function)


def _cuda():
    """Functions of torch.cuda by name."""
    about = SimpleNamespace(total_memory=TOTAL, name=NAME, major=CAPABILITY[0], minor=CAPABILITY[1])
    return {
        "_lazy_init": lambda: None,
        "init": lambda: None,
        "is_initialized": lambda: True,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: DEVICE.index,
        "set_device": lambda device: None,
        "device": lambda device: nullcontext(),
        "get_device_name": lambda device=None: NAME,
        "get_device_capability": lambda device=None: CAPABILITY,
        "get_device_properties": lambda device=None: about,
        "is_bf16_supported": lambda including_emulation=True: True,
        "is_current_stream_capturing": lambda: False,
        "Stream": streams.Stream,
        "Event": streams.Event,
        "stream": streams.entered,
        "current_stream": streams.current,
        "default_stream": lambda device=None: streams.DEFAULT,
        "synchronize": streams.Stream.synchronize_all,
        "set_sync_debug_mode": _guard,
        "get_sync_debug_mode": lambda: ("default", "warn", "error").index(HOST.guard),
        "_sleep": lambda cycles: streams.current().begins(),
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: torch.set_rng_state(state),
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "empty_cache": lambda: None,
        "mem_get_info": lambda device=None: (MEMORY.limit - MEMORY.now, TOTAL),
        "memory_allocated": lambda device=None: MEMORY.now,
        "memory_reserved": lambda device=None: MEMORY.now,
        "max_memory_allocated": lambda device=None: MEMORY.peak,
        "reset_peak_memory_stats": lambda device=None: setattr(MEMORY, "peak", MEMORY.now),
        "set_per_process_memory_fraction": lambda fraction, device=None: setattr(MEMORY, "limit", int(fraction * TOTAL)),
    }


def _guard(mode):
    """As torch.cuda.set_sync_debug_mode: the mode is set even if the warning, a process's first, is an error."""
    HOST.guard = mode if isinstance(mode, str) else ("default", "warn", "error")[mode]
    if HOST.guard != "default":
        said = "Synchronization debug mode is a prototype feature and does not yet detect all synchronizing operations"
        warnings.warn(said, stacklevel=2)


def _maker(made):
    """torch.tensor or torch.as_tensor: on the CPU, then a blocking copy."""

    def make(data, *, device=None, **settings):
        there = device is not None and torch.device(device).type == "cuda"
        if isinstance(data, torch.Tensor) and made.__name__ == "as_tensor":
            return data.to(device=device or data.device, dtype=settings.get("dtype") or data.dtype)
        tensor = made(data, device=None if there else device, **settings)
        return tensor.to(device) if there else tensor

    return make


def _profile(made):
    """torch.profiler.profile: of the CPU alone, since CUDA's own profiler fails without a driver."""
    cuda = torch.profiler.ProfilerActivity.CUDA
    return lambda *, activities, **settings: made(activities=[one for one in activities if one != cuda], **settings)


def _pin_memory(tensor, device=None):
    if tensor.is_cuda:
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
    return tensor if pinned.is_pinned(tensor) else pinned.copy(tensor)


def _install_cupy():
    sys.modules.update(launches.cupy())
    from gpulime import device

    device.cupy_wheels = lambda: {"cupy": "14.2.0"}
