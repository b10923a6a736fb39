"""Verify a run: read every shard whole, check every row and, on demand, hash every input file again."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from gpulime import config as configs
from gpulime.config import DataConfig
from gpulime.errors import GpulimeError, check
from gpulime.runs.evaluation import settings as evaluation
from gpulime.runs.evaluation.rows import EVALUATION
from gpulime.runs.progress import exits, heartbeat
from gpulime.runs.reading import records
from gpulime.runs.reading.decode import digest
from gpulime.runs.reading.read import load
from gpulime.runs.reading.sources import Item
from gpulime.runs.store import row, shards, store
from gpulime.runs.store.atomic import STAGING
from gpulime.runs.store.row import schema
from gpulime.runs.store.shards import CorruptError

FACTS = (*shards.DECIDING, "error_type", "config_hash", "path", "image_sha256")
READERS = 8  # files hashed at once, since network paths are slow to answer


@dataclass(frozen=True)
class Inputs:
    """The files of a run, hashed again."""

    same: int  # files that are unchanged since they were explained
    changed: list[str]  # image ids
    missing: list[str]
    unknown: int  # images without a stored hash: unreadable then, or not files


@dataclass(frozen=True)
class Evaluated:
    """Contents and damage of the evaluation of a run."""

    shards: int  # sound ones
    corrupt: list[CorruptError]
    rows: int
    inputs: int
    failed: dict[str, int]  # error_type -> inputs
    other_settings: int  # rows whose config_hash is not that of evaluation.json
    strangers: list[str]  # names in evaluation/ that are not shards

    @property
    def as_written(self) -> bool:
        """True if nothing is damaged or foreign."""
        return not (self.corrupt or self.other_settings or self.strangers)


@dataclass(frozen=True)
class Verified:
    """Contents and damage of a run."""

    run: Path
    shards: int  # sound ones
    corrupt: list[CorruptError]
    rows: int
    images: int  # by the readers' rule: one row each
    wanted: int | None  # images of the run, from its heartbeats; None if unknown
    ok: int
    errors: dict[str, int]  # error_type -> images
    damaged: dict[str, str]  # image_id -> reason, of rows with status ok and a damaged explanation
    config_hash: str | None  # of run.json
    other_settings: dict[str, int]  # config_hash -> rows, of hashes other than the run's
    strangers: list[str]  # names in results/ that are not shards
    leftovers: list[str]  # names in _staging/
    inputs: Inputs | None  # None if not requested
    kind: str = row.IMAGE  # of the inputs
    evaluation: Evaluated | None = None

    @property
    def as_written(self) -> bool:
        """True if nothing is damaged, foreign or changed; leftovers do not count."""
        touched = self.inputs is not None and (self.inputs.changed or self.inputs.missing)
        sound = self.evaluation is None or self.evaluation.as_written
        return sound and not (self.corrupt or self.damaged or self.other_settings or self.strangers or touched)

    @property
    def missing(self) -> int:
        """Images of the run without a row, as far as is known."""
        return max((self.wanted or 0) - self.images, 0)

    @property
    def exit_code(self) -> int:
        """`exits.DAMAGED` if anything is damaged or changed; else 3 if images have error rows or no row."""
        if not self.as_written:
            return exits.DAMAGED
        return exits.ERROR_ROWS if self.errors or self.missing else exits.OK


def verify(run: Path, inputs: bool = False) -> Verified:
    """Read a whole run, a few hundred rows at a time, and report all damage; with ``inputs`` hash the images again, too.

    Raises
    ------
    GpulimeError
        If the directory holds no run or no results yet, or a newer gpulime wrote them.
    """
    manifest = store.manifest(run)
    with tqdm(total=len(shards.shards(run)), disable=None, leave=False, unit=" shards") as bar:

        def facts(_: Path, shard: pq.ParquetFile) -> pa.Table:
            bar.update()
            return shards.kept(shard, schema().names, _light)

        found, corrupt = shards.each(run, facts)
    check(bool(found or corrupt), f"{run} holds no results yet: there is no shard in {run / shards.RESULTS}")
    rows = pa.concat_tables([_light(shards.nothing(schema().names)), *found])
    images = rows.filter(shards.winners(rows))
    whole = images.filter(images["damaged"].is_null())
    broken = images.filter(images["damaged"].is_valid())
    failed = whole.filter(pc.equal(whole["status"], "error"))
    config_hash = manifest.get("config_hash")
    return Verified(
        run=run,
        shards=len(found),
        corrupt=corrupt,
        rows=len(rows),
        images=len(images),
        wanted=heartbeat.images(run, config_hash),
        ok=len(whole) - len(failed),
        errors=dict(Counter(kind or "unknown" for kind in failed["error_type"].to_pylist()).most_common()),
        damaged=dict(zip(broken["image_id"].to_pylist(), broken["damaged"].to_pylist(), strict=True)),
        config_hash=config_hash,
        other_settings=_others(rows, config_hash),
        strangers=_names(run / shards.RESULTS, shards.NAME.fullmatch),
        leftovers=_names(run / STAGING, lambda name: name == "writers.lock"),  # of earlier versions
        inputs=_inputs(manifest, images) if inputs else None,
        kind=manifest.get("kind", row.IMAGE),
        evaluation=_evaluation(run),
    )


def _evaluation(run: Path) -> Evaluated | None:
    """Read the whole evaluation of a run; None if there is none."""
    if not (run / EVALUATION.folder).is_dir():
        return None
    facts = ["image_id", "error_type", "config_hash"]

    def read(_: Path, shard: pq.ParquetFile) -> pa.Table:
        return shards.kept(shard, EVALUATION.schema.names, lambda rows: rows.select(facts), EVALUATION)

    found, corrupt = shards.each(run, read, EVALUATION)
    rows = pa.concat_tables([shards.nothing(facts, EVALUATION), *found])
    failed = {(row["image_id"], row["error_type"]) for row in rows.filter(rows["error_type"].is_valid()).to_pylist()}
    about = evaluation.read(run)
    others = 0 if about is None else sum(one != about.get("config_hash") for one in rows["config_hash"].to_pylist())
    return Evaluated(
        shards=len(found),
        corrupt=corrupt,
        rows=len(rows),
        inputs=len(rows["image_id"].unique()),
        failed=dict(Counter(kind for _, kind in sorted(failed)).most_common()),
        other_settings=others,
        strangers=_names(run / EVALUATION.folder, shards.NAME.fullmatch),
    )


def _light(rows: pa.Table) -> pa.Table:
    """The deciding columns of each row, and its damage."""
    return row.judged(rows).select([*FACTS, "damaged"])


def _others(rows: pa.Table, config_hash: str | None) -> dict[str, int]:
    if config_hash is None:  # nothing to compare with
        return {}
    counts = Counter(rows["config_hash"].to_pylist())
    return {name: count for name, count in counts.most_common() if name != config_hash}


def _names(folder: Path, known: Any) -> list[str]:
    """Unknown names in a folder, except hidden ones, which readers ignore and file systems create."""
    names = sorted(path.name for path in folder.glob("*"))
    return [name for name in names if not known(name) and not name.startswith((".", "_"))]


def _inputs(manifest: Mapping[str, Any], images: pa.Table) -> Inputs:
    hashed = images.filter(images["image_sha256"].is_valid())
    rows = hashed.select(["image_id", "path", "image_sha256"]).to_pylist() if "config" in manifest else []
    if manifest.get("kind", row.IMAGE) != row.IMAGE:
        return _compared(rows, _records(manifest), len(images))
    over = threading.Event()
    with ThreadPoolExecutor(READERS) as pool:
        try:
            found = pool.map(lambda row: _sha256(row, over), rows)
            sums = list(tqdm(found, total=len(rows), disable=None, leave=False, unit=" files"))
        finally:
            over.set()  # Ctrl-C does not wait for the remaining hashes
    now = {row["image_id"]: found for row, found in zip(rows, sums, strict=True) if found is not None}
    return _compared(rows, now, len(images))


def _compared(rows: Sequence[Mapping[str, Any]], now: Mapping[str, str], images: int) -> Inputs:
    """Compare the stored hashes of inputs with those of now, by id; inputs that are gone have none."""
    missing = [row["image_id"] for row in rows if row["image_id"] not in now]
    changed = [row["image_id"] for row in rows if now.get(row["image_id"], row["image_sha256"]) != row["image_sha256"]]
    return Inputs(len(rows) - len(missing) - len(changed), changed, missing, images - len(rows))


def _records(manifest: Mapping[str, Any]) -> dict[str, str]:
    """The current hash of each record of a run's source, by id; none if it is gone or cannot be read."""
    data = dataclasses.replace(configs.from_dict(manifest["config"]).data, limit=None)
    try:
        _, found = records.find(data, manifest.get("class_names"))
    except GpulimeError:
        return {}
    return {image_id: found.sha256(image_id) for image_id in found.places}


def _sha256(row: Mapping[str, Any], over: threading.Event) -> str | None:
    """The current hash of an image; None if it cannot be read."""
    try:
        if not row["path"]:  # a photograph of scikit-image
            return load(Item(row["image_id"], b""), DataConfig()).sha256
        if not os.path.isfile(row["path"]):  # a pipe would block
            return None
        with open(row["path"], "rb") as file:
            return digest(file, lambda: check(not over.is_set(), "stopped"))
    except (OSError, ValueError):  # gpulime's own among them; a path with a null byte
        return None
