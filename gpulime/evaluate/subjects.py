"""Subjects: inputs of any kind, with the importance of their parts, as an explainer's engine takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gpulime import labels as classes
from gpulime.errors import GpulimeError, check
from gpulime.evaluate.attributions import Attributions, finite, places
from gpulime.evaluate.scores import Reasons
from gpulime.evaluate.units import Units, of_segments
from gpulime.explainer import Explainer
from gpulime.explanations.batch import Explanations
from gpulime.explanations.rows import ExplainedRows
from gpulime.explanations.texts import ExplainedTexts
from gpulime.images.batch import Batch
from gpulime.table_explainer import TableExplainer
from gpulime.text_explainer import TextExplainer
from gpulime.texts import batch as texts

Judged = Explainer | TextExplainer | TableExplainer


@dataclass(frozen=True, eq=False)
class Subject:
    """Inputs to judge.

    Attributes
    ----------
    batch : as the explainer's engine takes it, with labels and parts
    units : Units, the parts
    reasons : as in `gpulime.evaluate.Scores`
    intercepts : (n, l) float64, of the linear models of explanations; None for maps
    """

    batch: Any
    units: Units
    reasons: Reasons
    intercepts: Tensor | None = None


def check_explainer(explainer: Any, *kinds: type) -> None:
    """Raise `GpulimeError` unless it is an explainer, of one of these kinds if any are given."""
    kinds = kinds or (Explainer, TextExplainer, TableExplainer)
    if not isinstance(explainer, kinds):
        names = ", ".join(kind.__name__ for kind in kinds[:-1]) + " or " * (len(kinds) > 1) + kinds[-1].__name__
        hint = ", such as gpulime.Explainer(model)" if callable(explainer) and Explainer in kinds else ""
        raise GpulimeError(f"explainer must be an {names}{hint}; got {type(explainer).__name__}")


def subject(
    explainer: Judged,
    inputs: Any,
    explained: Any,
    labels: Any = None,
    segments: Any = None,
    keep: Any = None,
    keys: Any = None,
    extra: Sequence[Tensor] = (),
) -> Subject:
    """Check inputs with their explanations; for images these may be maps (n, h, w) or (n, l, h, w).

    Raises
    ------
    GpulimeError
        If the arguments do not belong together.
    """
    if isinstance(explainer, Explainer):
        given = Attributions.of(explainer, inputs, explained, labels)
        parts = given.segments(explainer, segments, keep)
        units = of_segments(given, parts)
        batch = Batch(given.images, units.labels, parts.labels, keys, extra=extra, keep=parts.most)
        return Subject(batch, units, given.reasons, given.intercepts)
    check(segments is None and keep is None and not len(extra), "segments, keep and extra are for images")
    if isinstance(explainer, TextExplainer):
        if not isinstance(explained, ExplainedTexts):
            raise GpulimeError(f"explained must be explanations of texts; got {type(explained).__name__}")
        return _of_texts(explainer, inputs, explained, labels, keys)
    if not isinstance(explained, ExplainedRows):
        raise GpulimeError(f"explained must be explanations of rows; got {type(explained).__name__}")
    return _of_rows(explainer, inputs, explained, labels, keys)


def _of_texts(explainer: TextExplainer, inputs: Any, explained: ExplainedTexts, labels: Any, keys: Any) -> Subject:
    given = texts.listed(inputs)
    check(given == explained.texts, "explanations must be of these texts, in this order")
    wanted = None if labels is None else classes.of_batch(labels, len(given), explainer.class_names, "text")
    units, reasons, intercepts = _units(explainer, explained, wanted)
    return Subject(texts.Batch(given, units.labels.cpu(), keys), units, reasons, intercepts)


def _of_rows(explainer: TableExplainer, inputs: Any, explained: ExplainedRows, labels: Any, keys: Any) -> Subject:
    is_classifier = explainer.mode == "classification"
    check(labels is None or is_classifier, "labels are for a classification; this is a regression")
    wanted = None if labels is None else classes.of_batch(labels, len(explained), explainer.class_names, "row")
    units, reasons, intercepts = _units(explainer, explained, wanted)
    batch = explainer.batch(inputs, units.labels.cpu() if is_classifier else None, keys)
    check(
        len(batch) == len(explained),
        f"explanations must be of these rows; got {len(batch)} rows and {len(explained)} explanations",
    )
    return Subject(batch, units, reasons, intercepts)


def _units(explainer: Judged, explained: Explanations, wanted: Tensor | None) -> tuple[Units, Reasons, Tensor]:
    """Parts that count the same, their importance, and the intercepts of the linear models."""
    explained = explained.to(explainer.device)
    where, labels, reasons = places(explained, wanted)
    values, unknown = finite(explained.coefficients[where], "the explanation's coefficients are NaN")
    counts = explained.counts
    valid = torch.arange(values.shape[2], device=counts.device) < counts[:, None]
    units = Units(labels, values, counts, valid / counts[:, None].double())
    return units, unknown | reasons, explained.intercepts[where]
