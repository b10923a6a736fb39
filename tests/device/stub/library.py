"""Build the stub of CUDA for the installed PyTorch, and the environment of programs that run on it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import torch

from tests.device.stub import elf

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
SITE = Path(torch.__file__).parents[1]
LIBRARY = "libcuda.so.1"  # the driver's name, so that a program that looks for the driver gets the stub
CUPY = "14.2.0"

_CUDA = re.compile(r"(__)?(cu|nv|nccl)\w+")
_DRIVER = re.compile(r"\bcu[A-Z]\w+")
_TEXT, _HANDLE, _VERSION = map(re.compile, (r"\w+Get(Error|Status)\w*", r"\w+Create(_v\d)?", r"\w+GetVersion"))


def missing() -> str | None:
    """The reason why the stub cannot be built here; None if it can."""
    if sys.platform != "linux" or torch.version.cuda is None:
        return f"needs a PyTorch for CUDA on Linux; this one is {torch.__version__}"
    if _compiler() is None:
        return "needs a C compiler: there is no cc, gcc or clang"
    header = next((name for name in ("driver_types.h", "cuda.h") if not _header(name)), None)
    return f"needs {header} of CUDA, which is not in {SITE}" if header else None


def build(folder: Path) -> Path:
    """Put into ``folder`` what programs need: the stub, and a CuPy that launches on it."""
    rest = folder / "rest.c"
    rest.write_text('#include "stub.h"\n' + "".join(f"{_kind(name)}({name})\n" for name in names()), encoding="utf-8")
    major, minor = torch.version.cuda.split(".")[:2]
    # The runtime's headers include headers of nvcc, of which Triton has a copy.
    includes = [f"-I{path}" for path in (HERE, _header("driver_types.h").parent, SITE / "triton/backends/nvidia/include")]
    flags = ("-shared", "-fPIC", "-O1", "-Wall", "-fno-builtin", f"-DVERSION={major}{int(minor):02}0")
    command = [_compiler(), *flags, *includes, HERE / "stub.c", rest, f"-Wl,-soname,{LIBRARY}", "-o", folder / LIBRARY]
    done = subprocess.run([*command, "-lpthread", "-ldl"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    (folder / LIBRARY.removesuffix(".1")).symlink_to(LIBRARY)  # Triton of PyTorch 2.6 links with it
    shutil.copy(HERE / "cupy_stub.py", folder / "cupy.py")
    about = folder / f"cupy_cuda{major}x-{CUPY}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: cupy-cuda{major}x\nVersion: {CUPY}\n", encoding="utf-8")
    return folder


def environment(folder: Path, tree: Path, triton: bool = False) -> dict[str, str]:
    """Environment of a program that runs the gpulime of ``tree`` on the stub in ``folder``.

    Without ``triton`` no compiler is on its PATH, as on most machines that run models, so Triton fails if it is used.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CC", "CUDA_", "PYTORCH_", "TRITON_"))}
    made = {"LD_PRELOAD": str(folder / LIBRARY), "PYTHONPATH": os.pathsep.join(map(str, (folder, tree, ROOT)))}
    found = {"LD_LIBRARY_PATH": str(folder), "TRITON_CACHE_DIR": str(folder / "triton")} if triton else {"PATH": str(folder)}
    return kept | made | found | {"GPULIME_CACHE": "off"}


@cache
def names() -> list[str]:
    """Functions of CUDA and its libraries that PyTorch's libraries ask for, and all of the driver."""
    needed = set().union(*(elf.symbols(path).needed for path in SITE.glob("torch/lib/*.so*")))
    libraries = {
        path.resolve() for package in ("nvidia", "cusparselt", "torch") for path in SITE.glob(f"{package}/**/lib/*.so*")
    }
    there = set().union(*(elf.symbols(path).functions for path in libraries))
    driver = _DRIVER.findall(_header("cuda.h").read_text(encoding="utf-8"))
    return sorted(name for name in (needed & there) | set(driver) if _CUDA.fullmatch(name) and not _VERSION.fullmatch(name))


def _kind(name: str) -> str:
    """The macro of stub.h for a function: most only succeed, some give a text or a handle."""
    return "TEXT" if _TEXT.fullmatch(name) else "HANDLE" if _HANDLE.fullmatch(name) else "NOTHING"


def _compiler() -> str | None:
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def _header(name: str) -> Path | None:
    return next(SITE.glob(f"nvidia/**/include/{name}"), None)
