"""Programs that some tests need, each tried once: the reason why it does not work here, or None."""

from __future__ import annotations

import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path

import browser
import torch


@cache
def gpp(*flags):
    """g++ with ``flags``, and objdump: a program of one line is compiled, run and listed."""
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "one.cpp"), Path(folder, "one")
        source.write_text("#include <vector>\nint main() { return std::vector<int>(1)[0]; }\n")
        for command in (["g++", *flags, source, "-o", program], [program], ["objdump", "--syms", program]):
            try:
                done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
            except OSError as error:
                return f"needs g++ and objdump: {error}"
            if done.returncode:
                return f"needs {Path(command[0]).name} {' '.join(flags)}, which fails: {_short(done.stderr)}"
    return None


@cache
def inductor(kind):
    """PyTorch's compiler on a kind of device, such as "cpu": a function of one line is compiled."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.compile(lambda x: x + 1)(torch.ones(3, device=kind))
    except Exception as error:  # of any kind: Inductor's, of Dynamo, the C++ compiler's
        return f"needs torch.compile, which fails: {_short(str(error))}"
    finally:
        torch.compiler.reset()
    return None


@cache
def chromium():
    """A browser that starts."""
    if not browser.find():
        return f"needs a browser: none of {', '.join(browser.NAMES)} is installed"
    try:
        with browser.Browser(browser.find()):
            return None
    except (OSError, AssertionError) as error:
        return f"needs a browser, and {browser.find()} does not start: {_short(str(error))}"


def _short(text):
    """The first line that is not empty."""
    return next((line for line in text.splitlines() if line.strip()), "it says nothing")[:200]
