"""Digests of the code of models and functions, so that rows of two different ones are never mixed in one run."""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
import textwrap
from typing import Any

from torch import nn

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
