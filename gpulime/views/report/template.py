"""The templates of the pages."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from gpulime.runs.progress.terminal import printable

HERE = Path(__file__).parent


@cache
def template(name: str) -> jinja2.Template:
    """The template in the file of that name."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,  # always: by its name Jinja2 would not take .html.j2 for HTML
        finalize=visible,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _source(name: str) -> str:
    """A file without its indentation, which is 0.6 KB an image."""
    return re.sub(r"^ +", "", (HERE / name).read_text(encoding="utf-8"), flags=re.MULTILINE)


def visible(value: Any) -> Any:
    """Show newlines, control characters and changes of writing direction in a name instead of obeying them."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
