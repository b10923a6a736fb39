"""Run of an evaluation: measure the remaining tasks, store their rows, sum up."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from gpulime import config as configs
from gpulime import device as devices
from gpulime.errors import check
from gpulime.evaluate.methods import NotAvailableError
from gpulime.runs.evaluation import rows, summary
from gpulime.runs.evaluation.measure import Meter
from gpulime.runs.evaluation.rows import EVALUATION, Part, Task
from gpulime.runs.evaluation.settings import LIME, TOP, Settings, Terms
from gpulime.runs.evaluation.subjects import Group, Loss, Row, Subject
from gpulime.runs.evaluation.summary import Summary
from gpulime.runs.isolation import MESSAGE_LENGTH, kind, reason_of
from gpulime.runs.progress import terminal
from gpulime.runs.progress.exits import DeviceLostError, EndOfRunError, FailuresInARowError
from gpulime.runs.progress.partition import ALL, Share
from gpulime.runs.progress.signals import Stop
from gpulime.runs.progress.terminal import counted, note
from gpulime.runs.store import atomic, row, shards, store
from gpulime.runs.store.row_index import Places
from gpulime.runs.store.store import Store, Writer

LIGHT = (*shards.DECIDING, "error_type", "error", "damaged", "labels", "pred_probs", "n_segments")
READ = 64  # rows of the run in memory at once
ABSENT = "not_available"  # error_type of an input that a method cannot explain, though it explained others


@dataclass(frozen=True)
class Job:
    """An evaluation, and the part of this process."""

    run: Path
    manifest: dict[str, Any]
    subject: Subject
    settings: Settings
    share: Share = ALL
    limit: int | None = None
    retry_failed: bool = False
    max_failures_in_a_row: int | None = configs.Config.max_failures_in_a_row
    store: configs.StoreConfig = field(default_factory=configs.StoreConfig)

    @property
    def terms(self) -> Terms:
        """The terms of all rows."""
        return Terms(self.settings, self.manifest.get("config_hash"))


@dataclass
class Explained:
    """The explained inputs of a run, in its order."""

    places: Places
    numbers: list[int]  # of ``places``
    ids: list[str]
    labels: list[list[int]]  # positions of the measured labels of each input
    classes: list[list[int]]  # these labels
    parts: list[int]  # number of parts of each input

    @classmethod
    def of(cls, job: Job) -> Explained:
        """List the inputs with a whole explanation, up to the limit."""
        places = Places(job.run, store.schema().names, lambda table: row.judged(table).select(LIGHT))
        table = row.marked(places.rows)
        numbers = pc.indices_nonzero(pc.equal(table["status"], "ok")).to_pylist()[: job.limit]
        check(bool(numbers), f"{job.run} holds no explanation: {len(table)} rows, none of them ok")
        some = table.take(pa.array(numbers)).select(["image_id", "labels", "pred_probs", "n_segments"]).to_pylist()
        labels = [positions(one, job.settings.labels) for one in some]
        classes = [[one["labels"][j] for j in of_one] for one, of_one in zip(some, labels, strict=True)]
        ids, parts = ([one[name] for one in some] for name in ("image_id", "n_segments"))
        return cls(places, numbers, ids, labels, classes, parts)


def positions(of_row: Row, labels: str) -> list[int]:
    """Positions of the labels of a row that are measured."""
    probs = of_row["pred_probs"]
    return [max(range(len(probs)), key=probs.__getitem__)] if labels == TOP else list(range(len(probs)))


def perform(job: Job) -> Summary:
    """Measure the remaining tasks of an evaluation.

    Raises
    ------
    GpulimeError
        If the run holds an evaluation of other settings, or nothing to evaluate.
    Stopped
        If a signal stops it; finished rows are kept.
    EndOfRunError
        If the device is lost, rows cannot be written or too many inputs fail in a row; finished rows are kept.
    """
    meter, explained = Meter(job.subject, job.settings), Explained.of(job)
    with ExitStack() as stack:
        stop = stack.enter_context(Stop())
        with atomic.one_at_a_time(job.run):
            job.terms.accept(job.run)
            atomic.try_out(job.run)
        todo = _todo(job, meter, explained)
        owned = [i for i in todo if job.share.owns(explained.ids[i])]
        _tell(job, meter, explained, todo, owned)
        results = Store(
            job.run,
            rank=job.share.number,
            flush_rows=job.store.flush_rows,
            flush_seconds=job.store.flush_seconds,
            config_hash=job.terms.run_hash,
            of=EVALUATION,
        )
        bar = stack.enter_context(_bar(sum(len(todo[i]) for i in owned), job))
        writer = stack.enter_context(Writer(results))  # innermost: rows are written first, however the evaluation ends

        def heed() -> None:
            writer.check()
            stop.check()

        job.subject.explainer.progress, meter.heed = (lambda _: heed()), stop.check
        stack.callback(setattr, job.subject.explainer, "progress", None)
        in_a_row = 0
        with closing(_measured(job, meter, explained, {i: todo[i] for i in owned}, heed)) as measured:
            for made, is_lost in measured:
                writer.put({"image_id": made[0]["image_id"], "rows": [_stamped(one, job) for one in made]})
                bar.update(len({rows.task_of(one) for one in made}))
                if is_lost is not None:
                    in_a_row = in_a_row + 1 if is_lost else 0
                    _check_failures(in_a_row, job, made[0])
    stop.check()
    left = 0 if job.share.is_all else len(_todo(job, meter, explained))
    before = {name: why for name, why in summary.absent(job.run).items() if name not in meter.seen}
    return summary.of(job.run, before | meter.absent, left)


def _todo(job: Job, meter: Meter, explained: Explained) -> dict[int, set[Task]]:
    """The tasks of each input that have no rows yet, or failed and are to be tried again."""
    done = rows.done(job.run, job.retry_failed)
    tasks = {i: set(meter.tasks(labels)) - done.get(explained.ids[i], set()) for i, labels in enumerate(explained.classes)}
    return {i: left for i, left in tasks.items() if any(task.method not in meter.absent for task in left)}


def _measured(
    job: Job, meter: Meter, explained: Explained, todo: dict[int, set[Task]], heed: Callable[[], None]
) -> Generator[tuple[list[Row], bool | None], None, None]:
    """Rows of inputs that have tasks left: of one input, and of one measurement of one method, or of all if it is lost.

    With them comes True if the input is lost, False if it is not, None if these rows do not tell: a method may fail for all.
    """
    place, waiting = {explained.ids[i]: i for i in todo}, list(todo)
    for start in range(0, len(waiting), READ):
        some = [explained.places.row(explained.numbers[i]) for i in waiting[start : start + READ]]
        for found in job.subject.groups(some, lambda one: explained.labels[place[one["image_id"]]], heed):
            heed()
            if isinstance(found, Loss):
                image_id = found.row["image_id"]
                yield rows.failed(image_id, sorted(todo[place[image_id]]), found.kind, found.reason), True
                continue
            meter.begin(found)
            left = [todo[place[one["image_id"]]] for one in found.rows]
            for part in meter.parts:
                wanted = [k for k, tasks in enumerate(left) if any(task.part == part for task in tasks)]
                if wanted and part.method not in meter.absent:
                    for k, of_input in zip(wanted, _isolated(meter, found.part(wanted), part), strict=False):
                        failed = of_input[0]["error_type"] is not None
                        tells = not failed or part == (LIME, job.settings.measurements[0])
                        yield [made for made in of_input if rows.task_of(made) in left[k]], failed if tells else None


def _isolated(meter: Meter, group: Group, part: Part) -> Iterator[list[Row]]:
    """The rows of each input; none if the method cannot be had. If inputs fail together, each is measured alone.

    Raises
    ------
    DeviceLostError
        If the device is unusable in this process.
    """
    try:
        yield from meter.measure(group, part)
        return
    except EndOfRunError:
        raise
    except NotAvailableError as error:
        if part.method not in meter.seen:
            meter.absent[part.method] = str(error)
            note(f"{part.method} is not available: {error}")
            return
        failure: BaseException = error
    except (Exception, SystemExit) as error:  # the user's model may raise anything
        if devices.lost(error, meter.subject.explainer.device):
            ids = [one["image_id"] for one in group.rows]
            raise DeviceLostError(
                f"the device is lost: {error}; finished rows are kept, and a new process resumes", ids
            ) from error
        failure = error
    if len(group.rows) > 1:
        for k in range(len(group.rows)):
            yield from _isolated(meter, group.part([k]), part)
        return
    why = ABSENT if isinstance(failure, NotAvailableError) else kind(failure)
    tasks = [task for task in meter.tasks(group.explained.labels[0].tolist()) if task.part == part]
    yield rows.failed(group.rows[0]["image_id"], tasks, why, reason_of(failure)[:MESSAGE_LENGTH])


def _stamped(made: Row, job: Job) -> Row:
    return {**made, "written_at": datetime.now(UTC), "config_hash": job.terms.config_hash}


def _check_failures(in_a_row: int, job: Job, failed: Row) -> None:
    if in_a_row == job.max_failures_in_a_row:
        why = f"the last, {failed['image_id']!r}, for {failed['error_type']}: {str(failed['reason'])!r:.200}"
        some = counted(in_a_row, job.subject.kind)
        raise FailuresInARowError(f"{some} in a row failed (max_failures_in_a_row), {why}; their rows are kept")


def _tell(job: Job, meter: Meter, explained: Explained, todo: Mapping[int, set[Task]], owned: Sequence[int]) -> None:
    """Say what is done and what is left."""
    one = job.subject.kind
    if done := len(explained.ids) - len(owned):
        others = "" if job.share.is_all else " or left to other processes"
        note(f"measured already{others}: {done:,} of {counted(len(explained.ids), one)}")
    if owned:
        forwards = sum(meter.forwards(todo[i], explained.parts[i]) for i in owned)
        note(f"about {forwards:,} forwards: {counted(len(owned), one)}, {', '.join(meter.methods)}, fill {meter.fill}")


def _bar(total: int, job: Job) -> Any:
    return tqdm(
        total=total,
        unit=" measurements",
        disable=total == 0 or job.share.rank > 0,
        file=sys.stderr if terminal.is_there() else terminal.Lines(),
        leave=False,
        mininterval=0.1 if terminal.is_there() else 10,
    )
