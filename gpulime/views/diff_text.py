"""The comparison of two runs as lines for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from gpulime.classes import called
from gpulime.runs.progress.terminal import printable
from gpulime.views.diff import QUANTILES, TOP, Diff

SHOWN = 10
NAME_WIDTH = 36


def table(diff: Diff) -> str:
    """The comparison as lines for a terminal: the settings that differ, the summary, the most changed images."""
    head = [("A", str(diff.a)), ("B", str(diff.b)), *((name, f"{a} -> {b}") for name, a, b in diff.settings), *diff.summary]
    width = max(len(term) for term, _ in [*head, *diff.spreads]) + 2
    found = [f"{term:{width}}{printable(value)}" for term, value in head]
    found += ["", f"{'over all labels':{width}}" + "".join(f"{name:>8}" for name in quantile_names())]
    for term, values in diff.spreads:
        numbers = "not known" if values is None else "".join(f"{value:8.3f}" for value in values)
        found.append(f"{term:{width}}{numbers}")
    if diff.images:
        found += [
            "",
            f"{'most changed':{NAME_WIDTH}}  {'top label in A':30}  {'in B':30}  {'rank corr.':>10}  {f'top {TOP}':>5}",
        ]
    for image in diff.images[:SHOWN]:
        lead = image.leading
        same = image.top_a[0] == image.top_b[0]
        tops = (_called(*image.top_a, diff.names_a), "same" if same else _called(*image.top_b, diff.names_b))
        correlation = "-" if lead is None or lead.correlation is None else f"{lead.correlation:.3f}"
        overlap = "-" if lead is None or lead.overlap is None else f"{lead.overlap:.0%}"
        name = printable(image.image_id)
        name = name if len(name) <= NAME_WIDTH else f"...{name[3 - NAME_WIDTH :]}"
        found.append(f"{name:{NAME_WIDTH}}  {tops[0]:30}  {tops[1]:30}  {correlation:>10}  {overlap:>5}")
    return "\n".join(found)


def quantile_names() -> list[str]:
    """Names of the columns of `Diff.spreads`."""
    return ["median" if quantile == 0.5 else f"{quantile:.0%}" for quantile in QUANTILES]


def _called(label: int, probability: float, names: Sequence[str] | None) -> str:
    return f"{printable(called(label, names)):.23} {probability:.3f}"
