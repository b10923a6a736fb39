"""Every kernel compiles for every architecture, in registers alone."""

from __future__ import annotations

import locale

import nvrtc
import pytest

from gpulime.errors import GpulimeError
from gpulime.ops import source


@pytest.fixture
def compiler():
    if reason := nvrtc.missing(90):
        pytest.skip(reason)
    return nvrtc


@pytest.mark.parametrize(
    ("architecture", "every"),
    [(90, 4), *(pytest.param(one, 1, marks=pytest.mark.long) for one in nvrtc.ARCHITECTURES)],
    ids=["some variants-90", *map(str, nvrtc.ARCHITECTURES)],
)
@pytest.mark.parametrize("file", sorted(path.name for path in source.folder().glob("*.cu")))
def test_kernels_compile_and_stay_in_registers(file, architecture, every):
    if reason := nvrtc.missing(architecture):
        pytest.skip(reason)
    variants = [wanted for wanted in nvrtc.sources() if wanted.file == file]
    kernels = {wanted: nvrtc.kernels(wanted, architecture) for wanted in variants[::every]}
    assert kernels
    for wanted, made in kernels.items():
        assert made, f"{wanted} has no kernel"
        for kernel in made:
            print(f"{wanted.file} {dict(wanted.defines)} sm_{architecture}: {kernel}")
            assert kernel.stack <= nvrtc.MOST_STACK, f"{wanted}: {kernel}"


def test_a_compile_error_names_file_and_line(compiler, monkeypatch, tmp_path):
    monkeypatch.setattr(source, "folder", lambda: tmp_path)
    (tmp_path / "head.cuh").write_text("\n\nint first = nothing;\n")
    (tmp_path / "trial.cu").write_text('// A comment\n#include "head.cuh"\n\nint second = nothing;\n')
    with pytest.raises(GpulimeError, match=r"kernels/trial.cu does not compile for sm_90:") as error:
        compiler.kernels(source.Source("trial.cu"), 90)
    assert "head.cuh(3): error" in str(error.value)
    assert "trial.cu(4): error" in str(error.value)


def test_local_memory_is_seen(compiler, monkeypatch, tmp_path):
    monkeypatch.setattr(source, "folder", lambda: tmp_path)
    (tmp_path / "trial.cu").write_text("""
extern "C" __global__ void __launch_bounds__(1024) trial(const float* in, float* out) {
    float all[256];
    for (int i = 0; i < 256; ++i) all[i] = in[i * 1024 + threadIdx.x];
    __syncthreads();
    for (int i = 0; i < 256; ++i) out[i * 1024 + threadIdx.x] = all[i] * all[255 - i];
}
""")
    (kernel,) = compiler.kernels(source.Source("trial.cu"), 90)
    assert kernel.name == "trial"
    assert kernel.stack > nvrtc.MOST_STACK


def test_unused_variables_are_seen(compiler, monkeypatch, tmp_path):
    monkeypatch.setattr(source, "folder", lambda: tmp_path)
    (tmp_path / "trial.cu").write_text('extern "C" __global__ void trial() { int unused; }')
    with pytest.raises(GpulimeError, match="was declared but never referenced"):
        compiler.kernels(source.Source("trial.cu", (("SECOND", "1"),)), 90)


def test_an_architecture_that_the_compiler_does_not_know_is_skipped_with_its_words(compiler):
    assert "invalid value for --gpu-architecture" in compiler.missing(999)
    assert not any(map(compiler.missing, compiler.ARCHITECTURES[:3]))


def test_a_compilation_leaves_the_callers_locale(compiler, monkeypatch, tmp_path):
    monkeypatch.setattr(source, "folder", lambda: tmp_path)
    (tmp_path / "trial.cu").write_text('extern "C" __global__ void trial() {}')
    before = locale.nl_langinfo(locale.CODESET)
    compiler.kernels(source.Source("trial.cu", (("LOCALE", "1"),)), 90)
    assert locale.nl_langinfo(locale.CODESET) == before
