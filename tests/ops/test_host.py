"""The host shim itself: CUDA's guarantees hold, and undefined behaviour is refused or visible."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gpulime.errors import GpulimeError
from gpulime.ops import source

pytestmark = pytest.mark.long
CPU = torch.device("cpu")


@pytest.fixture
def write(monkeypatch, tmp_path):
    """Write files of a ``kernels/`` of this test's own; returns a launch of ``trial`` in trial.cu."""

    def files(text, **headers):
        (tmp_path / "trial.cu").write_text(text)
        for name, header in headers.items():
            (tmp_path / f"{name}.cuh").write_text(header)
        return lambda grid, block, *args, **options: source.launch(
            "trial.cu", "trial", grid, block, args, device=CPU, **options
        )

    monkeypatch.setattr(source, "folder", lambda: tmp_path)
    return files


@pytest.fixture
def kernels(write, host):
    """Its kernels run in this process."""
    return write


def test_places_of_threads_and_blocks_in_three_dimensions(kernels):
    trial = kernels("""
extern "C" __global__ void trial(int* out) {
    int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    out[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 1000 + thread;
}
""")
    out = torch.full((2 * 3 * 4 * 5 * 6 * 7,), -1, dtype=torch.int32)
    trial((2, 3, 4), (5, 6, 7), out)
    assert torch.equal(out.view(24, 210), (torch.arange(24)[:, None] * 1000 + torch.arange(210)).int())


SUM = """
extern "C" __global__ void trial(const float* in, float* out) {
    extern __shared__ float part[];
    part[threadIdx.x] = in[blockIdx.x * blockDim.x + threadIdx.x];
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
    }
    if (threadIdx.x == 0) out[blockIdx.x] = part[0];
}
"""


def test_barriers_and_dynamic_shared_memory(kernels):
    values, out = torch.arange(5 * 64).float(), torch.zeros(5)
    kernels(SUM)((5,), (64,), values, out, shared=256)
    assert torch.equal(out, values.view(5, 64).sum(1))


def test_a_missing_barrier_shows(kernels):
    values, out = torch.arange(5 * 64).float(), torch.zeros(5)
    kernels(SUM.replace("__syncthreads();", ""))((5,), (64,), values, out, shared=256)
    assert not torch.equal(out, values.view(5, 64).sum(1))


def test_shared_memory_is_poisoned_in_every_block(kernels):
    trial = kernels("""
__device__ void show(float* out) {
    __shared__ float unset[32];
    out[blockIdx.x * 32 + threadIdx.x] = unset[threadIdx.x];
    unset[threadIdx.x] = 1;
}
extern "C" __global__ void trial(float* out) { show(out); }
""")
    out = torch.zeros(96)
    trial((3,), (32,), out)
    assert out.isnan().all()


def test_threads_of_a_warp_show_each_other_their_values(kernels):
    trial = kernels("""
extern "C" __global__ void trial(int* out) {
    int sum = threadIdx.x;
    for (int with = 16; with > 0; with /= 2) sum += __shfl_xor_sync(0xffffffff, sum, with);
    unsigned votes = __ballot_sync(0xffffffff, threadIdx.x % 3 == 0);
    out[threadIdx.x] = sum + 10000 * __popc(votes) + 1000000 * __syncthreads_count(threadIdx.x < 40);
}
""")
    out = torch.zeros(64, dtype=torch.int32)
    trial((1,), (64,), out)
    threads = torch.arange(64).view(2, 32)
    expected = threads.sum(1) + 10000 * (threads % 3 == 0).sum(1) + 40_000_000
    assert torch.equal(out.view(2, 32), expected[:, None].expand(2, 32).int())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("if (threadIdx.x < 7) __syncthreads();", "line 1, waits, and others have returned"),
        ("if (threadIdx.x < 7)\n__syncthreads(); else\n__syncthreads();", "line 2, waits at another barrier than .* line 3"),
        ("if (threadIdx.x < 7) __syncwarp(); __syncthreads();", "waits for its warp, and others of the warp do not"),
    ],
)
def test_threads_that_part_at_a_barrier(body, message, kernels):
    trial = kernels(f'extern "C" __global__ void trial() {{ {body} }}')
    with pytest.raises(GpulimeError, match=f"trial.cu: trial: thread .* of block .*{message}"):
        trial((1,), (32,))
    kernels('extern "C" __global__ void trial(int* out) { __syncthreads(); *out = 3; }')(
        (1,), (32,), out := torch.zeros(1).int()
    )
    assert out.item() == 3


def test_arguments_have_the_kinds_of_the_interface(kernels):
    trial = kernels("""
extern "C" __global__ void trial(double* out, const float* none, long long l, float f, double d, int i) {
    out[0] = none == nullptr;
    out[1] = l; out[2] = f; out[3] = d; out[4] = i;
}
""")
    out = torch.zeros(5, dtype=torch.float64)
    trial((1,), (1,), out, None, 2**40, 0.1, np.float64(0.1), np.int32(-4))
    assert out.tolist() == [1, 2**40, np.float32(0.1), 0.1, -4]
    with pytest.raises(GpulimeError, match="takes arguments of the kinds 'pplfdi', and was given 'pplffi'"):
        trial((1,), (1,), out, None, 2**40, 0.1, 0.1, np.int32(-4))


def test_a_compile_error_names_file_and_line_of_a_header_too(kernels, host):
    trial = kernels(
        '#include "first.cuh"\n\n#include "second.cuh"\nint x = wrong_here;\n', first="\n\nint a;\n", second="\nint b = wrong;"
    )
    with pytest.raises(host.CompileError) as error:
        trial((1,), (1,))
    assert "second.cuh:2:" in str(error.value)
    assert "trial.cu:4:" in str(error.value)


def test_headers_are_joined_once_with_their_lines(kernels):
    kernels('#include "a.cuh"\n#include "b.cuh"\nlast\n', a="one\n", b='  # include "a.cuh"\ntwo\n')
    assert source.joined("trial.cu").splitlines() == [
        *('#line 1 "trial.cu"', '#line 1 "a.cuh"', "one", "", '#line 2 "trial.cu"'),
        *('#line 1 "b.cuh"', "", "two", "", '#line 3 "trial.cu"', "last"),
    ]


@pytest.mark.parametrize(
    ("grid", "block"), [((0,), (1,)), ((1,), (0,)), ((1, 65_536), (1,)), ((2**31,), (1,)), ((1,), (33, 32))], ids=str
)
def test_grids_that_cannot_be_launched(grid, block, kernels):
    trial = kernels('extern "C" __global__ void trial() {}')
    with pytest.raises(GpulimeError, match="cannot be launched"):
        trial(grid, block)


@pytest.mark.parametrize("kind", ["host", "sanitized"])
def test_more_shared_memory_than_every_gpu_has(kind, write, request):
    """The shared memory of the launched kernel, of the functions that it may call, and the dynamic part."""
    request.getfixturevalue(kind)
    trial = write("""
__device__ float* deep() { __shared__ float part[2048]; return part; }
extern "C" __global__ void other() { __shared__ double rows[4096]; rows[0] = 0; }
extern "C" __global__ void trial(float* out) {
    extern __shared__ float dynamic[];
    __shared__ float own[4096];
    own[0] = dynamic[0] = deep()[0] = 3;
    *out = own[0] + dynamic[0];
}
""")
    out = torch.zeros(1)
    trial((1,), (1,), out, shared=48 * 1024 - 24_576)
    assert out.item() == 6
    with pytest.raises(
        GpulimeError, match="trial: needs 24,576 bytes of shared memory and 24,577 dynamic ones a block, more than 49,152"
    ):
        trial((1,), (1,), out, shared=48 * 1024 - 24_576 + 1)


@pytest.mark.parametrize("kind", ["host", "sanitized"])
def test_subnormal_floats_count_as_0(kind, write, request):
    request.getfixturevalue(kind)
    trial = write("""
extern "C" __global__ void trial(const float* in, float* out) {
    out[0] = in[0] * 1e10f;
    __syncthreads();
    out[1] = in[1] * 0.5f;
}
""")
    values, out = torch.tensor([1e-40, 1.2e-38]), torch.full((2,), float("nan"))
    trial((1,), (1,), values, out)
    assert out.tolist() == [0, 0]
    assert (values[0] * 1e10).item() > 0  # here, again


def test_defines_make_sources_of_their_own(kernels):
    trial = kernels('extern "C" __global__ void trial(long long* out) { *out = NUMBER; }')
    out = torch.zeros(1, dtype=torch.int64)
    for number in (3, 4):
        trial((1,), (1,), out, defines={"NUMBER": str(number)})
        assert out.item() == number


GOOD = """
extern "C" __global__ void trial(const float* in, float* out, long long n) {
    extern __shared__ float dynamic[];
    __shared__ float fixed[32];
    long long i = blockIdx.x * 32ll + threadIdx.x;
    dynamic[threadIdx.x] = i < n ? in[i] : 0;
    __syncthreads();
    fixed[threadIdx.x] = dynamic[31 - threadIdx.x];
    __syncthreads();
    if (i < n) out[i] = fixed[31 - threadIdx.x];
}
"""


def test_sanitizers_let_a_good_kernel_pass(write, sanitized):
    values = torch.rand(71)[1:]
    out = torch.full((70,), float("nan"))
    write(GOOD)((3,), (32,), values, out, 70, shared=128)
    assert torch.equal(out, values)


@pytest.mark.parametrize(
    ("right", "wrong", "found"),
    [
        ("i < n ? in[i]", "i <= n ? in[i]", "heap-buffer-overflow"),
        ("if (i < n)", "", "heap-buffer-overflow"),
        ("= dynamic[31 - threadIdx.x]", "= dynamic[32 - threadIdx.x]", "heap-buffer-overflow"),
        ("= fixed[31 - threadIdx.x]", "= fixed[32 - threadIdx.x]", "out of bounds|global-buffer-overflow"),
        ("fixed[31 - threadIdx.x];", "*(double*)(fixed + 1);", "misaligned address"),
        (
            "long long i = blockIdx.x * 32ll",
            "int i = (1 << 30) * 2 * int(gridDim.x) + blockIdx.x * 32",
            "signed integer overflow|cannot be",
        ),
    ],
)
def test_sanitizers_see_what_the_result_may_not_show(right, wrong, found, write, sanitized):
    assert right in GOOD
    with pytest.raises(GpulimeError, match=f"trial.cu: trial: [^$]*({found})"):
        write(GOOD.replace(right, wrong))((3,), (32,), torch.rand(70), torch.zeros(70), 70, shared=128)
