"""The summary of a run: on the terminal and as ``summary.json``."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from gpulime.runs.progress import heartbeat
from gpulime.runs.progress.heartbeat import Effort
from gpulime.runs.progress.terminal import duration, printable
from gpulime.runs.store import shards, store
from gpulime.runs.store.row_index import Places
from gpulime.views.report import head

FILE = "summary.json"
COLUMNS = (*shards.DECIDING, "error_type", *head.TOP_OF)


@dataclass(frozen=True)
class Summary:
    """Results and cost of all images of a run."""

    ok: int
    failed: dict[str, int]  # by kind
    median_r2: float | None  # of the top labels' surrogates, on the samples that they were fitted to
    median_r2_loo: float | None  # the same, leave-one-out
    top1_accuracy: float | None  # share of the images with a known target whose most probable class it is
    targets: int  # number of images with a known target
    first: str | None  # times of the first and the last row, as ISO 8601
    last: str | None
    call: Effort  # of this call of this process
    spent: Effort  # of all processes in all calls

    @property
    def errors(self) -> int:
        """Images that failed."""
        return sum(self.failed.values())

    def __str__(self) -> str:
        failed = ", ".join(f"{printable(kind)} {count:,}" for kind, count in self.failed.items())
        medians = {"left out": self.median_r2_loo, "fitted": self.median_r2}
        facts = {
            "explained": f"{self.ok:,}",
            "failed": f"{self.errors:,} ({failed})" if failed else "0",
            "median R2": ", ".join(f"{value:.3f} {kind}" for kind, value in medians.items() if value is not None),
            "top-1": "" if self.top1_accuracy is None else f"{self.top1_accuracy:.3f} of {self.targets:,} with a known class",
            "this call": _effort(self.call),
            "all calls": _effort(self.spent) if self.spent.forwards > self.call.forwards else "",
        }
        return "\n".join(f"{name:10} {value}" for name, value in facts.items() if value)


def summary(run: Path, manifest: Mapping[str, Any], call: Effort) -> Summary:
    """Sum up the shards and the effort of processes; ``call`` is the effort of the last call."""
    rows = Places(run, COLUMNS, lambda rows: head.with_top(rows, manifest)).rows
    explained = rows.filter(pc.equal(rows["status"], "ok"))
    known = head.known_right(explained)
    kinds = Counter(kind for kind in rows["error_type"].to_pylist() if kind is not None)
    times = pc.min_max(rows["written_at"]).as_py()
    return Summary(
        ok=len(explained),
        failed=dict(kinds.most_common()),
        median_r2=head.median(explained, "r2"),
        median_r2_loo=head.median(explained, "r2_loo"),
        top1_accuracy=sum(known) / len(known) if known else None,
        targets=len(known),
        first=None if times["min"] is None else times["min"].isoformat(),
        last=None if times["max"] is None else times["max"].isoformat(),
        call=call,
        spent=heartbeat.spent(run, manifest.get("config_hash")),
    )


def write(run: Path, found: Summary) -> Path:
    """Write ``summary.json`` into a run."""
    call, spent = _facts(found.call), _facts(found.spent)
    facts = {"images": found.ok + found.errors, **dataclasses.asdict(found), **spent, "call": call}
    del facts["spent"]
    store.publish(run, FILE, json.dumps(facts, indent=2).encode())
    return run / FILE


def _facts(effort: Effort) -> dict[str, float]:
    return {"hours": effort.seconds / 3600, "forwards": effort.forwards, "in_model": effort.in_model}


def _effort(effort: Effort) -> str:
    words = f"{duration(effort.seconds)}, {effort.forwards:,} forwards"
    if not effort.forwards:
        return words
    return (
        f"{words}, {effort.forwards / effort.seconds:,.0f} forwards/s, {100 * effort.in_model:.0f} % of the time in the model"
    )
