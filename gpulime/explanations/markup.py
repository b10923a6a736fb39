"""Pieces of HTML that the views of images, texts and rows share: cells, colours, numbers.

Styles are inline, for a style sheet could affect the rest of a notebook. Text keeps the colour around it, and grounds are
translucent, so that both are read on light and dark themes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from html import escape

from gpulime.explanations import shades

LINE = "1px solid rgba(128,128,128,0.35)"
CELL = f"padding:2px 14px 2px 0;text-align:left;vertical-align:baseline;border:0;border-bottom:{LINE};background:none"
NUMBER = CELL.replace("text-align:left", "text-align:right")
LEFT, RIGHT = "text-align:left", "text-align:right"  # of cells, for tables of many rows
QUIET = "opacity:0.7;font-size:90%"
TABLE = "border-collapse:collapse;margin:0;font-variant-numeric:tabular-nums"
LONG = 24  # characters of a name; a longer one is broken into lines of at most as many ems
LONGEST = 100  # characters of a name that are shown; of a longer one the middle is left out
MORE = 90  # bytes of the line that counts the rest
ROOM = 5_250  # bytes of the view of an input, beside a text
ANYWHERE = "overflow-wrap:anywhere;white-space:normal"
WRAPPED = f"display:inline-block;max-width:24em;{ANYWHERE};vertical-align:top"
TINT = 0.4  # opacity of the deepest ground below text, in [0, 1]: text on it has a contrast of 4.5 in all common themes


def square(sign: float) -> str:
    """A small square in the colour of a sign."""
    colour = shades.FOR if sign > 0 else shades.AGAINST
    return f'<span style="display:inline-block;width:0.7em;height:0.7em;border-radius:2px;background:{colour}"></span>'


def tint(weight: float, largest: float, faded: bool) -> str:
    """The ground of a text with some weight, as a colour."""
    depth = TINT * min(abs(weight) / largest, 1) * (shades.FADED if faded else 1)
    return f"{shades.FOR if weight > 0 else shades.AGAINST}{round(255 * depth):02x}"


def weighted(part: str, weight: float, largest: float, after: str = "") -> str:
    """A part, as HTML, with a square in the colour of its weight, and the weight."""
    said = f"{square(weight)} {part}&nbsp;{shades.signed(weight, largest)}{after}"
    return f'<span style="display:inline-block;margin-right:12px">{said}</span>'


def figures(value: float, form: str) -> str:
    """A number with a minus sign of the width of a plus."""
    return f"{value:{form}}".replace("-", "\N{MINUS SIGN}")


def number(value: float | None, decimals: int) -> str:
    """A number, or a dash if it is missing or not finite."""
    return "\N{EN DASH}" if value is None or not math.isfinite(float(value)) else figures(float(value), f".{decimals}f")


def name(text: object, style: str = WRAPPED) -> str:
    """Escaped text in its own direction, right-to-left names included.

    A long one is shortened, and broken into lines: those of its cell, or with the style `ANYWHERE` those of the text around it.
    """
    said = str(text)
    if len(said) > LONGEST:
        said = f"{said[: LONGEST // 2]}\N{HORIZONTAL ELLIPSIS}{said[1 - LONGEST // 2 :]}"
    styled = f' style="{style}"' if len(said) > LONG else ""
    return f"<bdi{styled}>{escape(said)}</bdi>" if styled or not said.isascii() else escape(said)


def fitting(rows: Sequence[str], room: int) -> list[str]:
    """The first rows, as many as take ``room`` bytes with a line that counts the rest, and at least one."""
    ends = list(itertools.accumulate(size(row) for row in rows))
    room -= MORE if ends and ends[-1] > room else 0
    return [row for row, end in zip(rows, ends, strict=True) if end <= room] or list(rows[:1])


def size(html: str) -> int:
    """Bytes of a piece in a file."""
    return len(html.encode("utf-8", "backslashreplace"))


def more(count: int, what: str) -> str:
    """A line that counts what is not shown."""
    return f'<p style="{QUIET};margin:6px 0 0">and {count:,} more {what}{"s" * (count > 1)}</p>' if count > 0 else ""


def row(cells: Iterable[tuple[str, str]], tag: str = "td") -> str:
    """A row of a table from pairs (HTML, style), of which a style may be empty; the style of a heading is made quiet."""
    quiet, scope = (f";font-weight:normal;{QUIET}", ' scope="col"') if tag == "th" else ("", "")
    styled = ((text, f' style="{style}{quiet}"' if style or quiet else "") for text, style in cells)
    return "<tr>" + "".join(f"<{tag}{scope}{style}>{text}</{tag}>" for text, style in styled) + "</tr>"


def table(caption: str, rows: Iterable[str], head: str = "") -> str:
    """A table with a caption, both HTML; the caption has the table's width."""
    shown = f'<caption style="text-align:left;padding:0 0 4px;color:inherit">{caption}</caption>'
    heading = f"<thead>{head}</thead>" if head else ""
    return f'<table cellpadding="3" style="{TABLE}">{shown}{heading}<tbody>{"".join(rows)}</tbody></table>'
