"""Digests of weights and of the code of models and functions, so that rows of different ones are never mixed in one run."""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
import textwrap
from typing import Any

import torch
from torch import Tensor, nn

from gpulime.errors import GpulimeError, line_of

LIBRARIES = ("torch", "torchvision", "timm", "gpulime", "builtins")  # identified by name, with settings from a module's repr
INSTALLED = ("site-packages", "dist-packages")
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # differs in each process


def named(value: Any) -> str:
    """The module and name of a function or class, or of an object's class."""
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"


def described(value: Any) -> str:
    """The name of a model or function, and a digest of its code: a module's repr, and the source of user code.

    Comments and layout do not count. Functions that the code calls, and code without a source file, are not seen.
    """
    modules = list(value.modules()) if isinstance(value, nn.Module) else []
    kinds: set[Any] = {type(module) for module in modules} or {value if inspect.isfunction(value) else type(value)}
    code = {base for kind in kinds for base in getattr(kind, "__mro__", [kind])}
    replaced = [vars(module)["forward"] for module in modules if "forward" in vars(module)]
    sources = sorted({_source(one) for one in [*code, *replaced]})
    shown = ADDRESS.sub("", repr(value)) if modules else ""
    return f"{named(value)} sha256 {hashlib.sha256(repr([shown, sources]).encode()).hexdigest()[:16]}"


def _source(code: Any) -> str:
    """The source of a function or class in a normal form; empty if it belongs to a library or is missing."""
    if str(getattr(code, "__module__", "")).partition(".")[0] in LIBRARIES:
        return ""
    try:
        if any(folder in str(inspect.getsourcefile(code)) for folder in INSTALLED):
            return ""
        text = textwrap.dedent(inspect.getsource(code))
    except (OSError, TypeError):  # typed into Python, or built in
        return ""
    try:
        return ast.unparse(ast.parse(text))
    except SyntaxError:  # a lambda in the middle of its line
        return text


def sha256(model: nn.Module) -> str:
    """Digest of all parameters and buffers: their names in order, dtypes, shapes and bytes.

    Raises
    ------
    GpulimeError
        If one of them has no values yet, as in lazy modules and on the device "meta".
    """
    found = hashlib.sha256()
    for name, value in sorted({**model.state_dict(), **dict(model.named_buffers())}.items()):
        if isinstance(value, Tensor):
            content = _bytes(name, value)
            found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            found.update(content)
    return found.hexdigest()


def _bytes(name: str, value: Tensor) -> memoryview:
    try:
        dense = value.detach().cpu().to_dense()
        return dense.contiguous().reshape(-1).view(torch.uint8).numpy().data
    except Exception as error:
        raise GpulimeError(f"the values of the model's {name!r} cannot be read: {line_of(error)}") from error
