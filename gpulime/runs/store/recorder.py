"""Make rows of the store from explanations and failures."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from torch import Tensor

from gpulime.engine.model import Activation
from gpulime.errors import GpulimeError
from gpulime.runs.isolation import Finished, Outcome
from gpulime.runs.reading.read import Read
from gpulime.runs.store import notes, row, validate

Row = dict[str, Any]


@dataclass(frozen=True)
class Recorder:
    """Make the rows of one run.

    They share ``n_samples``, ``seed``, ``config_hash``, ``activation`` and, except for given masks, ``segmenter``.
    """

    n_samples: int
    seed: int
    config_hash: str
    segmenter: str
    activation: Activation

    def row(self, outcome: Outcome) -> Row:
        """The row of an explained or a failed image; an image with a non-finite output has failed."""
        if not isinstance(outcome, Finished):
            return self._error(outcome)
        bad = int(outcome.explanations.non_finite[outcome.i])
        if bad:
            message = f"the model's output was NaN or infinite for {bad} of {self.n_samples} samples"
            return self._error(dataclasses.replace(outcome.read, error=message, kind="non_finite"))
        explained = self._explained(outcome)
        try:
            validate.check_numbers(explained)
        except GpulimeError as error:
            message = f"numbers beyond 3.4e38, which a row cannot hold: {error}"
            return self._error(dataclasses.replace(outcome.read, error=message, kind="non_finite"))
        return explained

    def _explained(self, finished: Finished) -> Row:
        batch, i = finished.explanations, finished.i
        count, labels = (
            int(batch.segments[i].max()) + 1,
            batch.labels[i].tolist(),
        )  # kept pixels are stored as a segment with coefficient 0
        once = [labels.index(label) for label in dict.fromkeys(labels)]  # a target may be among the top labels
        raster, dtype = row.encode_segments(batch.segments[i].numpy())

        def of(values: Tensor) -> list[Any]:
            each = values[i].tolist()
            return [each[j] for j in once]

        def known(values: Tensor) -> list[Any]:
            return [None if math.isnan(value) else value for value in of(values)]

        scores, spreads, predictions = known(batch.scores), of(batch.spreads), of(batch.predictions.float())
        is_probability = self.activation in ("softmax", "sigmoid")
        constant = [str(labels[j]) for j, score in zip(once, scores, strict=True) if score is None]
        unweighted = math.isnan(spreads[0])
        why = "the kernel gives every mask a weight of 0" if unweighted else "their output is the same for all samples"
        return {
            **self._common(finished.read),
            "status": "ok",
            "h": batch.segments.shape[1],
            "w": batch.segments.shape[2],
            "n_segments": count,
            "seg": raster,
            "seg_dtype": dtype,
            "segmenter": finished.read.segmenter or self.segmenter,
            **_prediction(int(batch.predicted[i]), float(batch.predicted_probs[i].float())),
            "labels": of(batch.labels),
            "pred_probs": predictions,
            "coef": of(batch.coefficients[..., :count].float()),  # as it is stored
            "intercept": of(batch.intercepts),
            "r2": scores,
            "r2_loo": known(batch.scores_loo),
            "spread": known(batch.spreads),
            "note": [notes.note(*one, is_probability) for one in zip(spreads, predictions, strict=True)],
            "error": f"no r2 for classes {', '.join(constant)}: {why}" if constant else None,
        }

    def _error(self, read: Read) -> Row:
        return {**self._common(read), "status": "error", "error_type": read.kind, "error": read.error}

    def _common(self, read: Read) -> Row:
        return {
            "image_id": read.item.image_id,
            "path": os.path.abspath(read.item.path) if read.item.path else b"",
            "target": read.item.target,
            "attempt": read.item.attempt,
            "written_at": datetime.now(UTC),
            "n_samples": self.n_samples,
            "seed": self.seed,
            "config_hash": self.config_hash,
            "image_sha256": read.sha256,
        }


def _prediction(label: int, prob: float) -> Row:
    """The class with the highest output.

    Null if the model has one output, or if the highest is NaN or infinite.
    """
    return {"prediction": label, "predicted_prob": prob} if label >= 0 and math.isfinite(prob) else {}
