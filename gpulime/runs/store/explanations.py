"""Explanations from the rows of a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpulime.explanations.images import ExplainedImages
from gpulime.explanations.rows import ExplainedRows
from gpulime.explanations.texts import ExplainedTexts
from gpulime.runs.store.row import ROW, TEXT, UNSEEN, decode_segments, kind_of

GRAY = 128  # of a missing picture
Explained = ExplainedImages | ExplainedTexts | ExplainedRows


def of_row(row: Mapping[str, Any], picture: Any, manifest: Mapping[str, Any]) -> Explained:
    """The row of one input as a batch of one.

    Parameters
    ----------
    row : mapping, a whole row
    picture : (h, w, 3) uint8 or None, of an image; gray if it is missing or has another size
    manifest : mapping, run.json
    """
    found: dict[str, Any] = _tensors(row) | {"class_names": manifest.get("class_names")}
    kind, k = kind_of(row), row["n_segments"]
    if kind == TEXT:
        spans = [list(zip(places[::2], places[1::2], strict=True)) for places in row["spans"]]
        unseen = torch.zeros(1, k, dtype=torch.bool)
        unseen[0, row[UNSEEN] or []] = True
        return ExplainedTexts(**found, texts=[row["text"]], words=[row["parts"]], spans=[spans], unseen=unseen)
    if kind == ROW:
        return ExplainedRows(
            **found,
            names=[row["parts"]],
            features=[manifest.get("fixed", {}).get("data.columns") or row["parts"]],
            values=[row["values"]],
            columns=torch.arange(k)[None],
            bounds=torch.full((1, 2), torch.nan, dtype=torch.float64),
            mode=manifest.get("mode", "classification"),
        )
    segments = decode_segments(row["seg"], row["seg_dtype"], row["h"], row["w"])
    if picture is None or picture.shape[:2] != segments.shape:
        picture = np.full((*segments.shape, 3), GRAY, np.uint8)
    return ExplainedImages(
        **found,
        segments=torch.from_numpy(segments)[None],
        segment_ids=torch.arange(k)[None],
        images=torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))[None],
    )


def _tensors(row: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors that every kind of inputs has."""
    coefficients = torch.tensor(row["coef"], dtype=torch.float64)
    intercepts = torch.tensor(row["intercept"], dtype=torch.float64)
    errors = row["coef_se"] or [[None] * len(values) for values in row["coef"]]
    return {
        "coefficients": coefficients[None],
        "standard_errors": torch.stack([_known(values) for values in errors])[None],
        "labels": torch.tensor(row["labels"])[None],
        "predictions": torch.tensor(row["pred_probs"])[None],
        "predicted": torch.tensor([-1 if row["prediction"] is None else row["prediction"]]),
        "predicted_probs": torch.tensor([np.nan if row["predicted_prob"] is None else row["predicted_prob"]]),
        # Rows of earlier versions lack it; all segments of the picture are shown.
        "local_predictions": _numbers(row, "local_pred") if row["local_pred"] else (intercepts + coefficients.sum(1))[None],
        "intercepts": intercepts[None],
        "scores": _numbers(row, "r2"),
        "scores_loo": _numbers(row, "r2_loo"),
        "spreads": _numbers(row, "spread"),
        "counts": torch.tensor([row["n_segments"]]),
        "samples": torch.tensor([row["n_samples"]]),
        "exhaustive": torch.tensor([bool(row["exhaustive"])]),  # null in rows of earlier versions
        "non_finite": torch.zeros(1, dtype=torch.int64),
    }


def _numbers(row: Mapping[str, Any], name: str) -> Tensor:
    """A number for each label, (1, l) float64; NaN for null, and in rows of versions without the column."""
    return _known(row[name] or [None] * len(row["labels"]))[None]


def _known(values: Sequence[float | None]) -> Tensor:
    """Numbers as (m,) float64, NaN for null."""
    return torch.tensor([np.nan if value is None else value for value in values], dtype=torch.float64)
