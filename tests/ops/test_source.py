"""The loader: places of sources, and calls of CuPy. A GPU's own tests show the effect of these calls."""

from __future__ import annotations

import ctypes
import locale
import sys
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gpulime.errors import GpulimeError
from gpulime.ops import source

GPU = torch.device("cuda", 1)


def use_c_locale():
    """The effect of NVRTC of CUDA 12.4 on the calling thread."""
    libc = ctypes.CDLL(None)
    libc.newlocale.restype = libc.uselocale.restype = ctypes.c_void_p
    of_all = 0b1111110111111  # LC_ALL_MASK: every category's bit but that of LC_ALL itself
    libc.uselocale(ctypes.c_void_p(libc.newlocale(of_all, b"C", None)))


class CompileException(Exception):
    """As CuPy's."""


@pytest.fixture
def told(monkeypatch):
    """Calls of CuPy and torch's devices, in order.

    A source with ``refused`` in it does not compile, one with ``locale`` changes that of the thread which compiles it.
    """
    events = []

    class RawModule:
        def __init__(self, *, code, options):
            self.code = code
            events.append(("module", options))

        def compile(self):
            events.append(("compile",))
            if "locale" in self.code:
                use_c_locale()
            if "refused" in self.code:
                raise CompileException("trial.cu(1): error: refused")

        def get_function(self, name):
            def function(grid, block, args, *, shared_mem):
                events.append((name, grid, block, args, shared_mem))

            function.max_dynamic_shared_size_bytes = 48 * 1024
            events.append(("function", function))
            return function

    @contextmanager
    def entered(what, value):
        events.append((what, value))
        yield
        events.append((f"end of {what}",))

    stream = SimpleNamespace(from_external=lambda of: entered("stream", of.__cuda_stream__()))
    cuda = SimpleNamespace(compiler=SimpleNamespace(CompileException=CompileException), Stream=stream)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(RawModule=RawModule, cuda=cuda))
    monkeypatch.setattr(torch.cuda, "device", lambda index: entered("device", index))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: SimpleNamespace(cuda_stream=1000 + index))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "NVIDIA H200")
    source._compiled.cache_clear()
    yield events
    source._compiled.cache_clear()


@pytest.fixture
def write(monkeypatch, tmp_path):
    monkeypatch.setattr(source, "folder", lambda: tmp_path)
    return lambda text: (tmp_path / "trial.cu").write_text(text)


def test_a_launch_goes_to_torchs_current_stream_of_its_device(told, write):
    write("first")
    args = None, 2**40, 0.1, np.float64(0.1), np.int32(3), True
    for _ in range(2):
        source.launch("trial.cu", "trial", (2,), (32, 4), args, defines={"A": "1"}, shared=50_000, device=GPU)
    names = [event[0] for event in told]
    launch = ["device", "stream", "trial", "end of stream", "end of device"]
    first = ["module", "device", "compile", "end of device", *launch[:2], "function", *launch[2:]]
    assert names == [*first, *launch], "compiled once, looked up once"
    assert ("device", 1) in told
    assert ("stream", (0, 1001)) in told
    name, grid, block, passed, shared = told[names.index("trial")]
    assert (name, grid, block, shared) == ("trial", (2, 1, 1), (32, 4, 1), 50_000)
    assert passed == (0, 2**40, np.float32(0.1), np.float64(0.1), np.int32(3), 1)
    assert [type(value) for value in passed] == [int, int, np.float32, np.float64, np.int32, int]
    assert told[names.index("function")][1].max_dynamic_shared_size_bytes == 50_000


def test_a_device_and_a_set_of_macros_have_a_module_each(told, write):
    write("first")
    for device in (GPU, torch.device("cuda", 0)):
        for number in ("1", "2", "1"):
            source.launch("trial.cu", "trial", (1,), (1,), (), defines={"A": number}, device=device)
    assert [event[0] for event in told].count("module") == 4


def test_a_source_that_does_not_compile(told, write):
    write("refused")
    with pytest.raises(
        GpulimeError, match=r"kernels/trial.cu does not compile for NVIDIA H200:\ntrial.cu\(1\): error: refused"
    ):
        source.launch("trial.cu", "trial", (1,), (1,), (), device=GPU)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's locale masks")
def test_a_compilation_leaves_the_callers_locale(told, write):
    write("locale")
    before = locale.nl_langinfo(locale.CODESET)
    source.launch("trial.cu", "trial", (1,), (1,), (), device=GPU)
    assert locale.nl_langinfo(locale.CODESET) == before


def test_a_tensor_elsewhere_is_named(told):
    with pytest.raises(GpulimeError, match="trial: argument 1 is on cpu and the launch on cuda:1"):
        source.launch("trial.cu", "trial", (1,), (1,), (3, torch.zeros(2)), device=GPU)
    assert not told


def test_a_wheels_kernels_come_before_a_checkouts(monkeypatch, tmp_path):
    monkeypatch.setattr(source, "_PACKAGE", tmp_path / "gpulime")
    for place in (tmp_path / "kernels", tmp_path / "gpulime" / "kernels"):
        with (
            pytest.raises(GpulimeError, match=r"no \*.cu in .*: the installation")
            if place.parent == tmp_path
            else nullcontext()
        ):
            source.folder.__wrapped__()
        place.mkdir(parents=True)
        (place / "trial.cu").touch()
        assert source.folder.__wrapped__() == place


def test_the_sources_of_this_installation_are_whole():
    files = {path.name for path in source.folder().iterdir()}
    assert {"masked_images.cu", "lab.cuh", "README.md"} <= files
    assert '#include "' not in source.joined("masked_images.cu")
