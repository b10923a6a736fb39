"""Calls of an evaluation: `gpulime evaluate` for a run from a configuration, `gpulime.evaluate.run` for one from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpulime import config as configs
from gpulime.errors import check, whole
from gpulime.runs.evaluation import rebuild, summary
from gpulime.runs.evaluation.measure import check_names
from gpulime.runs.evaluation.rows import CURVES, HELD_OUT
from gpulime.runs.evaluation.run import Job, perform
from gpulime.runs.evaluation.settings import SAMPLES, SEGMENTS, TOP, Settings
from gpulime.runs.evaluation.subjects import Images
from gpulime.runs.evaluation.summary import Summary
from gpulime.runs.progress import heartbeat
from gpulime.runs.progress.partition import Share
from gpulime.runs.progress.terminal import counted, note
from gpulime.runs.reading.read import pictures_of
from gpulime.runs.store import store
from gpulime.views.report import page


def evaluate(
    run: Path,
    settings: Settings,
    *,
    limit: int | None = None,
    retry_failed: bool = False,
    shard: str | None = None,
    device: str | None = None,
    trust: bool = False,
) -> Summary:
    """Evaluate a run from a configuration, or resume that.

    Parameters
    ----------
    run : path
    settings : Settings
    limit : int, optional
        Measure only the first explained inputs.
    retry_failed : bool
        Measure inputs again that failed.
    shard : str, optional
        "2/8" measures only the second of eight parts.
    device : str, optional
        By default as the run.
    trust : bool
        Run the code that run.json names, though this user has not run it in this folder.

    Returns
    -------
    Summary, of all rows

    Raises
    ------
    GpulimeError
        If there is no run, its model cannot be made again or differs, or it holds an evaluation of other settings.
    """
    manifest, share = store.manifest(run), Share.of(shard)
    subject = rebuild.of_config(run, manifest, share, device, trust)
    config = configs.from_dict(manifest["config"])
    job = Job(
        run,
        manifest,
        subject,
        settings,
        share,
        limit,
        retry_failed,
        max_failures_in_a_row=config.max_failures_in_a_row,
        store=config.store,
    )
    return _finished(job, report=config.report, bands=config.data.bands)


def run(
    path: str | Path,
    model: Any,
    data: Any,
    methods: Sequence[str] | str = (),
    metrics: Sequence[str] | str = (CURVES, HELD_OUT),
    unit: str = SEGMENTS,
    fill: Any = None,
    steps: int | None = None,
    labels: str = TOP,
    samples: int = SAMPLES,
    limit: int | None = None,
    retry_failed: bool = False,
    shard: str | None = None,
    workers: int = 0,
    report: bool = True,
    **lime: Any,
) -> Summary:
    """Evaluate a run of images that `gpulime.runs.explain` made; `gpulime evaluate` does it for runs of the command.

    Random segments and a centre blob are measured beside LIME. Finished rows are in ``path/evaluation``; the same call goes on.

    Parameters
    ----------
    path : path
        The run directory.
    model, data
        The model and the dataset of the run. An image that has changed has rows without a value, with the reason.
    methods : str or sequence of str
        Further methods of `gpulime.evaluate.methods.METHODS`.
    metrics : "curves", "held_out" or a sequence of both
        "curves": deletion, insertion, insertion minus deletion, IROF, minimal deletion. "held_out": R2 and infidelity on masks
        that were not fitted.
    unit : {"segments", "pixels"}
        Units that curves hide.
    fill : as for `gpulime.Explainer`, optional
        A name, a number or a colour; by default the run's own fill.
    steps : int, optional
        Steps of a curve; by default one for each segment, and 28 for pixels.
    labels : {"top", "all"}
        Each image's most probable explained class, or all of its explained classes.
    samples : int
        Masks of the held-out fit.
    limit : int, optional
        Measure the first images only.
    retry_failed : bool
        Measure images again that failed.
    shard : str, optional
        "2/8" measures the second of eight parts, for one of eight processes.
    workers : int
        Processes that read the dataset.
    report : bool
        Write ``report.html`` again, with the metrics.
    **lime
        Arguments of `gpulime.runs.explain` that run.json cannot hold: functions and arrays; and ``channels``.

    Returns
    -------
    Summary
        Mean and standard error of each metric and method, over all rows.

    Raises
    ------
    GpulimeError
        If there is no run, `gpulime explain` made it (`gpulime evaluate` measures such a run), the model or its settings
        differ, or there is an evaluation of other settings.
    gpulime.runs.progress.exits.EndOfRunError
        If the device is lost, rows cannot be written or too many images fail in a row; finished rows are kept.
    """
    folder = configs.expanded(path)
    manifest = store.manifest(folder)
    names, measured = ((given,) if isinstance(given, str) else tuple(given) for given in (methods, metrics))
    check_names(names, "methods")
    settings = Settings(names, measured, unit, fill, steps, labels, samples)
    subject = rebuild.of_python(folder, manifest, model, data, workers, lime)
    job = Job(folder, manifest, subject, settings, Share.of(shard, {}), limit, retry_failed)
    return _finished(job, report, None)


def _finished(job: Job, report: bool, bands: Sequence[int] | None) -> Summary:
    """Perform an evaluation, and write its summary and the report."""
    check(not heartbeat.at_work(job.run), f"a process is still explaining into {job.run}: evaluate it when that has ended")
    if job.limit is not None:
        whole("limit", job.limit, 1)
    found = perform(job)
    if found.left:
        note(f"left for other processes: {counted(found.left, found.kind)}; the last one sums up")
        return found
    note(f"summary: {summary.write(job.run, found)}")
    if report:
        picture = (
            (lambda row: None)
            if not isinstance(job.subject, Images)
            else pictures_of(job.subject.reader, bands, job.subject.normalisation)
        )
        note(f"report: {page.write(job.run, picture, job.manifest.get('class_names'))}")
    return found
