"""``python -m benchmarks.table [--write]``: the tables of the README and of docs/, from results/*.csv."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from itertools import groupby
from pathlib import Path
from statistics import fmean, geometric_mean
from typing import TYPE_CHECKING, Any

from benchmarks import ablation, gpu_rows, growth, host_time, run
from benchmarks import rows as store
from benchmarks.convergence import stopping, summary
from benchmarks.convergence.measure import LIME_S
from benchmarks.entries import ENTRIES
from benchmarks.peers import compare
from benchmarks.peers.field import COMPARISONS
from gpulime.engine.quality import QUALITIES

if TYPE_CHECKING:
    from benchmarks import picks, tabular, texts, tutorials

Blocks = Mapping[str, Callable[[], str]]
ROOT = store.HERE.parent
NOTHING = "Not measured yet.\n"
WRONG = "none: its coefficients are wrong"
ORDER = [comparison.name for each in COMPARISONS.values() for comparison in each]
EQUAL_ERROR = {  # entries of benchmarks.run: what they are beside, and the least ratio to an equal error
    "lime_tutorial_float32": ("lime as its tutorials call it, float32", 5),
    "lime_tutorial_bfloat16": ("the same, our model in bfloat16", 9),
    "captum_float32": ("captum's Lime at its best batch, float32", 4),
}
STAGES = ("logits", "head", "blocks 12-15", "blocks 6-11", "blocks 0-5", "stem", "convolution 2", "convolution 1")
VERDICTS = {"yes": "ok", "no": "**FAILED**", "": ""}


def lines(columns: str, rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; its columns are separated by |."""
    head, *body = (" | ".join(cell.replace("|", r"\|") for cell in cells) for cells in [columns.split(" | "), *rows])
    return "".join([f"| {head} |\n", "|---" * len(columns.split(" | ")), "|\n", *(f"| {cells} |\n" for cells in body)])


def spread(row: Any, time: str, wrong: str = WRONG) -> str:
    """A median with its quantiles."""
    return f"{time} ({row.q20} to {row.q80})" if time else wrong


def of_run(rows: Sequence[run.Row]) -> str:
    """Entries that have a time."""
    about = {entry.name: entry.about for entry in ENTRIES}
    shown = []
    for name, sides in groupby(rows, key=lambda row: row.entry):
        ours, *theirs = sides
        if name in about and ours.cpu_s:
            hardest = next(row for row in theirs if row.ratio == ours.ratio)
            ratio = f"**{ours.ratio}** ({ours.paired}){'' if ours.ok == 'yes' else ' (missed)'}"
            times = (f"{float(ours.cpu_s):.2f} s", f"{float(hardest.cpu_s):.2f} s, {hardest.side}")
            shown.append((about[name], ratio, ours.bound, *times, ours.error, ours.top5))
    return lines("CPU time | ratio (paired) | must be | gpulime | beside it | error | top 5", shown) if shown else ""


def of_peers(rows: Sequence[compare.Row]) -> str:
    """Comparisons, the fastest side first in each; below them the differences that remain."""
    known = [row for row in rows if row.comparison in ORDER]
    known.sort(key=lambda row: (ORDER.index(row.comparison), float(row.s or "inf")))
    shown = [
        (
            f"{row.comparison}: {row.side}",
            spread(row, row.s, f"none: {row.reason}" if row.reason else WRONG),
            row.images_s,
            f"**{row.ratio}**" if row.ratio else "",
            row.error or "other masks" * bool(row.unlike),
            row.spearman,
            row.top5,
        )
        for row in known
    ]
    unlike = {f"{row.side} {row.version}": row.unlike for row in known if row.unlike}
    notes = "".join(f"- {side}: {what}.\n" for side, what in unlike.items())
    columns = " | seconds (20 to 80 %) | images/s | times ours | error | rank correlation | top 5"
    return f"{lines(columns, shown)}\n{notes}" if known else ""


def of_ablation(rows: Sequence[ablation.Row]) -> str:
    """The rungs, in their order."""
    shown = [
        (
            f"{row.model}: {row.rung}",
            row.precision,
            spread(row, row.s),
            row.rows_s,
            row.gain,
            f"**{row.total}**" if row.total else "",
            row.error,
            row.top5,
        )
        for row in rows
    ]
    return lines(" | precision | seconds (20 to 80 %) | rows/s | over the rung before | in all | error | top 5", shown)


def of_growth(rows: Sequence[growth.Row]) -> str:
    """The powers of each axis, below the plot."""
    shown = []
    for axis in dict.fromkeys(row.axis for row in rows):
        first, *_, last = (row for row in rows if row.axis == axis)
        ends = (f"{float(getattr(first, field)):.3g} to {float(getattr(last, field)):.3g}" for field in ("s_each", "mb"))
        powers = (last.time_power, last.time_most, last.memory_power, last.memory_most)
        shown.append((growth.NAMES[axis], f"{int(first.value):,}", f"{int(last.value):,}", *ends, *powers))
    plotted = f"../benchmarks/results/growth/{store.file_of(rows[0].device).stem}.svg"
    columns = " | from | to | seconds | MB | time's power | at most | memory's power | at most"
    return f"![Time and memory over {', '.join(growth.NAMES.values())}]({plotted})\n\n{lines(columns, shown)}"


def of_convergence(rows: Sequence[summary.Row]) -> str:
    """A case's pairs, the fewest forwards first; several games of a case are synthetic."""
    shown = []
    for pair, points in summary.curves(rows).items():
        at = [row for row in rows if row.pair == pair and row.s == "256" and row.ratio]
        each = [float(row.ratio) for row in at]
        top5, covered = ([float(value) for row in at if (value := getattr(row, name))] for name in ("top5", "covered"))
        ratio = f"{geometric_mean(each):.3f}" + (f" ({min(each):.3f} to {max(each):.3f})" if len(each) > 1 else "")
        needed = summary.enough(points)
        inside = f"{fmean(covered):.3f}" if covered else ""
        shown.append(
            (needed, str(pair), f"{needed:.0f}" if needed < math.inf else "", ratio, f"{fmean(top5):.3f}", inside, at[0].ms)
        )
    columns = "{} | forwards to lime's error | error ratio at 256 | top 5 at 256 | covered at 256 | ms at 256"
    table = lines(columns.format(rows[0].case), [cells for _, *cells in sorted(shown)])
    worst = [
        (
            str(row.pair),
            row.ratio,
            f"{row.games}, s = {row.s}",
            f"at most {bound}",
            VERDICTS[store.yes(float(row.ratio) <= bound)],
        )
        for row, bound in summary.worst(rows)
    ]
    head = f"{rows[0].case}: s >= 4 k | largest error ratio | game | which must be | "
    return f"{table}\n{lines(head, worst)}" if worst else table


def of_stopping(rows: Sequence[stopping.Row]) -> str:
    """Rules of adaptive stopping, in the order of the cases."""
    shown = [
        (f"{row.case}: {row.rule}", row.forwards, row.most, row.fixed, row.to_lime, row.top5, row.wrong)
        for row in sorted(rows, key=lambda row: (row.case, row.rule.startswith("top"), -float(row.rule.split()[1].rstrip(","))))
    ]
    columns = (
        " | forwards, mean | most | forwards of all alike, at the same error | error, as a share of lime's | top 5 | wrong"
    )
    return lines(columns, shown)


def _beside_lime(rows: Sequence[Any], about: Callable[[Any], str], time: Callable[[Any], str]) -> str:
    """Each entry's sides of gpulime beside lime, which was measured in turns with them; a coverage has no time."""
    shown = []
    for _, group in groupby(sorted(rows, key=lambda row: row.entry), key=lambda row: row.entry):
        sides = list(group)
        of_lime = next((time(row) for row in sides if row.side == "lime"), "")
        ours = [row for row in sides if row.side != "lime"]
        shown += [
            (about(row), time(row), of_lime, f"**{row.ratio}**", row.bound, row.error, VERDICTS[row.ok] if row.bound else "")
            for row in ours
        ]
    return lines(" | time | lime's | times as fast | which must be | error | ", shown)


def of_texts(rows: Sequence[texts.Row]) -> str:
    """Texts: milliseconds of each, and coverages of intervals."""
    shown = [replace(row, ratio=row.ratio or row.coverage) for row in rows]
    return _beside_lime(
        shown,
        lambda row: f"{row.side.removeprefix('gpulime.')}: {row.about}, {row.words} words, {row.samples} samples",
        lambda row: f"{1000 * float(row.s):.3g} ms" if row.s else "coverage",
    )


def of_tables(rows: Sequence[tabular.Row]) -> str:
    """Tables: milliseconds a row, and coverages of intervals."""
    return _beside_lime(
        rows,
        lambda row: f"{row.entry.replace('_', ' ')} ({row.table}, {row.model})",
        lambda row: f"{row.ms_per_row} ms" if row.ms_per_row else "coverage",
    )


def of_tutorials(rows: Sequence[tutorials.Row]) -> str:
    """Explanations of the scripts in examples/."""
    return _beside_lime(rows, lambda row: f"examples/{row.entry}.py", lambda row: f"{row.ms} ms")


def of_picks(rows: Sequence[picks.Row]) -> str:
    """Picks of explanations beside lime's."""
    return _beside_lime(
        rows,
        lambda row: f"{row.entry}: {row.picks} of {row.n}, {row.side}",
        lambda row: f"{row.cpu_s} s",
    )


def of_gpu(rows: Sequence[gpu_rows.Row]) -> str:
    """Rows with a time or a bound, or with the reason for having no time."""
    shown = [
        (
            f"{row.entry}: {row.side}",
            spread(row, row.ms, f"none: {row.reason}" if row.reason else ""),
            f"{row.rate} {row.unit}/s" if row.rate else "",
            row.ratio,
            row.bound,
            row.error,
            VERDICTS[row.ok],
        )
        for row in rows
        if row.ms or row.ratio or row.reason
    ]
    return lines(" | ms (20 to 80 %) | rate | ratio | which must be | error | ", shown) if shown else ""


def of_host_time(rows: Sequence[host_time.Row]) -> str:
    """Times of the host before and now."""
    shown = [
        (f"{row.entry}: {row.side}", row.before_ms, row.ms, spread(row, row.ratio), row.bound, VERDICTS[row.ok]) for row in rows
    ]
    return lines(f" | ms at {rows[0].before} | ms | ratio (20 to 80 %) | which must be | ", shown)


def of_columns(rows: Sequence[Any], names: Mapping[str, str]) -> str:
    """Some columns of rows, with their names in the table; a verdict is spelled out."""
    cells = ([VERDICTS[value] if name == "ok" else value for name in names for value in [getattr(row, name)]] for row in rows)
    return lines(" | ".join(names.values()), cells)


def of_cascade(rows: Sequence[Any]) -> str:
    """Signed rank correlation with the trained model's maps, a column for each stage, most damaged last, and the ceiling."""
    found = []
    for entry, of_entry in groupby(rows, key=lambda row: row.entry):
        some = sorted(of_entry, key=lambda row: row.method)
        stages = sorted({row.stage: float(row.spread) for row in some}.items(), key=lambda one: STAGES.index(one[0]))
        shown: list[Sequence[str]] = []
        for name, each in groupby(some, key=lambda row: row.method):
            by_stage = {row.stage: row for row in each}
            verdict = max((row.ok for row in by_stage.values()), key=["", "yes", "no"].index)
            values = (by_stage[stage].spearman or "stopped" for stage, _ in stages)
            shown.append((name, *values, next(iter(by_stage.values())).ceiling, VERDICTS[verdict]))
        shown.append(("spread of the logits", *(f"{spread:.1e}" for _, spread in stages), "", ""))
        found.append(lines(f"{entry} | {' | '.join(stage for stage, _ in stages)} | another seed | bounds", shown))
    return "\n".join(found)


def wanted() -> str:
    """The bounds of fewer forwards, and why some are missed."""
    from benchmarks.convergence.bounds import bounds

    shown = [(one.about, one.wanted, one.reached, "ok" if one.ok else f"**missed**: {one.why}") for one in bounds()]
    return lines(" | wanted | reached | ", shown) if shown else NOTHING


def of_shapley(rows: Sequence[Any]) -> str:
    """Errors of Shapley values at 1024 forwards."""
    shown = [(row.game, row.side, row.mse, row.ratio, row.covered) for row in rows if row.forwards == "1024"]
    return lines("game | side | squared error | of shap's | covered", shown)


def equal_error() -> str:
    """Ratios of time to an equal error: those at equal samples, times lime's 1000 samples over the forwards of "fast"."""
    from benchmarks.convergence.bounds import FAST, of, read_all

    s = str(QUALITIES["fast"].expected - 1)
    one = next((row for row in of("photographs") if (row.pair, row.s) == (FAST, s)), None)
    if one is None:
        return NOTHING
    measured = read_all(run.Row)
    shown = []
    for entry, (beside, least) in EQUAL_ERROR.items():
        kept = [row for row in measured if row.entry == entry and row.bound and row.ratio]
        for row in kept:
            ratio = float(row.ratio) * LIME_S / int(one.forwards)
            cells = (beside, row.ratio, one.forwards, one.to_lime, f"**{ratio:.1f}**", f"at least {least}")
            shown.append((*cells, VERDICTS[store.yes(ratio >= least)]))
        if not kept:
            shown.append((beside, "not measured yet", "", "", "", f"at least {least}", ""))
    columns = "beside | at equal samples | forwards | their error, of lime's at 1000 | times as fast | which must be | "
    return lines(columns, shown)


def devices(kind: type[Any], table: Callable[[list[Any]], str], field: str = "date", names: str = "") -> str:
    """The tables of all devices, each below its device, versions, dates and commits, of rows whose field matches ``names``."""
    found = []
    for path in sorted((store.RESULTS / kind.FOLDER).glob("*.csv")):
        shown = [row for row in store.read(path, kind) if re.match(names, getattr(row, field))]
        if shown and (text := table(shown)):
            one = shown[0]
            dates, commits = (sorted({getattr(row, name) for row in shown}) for name in ("date", "commit"))
            place = f"{one.device}; torch {one.torch}, Python {one.python}; {', '.join(dates)}, commit {', '.join(commits)}"
            found.append(f"{place}\n\n{text}")
    return "\n".join(found) or NOTHING


def judged(module: str, table: Callable[[list[Any]], str] | Mapping[str, str]) -> str:
    """The tables of a benchmark of benchmarks/evaluation, by a function or by the names of some columns."""
    show = table if callable(table) else partial(of_columns, names=table)
    return devices(import_module(f"benchmarks.evaluation.{module}").Row, show)


def beside_lime(module: str, table: Callable[[list[Any]], str]) -> str:
    """The tables of a benchmark by its module, imported here: `benchmarks.gpu` runs where the packages they need may lack."""
    return devices(import_module(f"benchmarks.{module}").Row, table)


entries = partial(devices, run.Row, of_run, "entry")
peers = partial(devices, compare.Row, of_peers, "comparison")

# The blocks of each page, between <!-- NAME --> and <!-- /NAME -->.
PAGES: Mapping[Path, Blocks] = {
    ROOT / "README.md": {"benchmarks": partial(entries, r"lime_\w+_float32|captum_float32|no_model_lime")},
    ROOT / "docs" / "moving-from-lime.md": {"benchmarks": partial(entries, r"drop_in_|lime_|no_model_lime")},
    ROOT / "docs" / "benchmarks.md": {
        "benchmarks": partial(entries, "(?!drop_in_|lime_|no_model_lime)"),
        "peers": peers,
        "ablation": partial(devices, ablation.Row, of_ablation),
        "growth": partial(devices, growth.Row, of_growth),
        "convergence": partial(devices, summary.Row, of_convergence),
        "stopping": partial(devices, stopping.Row, of_stopping),
        "shapley": partial(beside_lime, "convergence.shapley", of_shapley),
        "wanted": wanted,
        "texts": partial(beside_lime, "texts", of_texts),
        "tables": partial(beside_lime, "tabular", of_tables),
        "tutorials": partial(beside_lime, "tutorials", of_tutorials),
        "picks": partial(beside_lime, "picks", of_picks),
    },
    ROOT / "docs" / "samples.md": {"equal_error": equal_error},
    ROOT / "docs" / "evaluation.md": {
        "fills": partial(
            judged,
            "fills",
            {
                "unit": "by",
                "fill": "fill",
                "method": "method",
                "n": "photographs",
                "deletion": "deletion",
                "insertion": "insertion",
                "gap": "insertion - deletion",
                "ok": "LIME above random and centre",
            },
        ),
        "defaults": partial(
            judged,
            "defaults",
            {
                "setting": "segments, fill",
                "n": "photographs",
                "segments": "segments of a photograph",
                "gap": "insertion - deletion",
                "gap_error": "standard error",
                "gap_less": "less that of slic 60, mean",
                "gap_less_error": "standard error of the difference",
                "r2": "held-out R2",
            },
        ),
        "samples": partial(
            judged,
            "samples",
            {
                "quality": "quality",
                "samples": "samples",
                "n": "photographs",
                "gap": "insertion - deletion",
                "gap_error": "standard error",
                "fit": "R2 of the fit",
                "r2": "held-out R2",
                "r2_error": "standard error",
                "spearman": "rank correlation of two seeds",
            },
        ),
        "cascade": partial(judged, "cascade", of_cascade),
        "data_randomisation": partial(
            judged,
            "data_randomisation",
            {
                "method": "signed rank correlation",
                "spearman": "permuted labels",
                "reference": "another start",
                "spearman_abs": "absolute: permuted",
                "reference_abs": "absolute: another start",
                "images": "images",
            },
        ),
        "bam": partial(
            judged,
            "bam",
            {
                "entry": "data",
                "method": "method",
                "mcs": "MCS",
                "idr": "IDR",
                "iir": "IIR",
                "iir_ceiling": "IIR of another seed",
                "counted": "images that count",
                "bound": "which must be",
                "ok": "",
                "note": "note",
            },
        ),
        "sensitivity": partial(
            judged,
            "sensitivity",
            {
                "side": "side",
                "radius": "radius",
                "n": "pictures",
                "sensitivity_max": "sensitivity_max",
                "bound": "which must be",
                "ok": "",
            },
        ),
        "cost": partial(
            judged,
            "cost",
            {
                "entry": "curves",
                "side": "side",
                "n": "photographs",
                "forwards": "forwards",
                "ms": "CPU ms a forward",
                "ratio": "ratio to the other side",
                "bound": "at most",
                "ok": "",
            },
        ),
    },
    ROOT / "docs" / "gpu.md": {
        "host_time": partial(devices, host_time.Row, of_host_time),
        "gpu": partial(devices, gpu_rows.Row, of_gpu),
    },
}


def written(text: str, blocks: Blocks) -> str:
    """A page's text with new blocks; `ValueError` if it lacks the markers of one."""
    for name, block in blocks.items():
        pattern = rf"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)"
        text, found = re.subn(pattern, lambda _, block=block: block(), text, flags=re.DOTALL)
        if not found:
            raise ValueError(f"has no <!-- {name} --> and <!-- /{name} -->")
    return text


def main(argv: Sequence[str] | None = None, pages: Mapping[Path, Blocks] = PAGES) -> None:
    """Print the tables, or put them between the markers of their pages."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put them into README.md and docs/, between their markers")
    write = parser.parse_args(argv).write
    for page, blocks in pages.items():
        if not write:
            print(f"{page.name}\n", *(block() for block in blocks.values()), sep="\n")
            continue
        try:
            page.write_text(written(page.read_text(encoding="utf-8"), blocks), encoding="utf-8")
        except ValueError as error:
            parser.error(f"{page} {error}")


if __name__ == "__main__":
    main()
