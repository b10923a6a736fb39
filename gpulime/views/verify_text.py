"""The findings of verify as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gpulime.runs.progress import exits
from gpulime.runs.progress.terminal import counted, printable
from gpulime.runs.store.verify import Evaluated, Verified

MOST = 100  # names of one kind
VERDICTS = {
    exits.OK: "all files are intact, and every {} is explained",
    exits.ERROR_ROWS: "all files are intact; some {}s have error rows, or no row yet",
    exits.DAMAGED: "something differs from what the run wrote",
}


def text(found: Verified) -> str:
    """A line for each fact with its names below, and the verdict with the exit code."""
    lines = []
    for term, fact, names in _facts(found):
        shown = list(names)
        lines += [f"{term:16}{printable(fact)}", *(f"{'':16}- {printable(name)}" for name in shown[:MOST])]
        if len(shown) > MOST:
            lines.append(f"{'':16}... and {len(shown) - MOST:,} more")
    code = found.exit_code
    return "\n".join([*lines, f"{'verdict':16}{VERDICTS[code].format(found.kind)} (exit code {code})"])


def _facts(found: Verified) -> Iterator[tuple[str, str, Iterable[str]]]:
    yield "run", str(found.run), ()
    yield "shards", f"{found.shards:,} read whole" + (", all sound" if not found.corrupt else ""), ()
    if found.corrupt:
        remedy = f"run the same gpulime explain again to explain their {found.kind}s again; then delete them"
        yield "corrupt shards", f"{len(found.corrupt):,}; {remedy}", (f"{e.path.name}: {e.reason}" for e in found.corrupt)
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in found.errors.items())
    failed = f", {sum(found.errors.values()):,} failed ({kinds})" if kinds else ""
    damaged = f", {len(found.damaged):,} damaged" if found.damaged else ""
    yield f"{found.kind}s", f"{found.images:,}: {found.ok:,} ok{failed}{damaged}", ()
    if found.missing:
        remedy = "the same gpulime explain resumes with them"
        yield "no row yet", f"{found.missing:,} of the run's {counted(found.wanted or 0, found.kind)}: {remedy}", ()
    if found.damaged:
        yield "damaged rows", "they say ok and hold no whole explanation", (f"{i}: {why}" for i, why in found.damaged.items())
    if repeats := found.rows - found.images:
        yield "repeated rows", f"{repeats:,}; readers take one row per {found.kind}: ok before error, then the newest", ()
    if found.other_settings:
        others = (f"{name}: {count:,} rows" for name, count in found.other_settings.items())
        yield "other settings", f"rows whose config_hash is not the run's {found.config_hash}", others
    if found.strangers:
        yield "not shards", f"{len(found.strangers):,} in results/, which other readers may stumble over", found.strangers
    if found.leftovers:
        meaning = "of processes that were killed, or being written now; no reader sees them"
        yield "leftovers", f"{len(found.leftovers):,} in _staging/, {meaning}", ()
    if found.evaluation is not None:
        yield from _evaluation(found.evaluation, found)
    if found.inputs is not None:
        unknown = f"; {found.inputs.unknown:,} have no sum to compare with" if found.inputs.unknown else ""
        yield "inputs", f"{found.inputs.same:,} are what was explained{unknown}", ()
        if found.inputs.changed:
            yield "changed inputs", f"{len(found.inputs.changed):,}", found.inputs.changed
        if found.inputs.missing:
            yield "missing inputs", f"{len(found.inputs.missing):,}", found.inputs.missing


def _evaluation(part: Evaluated, found: Verified) -> Iterator[tuple[str, str, Iterable[str]]]:
    lost = "".join(f", {count:,} {kind}" for kind, count in part.failed.items())
    found_there = f"{counted(part.shards, 'shard')}, {counted(part.rows, 'row')} of {counted(part.inputs, found.kind)}"
    yield "evaluation", f"{found_there}{lost}", ()
    if part.corrupt:
        remedy = f"run the same gpulime evaluate again to measure their {found.kind}s again; then delete them"
        yield (
            "corrupt shards",
            f"{len(part.corrupt):,} of the evaluation; {remedy}",
            (f"{error.path.name}: {error.reason}" for error in part.corrupt),
        )
    if part.other_settings:
        yield "other settings", f"{part.other_settings:,} rows of the evaluation, which evaluation.json does not know", ()
    if part.strangers:
        yield "not shards", f"{len(part.strangers):,} in evaluation/, which other readers may stumble over", part.strangers
