"""Fill lime's fields of one explanation from a row of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gpulime.explanations.batch import Explanations
    from gpulime.explanations.explanation import Explanation
    from gpulime.explanations.image import ImageExplanation

NUMBERS = {
    "intercept": "intercepts",
    "scores": "scores",
    "scores_loo": "scores_loo",
    "local_preds": "local_predictions",
    "predictions": "predictions",
}  # a field of one explanation, a dict by label, and the tensor (n, l) of the batch


def row(batch: Explanations, index: int) -> dict[str, Any]:
    """The tensors of one input, without n, as arrays on the CPU."""
    return {name: tensor[index].cpu().numpy() for name, tensor in batch._tensors().items()}


def fill(one: Explanation | ImageExplanation, found: dict[str, Any], ids: Sequence[int]) -> None:
    """Fill the fields of ``one`` from the tensors of its input; ``ids`` are those of its parts, without padding.

    Parts that were not selected, with a coefficient of 0, are left out, unless all are 0.
    """
    explained = found["labels"].tolist()
    one.top_labels = list(dict.fromkeys(explained))
    columns = (found[name][:, : len(ids)] for name in ("coefficients", "standard_errors"))
    for label, weights, errors in zip(explained, *columns, strict=True):
        order = np.argsort(-np.abs(weights), kind="stable")
        used = order[weights[order] != 0] if weights.any() else order
        one.local_exp[label] = [(int(ids[j]), float(weights[j])) for j in used]
        one.standard_errors[label] = {int(ids[j]): float(errors[j]) for j in used}
    for field, tensor in NUMBERS.items():
        setattr(one, field, dict(zip(explained, found[tensor].astype(float).tolist(), strict=True)))
    first = explained[0]
    one.score, one.local_pred = one.scores[first], one.local_preds[first]
