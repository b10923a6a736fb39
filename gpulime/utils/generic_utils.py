"""lime's helper for signatures: ``from lime.utils.generic_utils import has_arg`` with this package's name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def has_arg(fn: Callable[..., Any], arg_name: str) -> bool:
    """Tell if a callable has a parameter of that name which may be given by it; ``**kwargs`` do not count."""
    try:
        signature = inspect.signature(fn)
    except ValueError:  # a compiled class without a signature of its own
        signature = inspect.signature(type(fn).__call__)
    parameter = signature.parameters.get(arg_name)
    return parameter is not None and parameter.kind in BY_NAME
