"""A run opened for reading: its explanations by image id, each read when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from gpulime.errors import GpulimeError, about, check, nearest
from gpulime.explanation import Explanations, ImageExplanation
from gpulime.runs import damage, files, shards, store

GRAY = 128  # of a picture that is not at hand
FACTS = (*shards.DECIDING, "error_type", "error")

Place = tuple[Path, int]


class NoExplanationError(GpulimeError, KeyError):
    """The run has no explanation of an image: it failed, or it is none of the run's."""

    __str__ = Exception.__str__  # a KeyError would show its message as a quoted string


class Run(Mapping[str, ImageExplanation]):
    """The explanations of a run by image id, in the order of writing; only ids and places are held in memory.

    Images that failed are not among its keys; ``failed`` has their reasons. What a later run adds is seen by opening again.

    Attributes
    ----------
    path : Path, the run directory
    manifest : mapping, run.json
    failed : image id -> (error_type, error)
    """

    def __init__(self, path: Path, pictures: bool = True) -> None:
        self.path, self.manifest = path, store.manifest(path)
        self._picture = files.pictures(path) if pictures else lambda row: None
        self._group: tuple[Path, int, pa.Table] | None = None  # the row group read last: neighbours are often asked for next
        self._index()

    def _index(self) -> None:
        self._places: dict[str, Place] = {}
        self.failed: dict[str, tuple[str, str]] = {}
        rows = pa.concat_tables(shards.each(self.path, _facts, self._leave_out) or [_nothing()])
        for row in rows.filter(shards.winners(rows)).to_pylist():
            if row["status"] == "ok":
                self._places[row["image_id"]] = Path(row["shard"]), row["row"]
            else:
                self.failed[row["image_id"]] = row["error_type"], row["error"]

    def _leave_out(self, error: shards.CorruptError) -> pa.Table:
        shards.warn(error, self.path)
        return _nothing()

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._places

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {len(self):,} images explained, {len(self.failed):,} failed)"

    def __getitem__(self, image_id: str) -> ImageExplanation:
        """One image's explanation.

        Its segments have the numbers 0 ... k - 1, which are their places in the column ``coef``.

        Raises
        ------
        NoExplanationError
            Where the image failed, with the reason, and where the run has no such image, with the nearest id; it is a KeyError.
        GpulimeError
            Where its row is damaged, or its shard was damaged since the run was opened.
        """
        return self.explanations([image_id])[0]

    def explanations(self, ids: Sequence[str]) -> Explanations:
        """Those of several images as one batch on the CPU; the pictures must have one size, and as many labels.

        Raises
        ------
        NoExplanationError, GpulimeError
            As for one image.
        """
        check(len(ids) > 0 and not isinstance(ids, str), f"ids must be a list of at least one image id; got {ids!r}")
        return Explanations.cat([self._one(image_id) for image_id in ids])

    def _one(self, image_id: str) -> Explanations:
        row = self.row(image_id)
        with about(f"image {image_id!r}"):
            damage.check_whole(row)
        return _explanations(row, self._picture(row))

    def row(self, image_id: str) -> dict[str, Any]:
        """The row of an image that is explained, as it stands in the store.

        Raises
        ------
        NoExplanationError, GpulimeError
            As for its explanation.
        """
        while True:
            path, number = self._place(image_id)
            try:
                table, start = self._row_group(path, number)
            except FileNotFoundError:  # merged into another since
                self._index()
                if self._places.get(image_id) == (path, number):
                    raise GpulimeError(f"{path} is listed and not there: is it a link to nowhere?") from None
            else:
                (row,) = table.slice(number - start, 1).to_pylist()
                return dict(row)

    def _place(self, image_id: str) -> Place:
        if image_id in self.failed:
            kind, reason = self.failed[image_id]
            raise NoExplanationError(f"image {image_id!r} has no explanation: {kind}: {reason}")
        if image_id not in self._places:
            near = nearest(str(image_id), self._places)
            raise NoExplanationError(f"{image_id!r} is none of the {len(self):,} images explained in {self.path}{near}")
        return self._places[image_id]

    def _row_group(self, path: Path, number: int) -> tuple[pa.Table, int]:
        """The row group that holds a row of a shard, and its first row's number."""
        if self._group is not None:
            held, start, table = self._group
            if held == path and start <= number < start + len(table):
                return table, start
        with shards.opened(path, whole=False) as shard:
            sizes = [shard.metadata.row_group(i).num_rows for i in range(shard.num_row_groups)]
            ends = np.cumsum(sizes)
            i = int(np.searchsorted(ends, number, side="right"))
            self._group = path, int(ends[i]) - sizes[i], shard.read_row_group(i)
        return self._group[2], self._group[1]


def open_run(path: str | Path, pictures: bool = True) -> Run:
    """Open the directory of a run for reading.

    Parameters
    ----------
    path : path
        What `gpulime explain` calls ``out``.
    pictures : bool
        Look up each image where it was, cut as the model saw it. One that is not there, has changed, or came from Python is
        gray.

    Returns
    -------
    Run
        A mapping of image id -> `gpulime.explanation.ImageExplanation`.

    Raises
    ------
    GpulimeError
        Where there is no run, or a newer gpulime wrote it.
    """
    return Run(Path(path), pictures)


def _facts(path: Path, shard: pq.ParquetFile) -> pa.Table:
    rows = shard.read(list(FACTS)).select(FACTS).replace_schema_metadata()
    places = pa.array([str(path)] * len(rows), pa.string()), pa.array(range(len(rows)), pa.int64())
    return rows.append_column("shard", places[0]).append_column("row", places[1])


def _nothing() -> pa.Table:
    empty = store.schema().empty_table().select(FACTS).replace_schema_metadata()
    return empty.append_column("shard", pa.array([], pa.string())).append_column("row", pa.array([], pa.int64()))


def _explanations(row: Mapping[str, Any], picture: Any) -> Explanations:
    """The row of one image as a batch of one."""
    segments = store.decode_segments(row["seg"], row["seg_dtype"], row["h"], row["w"])
    if picture is None or picture.shape[:2] != segments.shape:
        picture = np.full((*segments.shape, 3), GRAY, np.uint8)
    coefficients = torch.tensor(row["coef"], dtype=torch.float64)
    intercepts = torch.tensor(row["intercept"], dtype=torch.float64)
    scores = [np.nan if score is None else score for score in row["r2"]]
    k = row["n_segments"]
    return Explanations(
        coefficients=coefficients[None],
        labels=torch.tensor(row["labels"])[None],
        predictions=torch.tensor(row["pred_probs"])[None],
        local_predictions=(intercepts + coefficients.sum(1))[None],  # where all segments are shown
        intercepts=intercepts[None],
        scores=torch.tensor(scores, dtype=torch.float64)[None],
        segments=torch.from_numpy(segments)[None],
        counts=torch.tensor([k]),
        segment_ids=torch.arange(k)[None],
        non_finite=torch.zeros(1, dtype=torch.int64),
        images=torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None],
    )
