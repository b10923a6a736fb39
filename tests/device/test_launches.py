"""Launches that do not fit the kernel's signature are found."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gpulime.errors import GpulimeError
from gpulime.ops import source
from tests.device import launches
from tests.device.findings import FOUND, LAUNCH, RACE, expected

pytestmark = pytest.mark.pretend

CUDA = torch.device("cuda", 0)
SCALED = """
extern "C" __global__ void __launch_bounds__(64, 1)
    scaled(const float* __restrict__ in, float* out, long long n, int first, double by) {
    extern __shared__ float part[];
    const long long at = blockIdx.x * blockDim.x + threadIdx.x + first;
    if (at < n) part[threadIdx.x] = in[at], out[at] = (float)(part[threadIdx.x] * by);
}
"""


@pytest.fixture
def scaled(monkeypatch, tmp_path):
    """Launch the kernel with these arguments in place of the right ones."""
    (tmp_path / "trial.cu").write_text(SCALED)
    monkeypatch.setattr(source, "folder", lambda: tmp_path)
    right = {"in_": torch.arange(64.0, device=CUDA), "out": torch.zeros(64, device=CUDA)}
    right |= {"n": 64, "first": np.int32(0), "by": np.float64(2)}

    def launch(shared=256, more=(), **wrong):
        args = (*(right | wrong).values(), *more)
        source.launch("trial.cu", "scaled", (1,), (64,), args, shared=shared, device=CUDA)
        return right["out"]

    source._compiled.cache_clear()
    yield launch
    source._compiled.cache_clear()


def test_a_right_launch(scaled):
    before = launches.LAUNCHED["scaled"]
    assert torch.equal(scaled().cpu(), 2 * torch.arange(64.0))
    assert launches.LAUNCHED["scaled"] == before + 1
    assert not FOUND


def test_signatures_of_all_kernels_are_understood():
    kernels = {}
    for path in source.folder().glob("*.cu"):
        code = source.Source(path.name, (("BITS", "unsigned short"), ("LABEL", "int"))).text
        found = launches.signatures(code)
        assert len(found) == code.count("__global__") > 0
        kernels |= found
    numbers = {one.type for parameters in kernels.values() for one in parameters if not one.points}
    pointers = {one.type for parameters in kernels.values() for one in parameters if one.points}
    assert pointers <= {"long long", "int", "float", "unsigned char", "unsigned short"}
    assert numbers <= {"long long", "int", "float", "double"}
    images, *_, out = kernels["masked_images"][:6]
    assert images == launches.Parameter("unsigned short", True, True, True)
    assert out == launches.Parameter("unsigned short", True, False, True)


WRONG = {
    "another dtype": (lambda: {"in_": torch.arange(64, device=CUDA)}, r"argument 0 is a torch.int64 tensor for float\*"),
    "gaps": (lambda: {"in_": torch.zeros(128, device=CUDA)[::2]}, r"argument 0 has strides \(2,\)"),
    "expanded": (lambda: {"out": torch.zeros(1, device=CUDA).expand(64)}, r"argument 1 has strides \(0,\)"),
    "float for long long": (lambda: {"n": 64.0}, "argument 2 is a float32 for long long"),
    "long long for int": (lambda: {"first": 0}, "argument 3 is a int for int"),
    "float for double": (lambda: {"by": 2.0}, "argument 4 is a float32 for double"),
    "too many": (lambda: {"more": (1,)}, "6 arguments for 5 parameters"),
    "a number for a pointer": (lambda: {"in_": 12345}, "argument 0 points to no tensor"),
    "a tensor that is gone": (lambda: {"in_": torch.zeros(64, device=CUDA).data_ptr()}, "argument 0 points to no tensor"),
}


@pytest.mark.parametrize(("wrong", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_argument(wrong, said, scaled):
    with expected(LAUNCH), pytest.raises(RuntimeError, match=said):
        scaled(**wrong())


def test_another_stream_than_torchs(scaled, monkeypatch):
    monkeypatch.setattr(source._CurrentStream, "__init__", lambda self, index: setattr(self, "pointer", 0))
    scaled()
    with expected(LAUNCH), torch.cuda.stream(torch.cuda.Stream()), pytest.raises(RuntimeError, match=r"launched on \[0\]"):
        scaled()


def test_a_kernel_reads_and_writes_on_its_stream(scaled):
    aside = torch.cuda.Stream()
    with expected(RACE) as races, torch.cuda.stream(aside):
        scaled()
    assert [race.split(":")[0] for race in races] == [
        f"scaled {action} on stream {aside.number}, beside stream 0" for action in ("reads", "writes")
    ]


def test_more_shared_memory_has_to_be_asked_for(scaled, monkeypatch):
    scaled(shared=200 * 1024)
    with pytest.raises(RuntimeError, match="CUDA_ERROR_INVALID_VALUE"):
        scaled(shared=228 * 1024)
    monkeypatch.setattr(launches.RawKernel, "max_dynamic_shared_size_bytes", 2**30)  # as if it had been asked for
    source._compiled.cache_clear()
    with pytest.raises(RuntimeError, match="bytes of shared memory"):
        scaled(shared=200 * 1024)


def test_a_source_that_does_not_compile(monkeypatch, tmp_path):
    (tmp_path / "trial.cu").write_text(SCALED.replace("long long at", "nothing at"))
    monkeypatch.setattr(source, "folder", lambda: tmp_path)
    source._compiled.cache_clear()
    with pytest.raises(GpulimeError, match=r"kernels/trial.cu does not compile for Pretend H200:\n[^$]*nothing"):
        source.launch("trial.cu", "scaled", (1,), (64,), (), device=CUDA)
