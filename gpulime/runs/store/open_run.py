"""A run opened for reading: its explanations by image id, read on demand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpulime.config import expanded
from gpulime.errors import GpulimeError, about, check, nearest
from gpulime.explanations.image import ImageExplanation
from gpulime.explanations.images import ExplainedImages
from gpulime.runs import from_config
from gpulime.runs.store import shards, store
from gpulime.runs.store.row import check_whole
from gpulime.runs.store.row_index import Places

GRAY = 128  # of a missing picture
FACTS = (*shards.DECIDING, "error_type", "error")


class NoExplanationError(GpulimeError, KeyError):
    """The run has no explanation of an image: it failed, or is not in the run."""

    __str__ = Exception.__str__  # a KeyError would show its message as a quoted string


class Run(Mapping[str, ImageExplanation]):
    """The explanations of a run by image id, in the order of writing; only ids and places are held in memory.

    Failed images are not keys; ``failed`` has their reasons. Open the run again to see rows that were added later.

    Attributes
    ----------
    path : Path, the run directory
    manifest : mapping, run.json
    failed : image id -> (error_type, error)
    """

    def __init__(self, path: Path, pictures: bool = True) -> None:
        self.path, self.manifest = path, store.manifest(path)
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
        return f"Run({str(self.path)!r}, {len(self):,} images explained, {len(self.failed):,} failed)"

    def __getitem__(self, image_id: str) -> ImageExplanation:
        """One image's explanation.

        Its segments have the numbers 0 ... k - 1, their positions in the column ``coef``.

        Raises
        ------
        NoExplanationError
            A KeyError: if the image failed, with the reason; if the run has no such image, with the nearest id.
        GpulimeError
            If its row is damaged, or its shard was damaged since the run was opened.
        """
        return self.explanations([image_id])[0]

    def explanations(self, ids: Sequence[str]) -> ExplainedImages:
        """Explanations of several images as one batch on the CPU; they must have one picture size and number of labels.

        Raises
        ------
        NoExplanationError, GpulimeError
            As for one image.
        """
        check(len(ids) > 0 and not isinstance(ids, str), f"ids must be a list of at least one image id; got {ids!r}")
        return ExplainedImages.cat([self._one(image_id) for image_id in ids])

    def _one(self, image_id: str) -> ExplainedImages:
        row = self.row(image_id)
        with about(f"image {image_id!r}"):
            check_whole(row)
        picture = self._picture(row)
        return _explanations(row, None if picture is None else picture.pixels, self.manifest.get("class_names"))

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
            raise NoExplanationError(f"image {image_id!r} has no explanation: {kind}: {reason}")
        if image_id not in self._places:
            near = nearest(str(image_id), self._places)
            raise NoExplanationError(f"{image_id!r} is none of the {len(self):,} images explained in {self.path}{near}")
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
        A mapping of image id -> `gpulime.explanations.image.ImageExplanation`.

    Raises
    ------
    GpulimeError
        If there is no run, or a newer gpulime wrote it.
    """
    return Run(expanded(path), pictures)


def _explanations(row: Mapping[str, Any], picture: Any, class_names: Sequence[str] | None) -> ExplainedImages:
    """The row of one image as a batch of one."""
    segments = store.decode_segments(row["seg"], row["seg_dtype"], row["h"], row["w"])
    if picture is None or picture.shape[:2] != segments.shape:
        picture = np.full((*segments.shape, 3), GRAY, np.uint8)
    coefficients = torch.tensor(row["coef"], dtype=torch.float64)
    intercepts = torch.tensor(row["intercept"], dtype=torch.float64)
    errors = row["coef_se"] or [[None] * len(values) for values in row["coef"]]
    k = row["n_segments"]
    return ExplainedImages(
        coefficients=coefficients[None],
        standard_errors=torch.stack([_known(values) for values in errors])[None],
        labels=torch.tensor(row["labels"])[None],
        predictions=torch.tensor(row["pred_probs"])[None],
        predicted=torch.tensor([-1 if row["prediction"] is None else row["prediction"]]),
        predicted_probs=torch.tensor([np.nan if row["predicted_prob"] is None else row["predicted_prob"]]),
        # Rows of earlier versions lack it; all segments of the picture are shown.
        local_predictions=_numbers(row, "local_pred") if row["local_pred"] else (intercepts + coefficients.sum(1))[None],
        intercepts=intercepts[None],
        scores=_numbers(row, "r2"),
        scores_loo=_numbers(row, "r2_loo"),
        spreads=_numbers(row, "spread"),
        segments=torch.from_numpy(segments)[None],
        counts=torch.tensor([k]),
        samples=torch.tensor([row["n_samples"]]),
        segment_ids=torch.arange(k)[None],
        non_finite=torch.zeros(1, dtype=torch.int64),
        images=torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None],
        class_names=class_names,
    )


def _numbers(row: Mapping[str, Any], name: str) -> Tensor:
    """A number for each label, (1, l) float64; NaN for null, and in rows of versions without the column."""
    return _known(row[name] or [None] * len(row["labels"]))[None]


def _known(values: Sequence[float | None]) -> Tensor:
    """Numbers as (m,) float64, NaN for null."""
    return torch.tensor([np.nan if value is None else value for value in values], dtype=torch.float64)
