"""Parts that lime's explainers share: their choice of labels, the weights of samples, and a linear model for each label."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpulime import device as devices
from gpulime import labels as classes
from gpulime.device import exact
from gpulime.engine.masked import Wanted
from gpulime.engine.settings import Settings
from gpulime.engine.surrogate import Moments, Samples, Surrogate, solved
from gpulime.errors import GpulimeError, check

Array = np.ndarray[Any, np.dtype[Any]]
FITTED = ("coefficients", "standard_errors", "ranks", "intercepts", "scores", "scores_loo", "local_predictions")


def exponential_kernel(d: Array, kernel_width: float) -> Array:
    """Lime's default: ``sqrt(exp(-d**2 / kernel_width**2))`` of distances (s,)."""
    weights: Array = np.sqrt(np.exp(-(d**2) / kernel_width**2))
    return weights


def weights(kernel: Callable[..., Any], distances: Array, kernel_width: float) -> Array:
    """Weights (s,) float64 of samples at ``distances`` (s,).

    Raises
    ------
    GpulimeError
        If ``kernel`` returns another shape, a number below 0, NaN or infinity, or only zeros.
    """
    found = np.asarray(kernel(distances, kernel_width=kernel_width), dtype=np.float64)
    check(
        found.shape == distances.shape, f"kernel must return {len(distances)} weights, one for each distance; got {found.shape}"
    )
    sound = bool(np.isfinite(found).all() and (found >= 0).all() and found.any())
    check(sound, "kernel must return finite weights of 0 or more, not all 0")
    return found


def given_labels(labels: Iterable[Any]) -> list[int]:
    """Class numbers in ``labels``.

    Raises
    ------
    GpulimeError
        If there are none, or one is no class number.
    """
    try:
        given = [classes.number(label) for label in labels]
    except (TypeError, GpulimeError) as error:
        raise GpulimeError(f"labels must be class numbers if top_labels is None or 0; got {labels!r}") from error
    check(bool(given), "labels must name a class if top_labels is None or 0; got none")
    return given


@dataclass(kw_only=True)
class LimeInput:
    """One input in the queue; each kind of inputs adds its own fields.

    Attributes
    ----------
    labels : list of int, in lime's own form; empty until the model has seen the input
    output : (classes,), the model's output for the input as it is; empty until then
    """

    labels: list[int] = field(default_factory=list)
    output: Array = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True, kw_only=True)
class LimeLabels(Wanted):
    """The labels of one input: the most probable classes, in NumPy's order as in lime, or the given ones."""

    given: Sequence[int]
    most: int | None  # number of most probable classes; None or 0 for the given ones
    one: LimeInput

    def choose(self, outputs: Tensor, top_labels: int, one: str = "input") -> Tensor:
        """Choose the labels (1, l) from the outputs (1, classes) for the whole input, and note both in the input."""
        first = outputs[0].detach().cpu().numpy()
        classes = len(first)
        labels = np.argsort(first)[-self.most :][::-1].tolist() if self.most else list(self.given)
        beyond = [label for label in labels if not -classes <= label < classes]
        check(not beyond, f"labels must be below the number of classes, {classes}; got {beyond}")
        self.one.labels, self.one.output = labels, first
        return devices.sent(torch.tensor([[label % classes for label in labels]]), outputs.device)


@dataclass(frozen=True)
class Fit:
    """A label's linear model.

    Attributes
    ----------
    parts : (m,) int64, columns of the regressors that it uses, the largest coefficient first
    coefficients, errors : (m,) float64, and their standard errors; NaN for a regressor of the user's
    intercept, score, score_loo : float
    local_pred : (1,) float64, the linear model's output for sample 0
    outputs : (s,), the explained model's
    """

    parts: Array
    coefficients: Array
    errors: Array
    intercept: float
    score: float
    score_loo: float
    local_pred: Array
    outputs: Array


def fits(
    regressors: Array, weights: Array, outputs: Tensor, settings: Settings, model_regressor: Any = None
) -> Callable[[], list[Fit]]:
    """Fit a linear model to each label, as lime does; the returned function waits for a GPU to have fitted them.

    Parameters
    ----------
    regressors : (s, k)
        Integers and bools are masks of 0 and 1; floats are numbers. Row 0 is the input as it is.
    weights : (s,) float64
    outputs : (1, s, l)
    settings : Settings of the selection
    model_regressor : scikit-learn regressor, optional
        Fitted in place of the ridge; needs ``coef_``, ``intercept_`` and ``sample_weight``.

    Raises
    ------
    GpulimeError
        By the returned function, if an output is NaN or infinite.
    """
    device = outputs.device
    finite = outputs.isfinite()
    bad, outputs = (~finite).any(-1).sum(), outputs.where(finite, 0)  # what cannot be fitted is reported later, without a wait
    columns = regressors.astype(np.float64 if regressors.dtype.kind == "f" else bool, copy=False)
    x = devices.sent(torch.from_numpy(columns)[None], device)
    with exact(device):
        moments = Moments(torch.full((1,), x.shape[2], device=device), x.shape[2], outputs[:, 0], x[:, 0])
        samples = x, outputs, devices.sent(torch.from_numpy(weights)[None], device), None
        solve = solved if x.dtype == torch.bool else _solved
        fitted = solve(moments, [...], lambda _: samples, settings)
    fetched = devices.fetching([bad, outputs[0].T, *(getattr(fitted, name)[0] for name in FITTED)])

    def found() -> list[Fit]:
        wrong, *there = (tensor.numpy() for tensor in fetched())
        check(wrong == 0, f"classifier_fn's output was NaN or infinite for {wrong} of {len(regressors)} samples")
        fits = [_fit(weights, y, dict(zip(FITTED, of_label, strict=True))) for y, *of_label in zip(*there, strict=True)]
        if model_regressor is not None:
            fits = [_fitted(model_regressor, regressors[:, fit.parts], weights, fit) for fit in fits]
        return [_ordered(fit) for fit in fits]

    return found


def _fit(weights: Array, y: Array, of_label: Mapping[str, Any]) -> Fit:
    """A label's model, from its entries of a `Surrogate`, without the parts that were not selected."""
    ranks = of_label["ranks"]
    used = np.argsort(np.where(ranks < 0, ranks.max() + 1, ranks), kind="stable")[: (ranks >= 0).sum()]
    single = not weights[1:].any()
    return Fit(
        parts=used,
        coefficients=of_label["coefficients"][used],
        errors=of_label["standard_errors"][used],
        intercept=of_label["intercepts"],
        score=np.float64(1) if single else of_label["scores"],  # scikit-learn's score, and so lime's, for a single point
        score_loo=of_label["scores_loo"],
        local_pred=np.array([of_label["local_predictions"]]),
        outputs=y,
    )


def _solved(moments: Moments, rows: Sequence[Any], samples: Callable[[Any], Samples], settings: Settings) -> Surrogate:
    """As `gpulime.engine.surrogate.solved` of a single piece, with errors computed for the selected columns only."""
    x, outputs, weights, _ = samples(rows[0])
    moments.add(x, outputs, weights)
    fitted, left_out, total = moments.solve(settings)
    parts = (fitted.ranks >= 0).any(1)[0].nonzero()[:, 0]
    if len(parts) == x.shape[2]:
        press, variances = left_out.errors(x, outputs, weights)
        return replace(fitted, scores_loo=1 - press / total, standard_errors=variances.sqrt())
    press, variances = left_out.of_parts(parts).errors(x[..., parts], outputs, weights)
    errors = torch.zeros_like(fitted.coefficients)
    errors[..., parts] = variances.sqrt()
    return replace(fitted, scores_loo=1 - press / total, standard_errors=errors)


def _fitted(regressor: Any, data: Array, weights: Array, fit: Fit) -> Fit:
    """The user's regressor, fitted to the selected parts ``data`` (s, m)."""
    y = fit.outputs
    regressor.fit(data, y, sample_weight=weights)
    return replace(
        fit,
        coefficients=np.asarray(regressor.coef_),
        errors=np.full(len(fit.parts), np.nan),
        intercept=regressor.intercept_,
        score=regressor.score(data, y, sample_weight=weights),
        score_loo=np.nan,
        local_pred=regressor.predict(data[:1]),
    )


def _ordered(fit: Fit) -> Fit:
    order = np.argsort(-np.abs(fit.coefficients), kind="stable")
    return replace(fit, **{name: getattr(fit, name)[order] for name in ("parts", "coefficients", "errors")})


def fill(
    explanation: Any,
    labels: Sequence[int],
    found: Sequence[Fit],
    top: bool,
    ids: Array | None = None,
    verbose: bool = False,
) -> None:
    """Fill lime's fields of an explanation from the models of its labels.

    Parameters
    ----------
    explanation : with the dicts ``intercept``, ``local_exp``, ``standard_errors``, ``scores``, ``scores_loo``, ``local_preds``
        and ``predictions``
    labels, found : (l,) labels and their models
    top : bool
        True if the labels are the most probable ones: ``score`` and ``local_pred`` are then those of the first label, else of
        the last, as in lime.
    ids : (k,), optional
        Ids of the parts; by default their numbers.
    verbose : bool
        Print intercept, local prediction and prediction of each label.
    """
    pairs = list(zip(labels, found, strict=True))
    for label, fit in reversed(pairs) if top else pairs:
        parts = fit.parts if ids is None else [ids[part] for part in fit.parts]
        explanation.intercept[label] = fit.intercept
        explanation.local_exp[label] = list(zip(parts, fit.coefficients, strict=True))
        explanation.standard_errors[label] = dict(zip(parts, fit.errors.tolist(), strict=True))
        explanation.scores[label] = explanation.score = fit.score
        explanation.scores_loo[label] = float(fit.score_loo)
        explanation.local_preds[label] = explanation.local_pred = fit.local_pred
        explanation.predictions[label] = fit.outputs[0]
        if verbose:
            print("Intercept", fit.intercept)
            print("Prediction_local", fit.local_pred)
            print("Right:", fit.outputs[0])
