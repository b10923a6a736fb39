"""Settings of an evaluation, and its manifest ``RUN/evaluation.json``: all rows of a run's evaluation share them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpulime.errors import GpulimeError, check, unknown, whole
from gpulime.runs.evaluation import rows
from gpulime.runs.evaluation.rows import CURVES, EVALUATION, HELD_OUT, METRICS
from gpulime.runs.store.atomic import publish
from gpulime.runs.store.manifest import differences, versions
from gpulime.runs.store.shards import shards

MANIFEST = "evaluation.json"
FIRST = LIME, RANDOM, CENTRE = ("lime", "random", "centre")  # of the methods, in this order
UNITS = SEGMENTS, PIXELS = ("segments", "pixels")
LABELS = TOP, ALL = ("top", "all")
SAMPLES = 100  # masks that were not fitted


@dataclass(frozen=True)
class Settings:
    """Settings of one call.

    Attributes
    ----------
    methods : names of methods beside LIME, random segments and a centre blob
    measurements : of `rows.METRICS`
    unit : "segments" or "pixels", hidden by the curves
    fill : fill of hidden units; None for the run's own
    steps : of a curve; None for one a segment, and 28 of pixels
    labels : "top" for each input's most probable explained class, "all" for all that were explained
    samples : masks of a held-out fit
    """

    methods: Sequence[str] = ()
    measurements: Sequence[str] = (CURVES, HELD_OUT)
    unit: str = SEGMENTS
    fill: Any = None
    steps: int | None = None
    labels: str = TOP
    samples: int = SAMPLES

    def __post_init__(self) -> None:
        for given, known, name in (
            ((self.unit,), UNITS, "unit"),
            ((self.labels,), LABELS, "labels"),
            (self.measurements, tuple(METRICS), "metrics"),
        ):
            for one in given:
                if one not in known:
                    raise unknown(name, one, known)
        check(len(self.measurements) > 0, f"metrics must name one or more of {', '.join(METRICS)}; got none")
        if self.steps is not None:
            whole("steps", self.steps, 1)
        whole("samples", self.samples, 2)

    @property
    def fixed(self) -> dict[str, Any]:
        """The settings that change a value and are no columns of its row."""
        return {"steps": self.steps, "samples": self.samples}


@dataclass(frozen=True)
class Terms:
    """The terms that all rows of an evaluation share: settings, and the run's own hash."""

    settings: Settings
    run_hash: str | None

    @property
    def config_hash(self) -> str:
        """Sixteen hex digits."""
        text = json.dumps([self.settings.fixed, self.run_hash], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def accept(self, run: Path) -> None:
        """Resume the evaluation of a run, or begin one.

        Raises
        ------
        GpulimeError
            If the run holds an evaluation of other settings, with the difference.
        """
        found = read(run)
        if found is None or not shards(run, EVALUATION):
            about = {"fixed": self.settings.fixed, "run": self.run_hash, "config_hash": self.config_hash}
            text = json.dumps({**about, "versions": versions(), "schema_version": rows.SCHEMA_VERSION}, indent=2)
            publish(run, MANIFEST, text.encode())
            return
        remedy = f"Take the same, or delete {run / EVALUATION.folder} to begin anew"
        changed = differences(found["fixed"], self.settings.fixed)
        changed = [one.replace("None", "one for each segment") if one.startswith("steps ") else one for one in changed]
        check(not changed, f"{run} holds an evaluation with other settings: {'; '.join(changed)}. {remedy}")
        same = found.get("run") == self.run_hash
        check(same, f"{run} holds an evaluation of a run with other settings ({found.get('run')}). {remedy}")


def read(run: Path) -> dict[str, Any] | None:
    """Read ``evaluation.json``; None if there is none.

    Raises
    ------
    GpulimeError
        If it is damaged, or a newer gpulime wrote it.
    """
    path = run / MANIFEST
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise GpulimeError(f"{path} must be JSON: {error}") from error
    sound = isinstance(found, dict) and isinstance(found.get("fixed"), Mapping) and isinstance(found.get("schema_version"), int)
    check(sound, f"{path} is damaged: it must state its settings and its schema_version")
    version, newest = found["schema_version"], rows.SCHEMA_VERSION
    check(version <= newest, f"{path} has schema_version {version}, this gpulime reads up to {newest}; a newer one is needed")
    return dict(found)
