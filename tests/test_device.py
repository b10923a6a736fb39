"""The path that runs and, if the faster one is missing, one reason and one command."""

from __future__ import annotations

import sys
import warnings
from types import SimpleNamespace

import pytest
import torch

from gpulime import device, doctor
from gpulime.cli import main
from gpulime.ops import source

CUDA = torch.device("cuda")


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with a GPU, its driver and CuPy for CUDA 13; arguments change that."""

    def make(
        cuda="13.0", hip=None, driver=True, wheels=None, runtime=13020, serves=13020, capability=(9, 0), stream=True, nvrtc=True
    ):
        def started():
            if runtime is None:
                raise ImportError("libnvrtc.so.13 is not there")
            return runtime

        def compiler():
            if not nvrtc:
                raise RuntimeError("CuPy failed to load libnvrtc.so.13")

        streams = SimpleNamespace(from_external=None) if stream else SimpleNamespace()
        runtimes = SimpleNamespace(runtimeGetVersion=started, driverGetVersion=lambda: serves)
        cuda_of_cupy = SimpleNamespace(runtime=runtimes, Stream=streams, nvrtc=SimpleNamespace(getVersion=compiler))
        monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=cuda_of_cupy))
        monkeypatch.setattr(device, "cupy_wheels", lambda: {"cupy-cuda13x": "14.2.0"} if wheels is None else wheels)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.version, "hip", hip)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: driver)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda given=None: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda given=None: "NVIDIA H200")

    for cached in (device.kernels_missing, source._warn_once):
        cached.cache_clear()
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "cupy"))
    yield make
    for cached in (device.kernels_missing, source._warn_once):
        cached.cache_clear()


FAULTS = [
    ({"wheels": {}}, 'CuPy is not installed: pip install "gpulime[cuda13]"'),
    ({"wheels": {}, "cuda": "12.8"}, 'CuPy is not installed: pip install "gpulime[cuda12]"'),
    (
        {"wheels": {"cupy-cuda12x": "14.2.0"}},
        "cupy-cuda12x is installed and PyTorch is for CUDA 13.0: "
        'pip uninstall -y cupy-cuda12x && pip install "gpulime[cuda13]"',
    ),
    (
        {"wheels": {"cupy-cuda12x": "14.2.0", "cupy-cuda13x": "14.2.0"}},
        "cupy-cuda12x is in the way of cupy-cuda13x: "
        "pip uninstall -y cupy-cuda12x && pip install --force-reinstall cupy-cuda13x",
    ),
    (
        {"wheels": {"cupy": "14.2.0"}, "runtime": 12080},
        'cupy is for CUDA 12 and PyTorch for CUDA 13.0: pip uninstall -y cupy && pip install "gpulime[cuda13]"',
    ),
    (
        {"wheels": {"cupy-cuda13x": "13.6.0"}, "stream": False},
        'CuPy 13.6.0 is too old: pip install --upgrade "cupy-cuda13x>=14"',
    ),
    (
        {"runtime": None},
        "CuPy 14.2.0 does not start (ImportError: libnvrtc.so.13 is not there): pip install --force-reinstall cupy-cuda13x",
    ),
    (
        {"nvrtc": False},
        "CuPy 14.2.0 does not start (RuntimeError: CuPy failed to load libnvrtc.so.13): "
        "pip install --force-reinstall cupy-cuda13x",
    ),
    ({"serves": 12080}, "the driver serves CUDA 12 and CuPy is for CUDA 13: check nvidia-smi, and install a newer driver"),
    ({"driver": False}, "PyTorch sees no driver that serves CUDA 13.0: check nvidia-smi, and install a newer driver"),
    (
        {"capability": (7, 0)},
        "NVIDIA H200 is of compute capability 7.0, and kernels need 7.5 or later; no package changes that",
    ),
    (
        {"cuda": "11.8"},
        "this PyTorch is for CUDA 11.8, kernels need one for CUDA 12 or 13: pip install --force-reinstall torch",
    ),
    ({"cuda": None}, "this PyTorch is without CUDA, kernels need one for CUDA 12 or 13: pip install --force-reinstall torch"),
    ({"cuda": None, "hip": "6.2"}, "kernels are for NVIDIA GPUs"),
]


@pytest.mark.parametrize(("fault", "said"), FAULTS)
def test_one_warning_says_what_is_missing_and_the_command(fault, said, machine):
    machine(**fault)
    with pytest.warns(UserWarning, match="PyTorch operations do the work of the kernels on cuda, more slowly: ") as warned:
        assert [source.available(CUDA) for _ in range(3)] == [False] * 3
    assert len(warned) == 1
    assert said in str(warned[0].message)


def test_a_cache_that_cannot_be_written_is_named(machine, tmp_path, monkeypatch):
    machine()
    (tmp_path / "file").touch()
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "file" / "cache"))
    said = "CuPy cannot write to .*file.cache .*: set CUPY_CACHE_DIR to a folder that can be written"
    with pytest.warns(UserWarning, match=said):
        assert not source.available(CUDA)
    device.kernels_missing.cache_clear()
    monkeypatch.setenv("CUPY_CACHE_IN_MEMORY", "1")
    assert source.available(CUDA)


@pytest.mark.parametrize("wheels", [{"cupy-cuda13x": "14.2.0"}, {"cupy": "14.2.0"}])
def test_kernels_run_where_nothing_is_missing(wheels, machine):
    machine(wheels=wheels)
    assert source.available(CUDA)
    assert doctor.describe()["path"] == "kernels compiled by CuPy on NVIDIA H200"
    assert doctor.describe()["advice"] == "nothing faster is available in this version"


def test_a_cpu_is_no_fault(machine):
    machine()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not source.available(torch.device("cpu"))


CPUS = [
    ("flags\t\t: fpu avx512f avx512_bf16 avx512_vnni\n", True),
    ("model name\t: a\nflags\t\t: fpu avx2 amx_tile amx_bf16\nbugs\t: spectre\n", True),
    ("flags\t\t: fpu avx2 avx_ne_convert\n", True),
    ("flags\t\t: fpu avx2 avx512f\nbugs\t\t: bf16\n", False),
    ("Features\t: fp asimd sve svebf16 bf16\n", True),
    ("Features\t: fp asimd\n", False),
    ("processor\t: 0\nisa\t\t: rv64imafdc\n", None),
    (None, None),
]


@pytest.fixture
def cpu(monkeypatch):
    """A CPU as described by PyTorch, or else by Linux; None if that is silent."""

    def make(by_torch=None, by_linux=None):
        def read(**settings):
            if by_linux is None:
                raise FileNotFoundError("/proc/cpuinfo")
            return by_linux

        if by_torch is None:
            monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
        else:
            monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: by_torch, raising=False)
        monkeypatch.setattr(device, "Path", {"/proc/cpuinfo": SimpleNamespace(read_text=read)}.__getitem__)
        device.cpu_bfloat16.cache_clear()

    yield make
    device.cpu_bfloat16.cache_clear()


@pytest.mark.parametrize(("cpuinfo", "has"), CPUS)
def test_linux_says_whether_a_cpu_has_instructions_for_bfloat16(cpuinfo, has, cpu):
    cpu(by_linux=cpuinfo)
    assert device.cpu_bfloat16() is has


@pytest.mark.parametrize(
    ("capabilities", "has"),
    [
        ({"avx2": True, "avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": True}, True),
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"neon": True, "bf16": True}, True),
        ({"neon": True, "bf16": False}, False),
        ({"architecture": "unknown"}, None),
    ],
)
def test_pytorch_says_whether_a_cpu_has_instructions_for_bfloat16(capabilities, has, cpu):
    cpu(by_torch=capabilities)
    assert device.cpu_bfloat16() is has


@pytest.mark.parametrize(
    ("capabilities", "said"),
    [
        ({"bf16": True}, ", instructions for bfloat16"),
        ({"bf16": False}, ", no instructions for bfloat16: float32 is likely as fast"),
        ({}, ", nothing is known of instructions for bfloat16"),
    ],
)
def test_doctor_says_whether_the_cpu_has_bfloat16(capabilities, said, cpu, capsys):
    cpu(by_torch=capabilities)
    assert main.main(["doctor"]) == 0
    assert f"\ncpu          {torch.backends.cpu.get_cpu_capability()}{said}\n" in capsys.readouterr().out


def test_doctor_says_which_path_runs_and_the_command(machine, capsys):
    machine(wheels={})
    assert main.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "path         PyTorch operations on NVIDIA H200\n" in said
    assert 'CuPy is not installed: pip install "gpulime[cuda13]"\n' in said


@pytest.mark.parametrize(
    ("cuda", "advice"), [("13.0", "check nvidia-smi"), (None, "pip install --force-reinstall torch torchvision")]
)
def test_doctor_without_a_gpu(cuda, advice, machine):
    machine(cuda=cuda, driver=False)
    assert doctor.describe()["path"].startswith("PyTorch on the CPU")
    assert advice in doctor.describe()["advice"]


@pytest.mark.parametrize(
    ("said", "on_cpu"),
    [
        ("uncorrectable label 7", False),
        ("launch failure", False),
        ("CUDA error: an illegal memory access was encountered", True),
    ],
)
def test_only_a_gpu_is_lost(said, on_cpu):
    assert device.lost(RuntimeError(said), torch.device("cpu")) is on_cpu
    assert device.lost(RuntimeError(said), torch.device("cuda"))


@pytest.mark.parametrize(
    ("error", "ran_out"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("Triton Error [CUDA]: out of memory"), True),
        (RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_memory_that_ran_out_is_recognised(error, ran_out):
    assert device.out_of_memory(error) is ran_out
