"""A run opened for reading: its explanations by image id, read on demand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gpulime.config import expanded
from gpulime.errors import GpulimeError, about, check, nearest
from gpulime.explanations.batch import Explanations
from gpulime.explanations.explanation import BatchExplanation
from gpulime.explanations.image import ImageExplanation
from gpulime.runs import from_config
from gpulime.runs.progress.terminal import counted
from gpulime.runs.store import explanations, shards, store
from gpulime.runs.store.explanations import Explained
from gpulime.runs.store.row import IMAGE, check_whole
from gpulime.runs.store.row_index import Places

FACTS = (*shards.DECIDING, "error_type", "error")


class NoExplanationError(GpulimeError, KeyError):
    """The run has no explanation of an image: it failed, or is not in the run."""

    __str__ = Exception.__str__  # a KeyError would show its message as a quoted string


class Run(Mapping[str, "ImageExplanation | BatchExplanation"]):
    """The explanations of a run by id, in the order of writing; only ids and places are held in memory.

    Failed images are not keys; ``failed`` has their reasons. Open the run again to see rows that were added later.

    Attributes
    ----------
    path : Path, the run directory
    manifest : mapping, run.json
    failed : image id -> (error_type, error)
    """

    def __init__(self, path: Path, pictures: bool = True) -> None:
        self.path, self.manifest = path, store.manifest(path)
        self._kind = self.manifest.get("kind", IMAGE)
        self._picture = from_config.pictures(path) if pictures else lambda row: None
        self._rows = Places(path, FACTS, lambda rows: rows)
        self._places: dict[str, int] = {}
        self.failed: dict[str, tuple[str, str]] = {}
        for i, row in enumerate(self._rows.rows.to_pylist()):
            if row["status"] == "ok":
                self._places[row["image_id"]] = i
            else:
                self.failed[row["image_id"]] = row["error_type"], row["error"]

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._places

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {counted(len(self), self._kind)} explained, {len(self.failed):,} failed)"

    def __getitem__(self, image_id: str) -> ImageExplanation | BatchExplanation:
        """One input's explanation.

        The segments of an image have the numbers 0 ... k - 1, their positions in the column ``coef``.

        Raises
        ------
        NoExplanationError
            A KeyError: if the image failed, with the reason; if the run has no such image, with the nearest id.
        GpulimeError
            If its row is damaged, or its shard was damaged since the run was opened.
        """
        return self.explanations([image_id])[0]

    def explanations(self, ids: Sequence[str]) -> Explained:
        """Explanations of several inputs as one batch on the CPU, of one number of labels and, for images, one picture size.

        Raises
        ------
        NoExplanationError, GpulimeError
            As for one image.
        """
        check(len(ids) > 0 and not isinstance(ids, str), f"ids must be a list of at least one id; got {ids!r}")
        return Explanations.cat([self._one(image_id) for image_id in ids])  # type: ignore[return-value]

    def _one(self, image_id: str) -> Explained:
        row = self.row(image_id)
        with about(f"{self._kind} {image_id!r}"):
            check_whole(row)
        picture = self._picture(row)
        return explanations.of_row(row, None if picture is None else picture.pixels, self.manifest)

    def row(self, image_id: str) -> dict[str, Any]:
        """The stored row of an explained image.

        Raises
        ------
        NoExplanationError, GpulimeError
            As for its explanation.
        """
        return self._rows.row(self._place(image_id))

    def _place(self, image_id: str) -> int:
        if image_id in self.failed:
            kind, reason = self.failed[image_id]
            raise NoExplanationError(f"{self._kind} {image_id!r} has no explanation: {kind}: {reason}")
        if image_id not in self._places:
            near = nearest(str(image_id), self._places)
            raise NoExplanationError(
                f"{image_id!r} is none of the {counted(len(self), self._kind)} explained in {self.path}{near}"
            )
        return self._places[image_id]


def open_run(path: str | Path, pictures: bool = True) -> Run:
    """Open the directory of a run for reading.

    Parameters
    ----------
    path : path
        The ``out`` of `gpulime explain`.
    pictures : bool
        Read each image from its path, cropped as for the model. An image that is missing, has changed, or came from Python is
        gray.

    Returns
    -------
    Run
        A mapping of id -> `gpulime.explanations.image.ImageExplanation`, or for texts and table rows
        `gpulime.explanations.explanation.BatchExplanation`.

    Raises
    ------
    GpulimeError
        If there is no run, or a newer gpulime wrote it.
    """
    return Run(expanded(path), pictures)
