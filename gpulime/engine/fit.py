"""Fit of a flight: linear models of its outputs, in pieces that bound memory."""

from __future__ import annotations

import torch
from torch import Tensor

from gpulime import device as devices
from gpulime.engine.flight import MASK_ENTRIES, Flight
from gpulime.engine.proximity import proximity
from gpulime.engine.settings import Settings
from gpulime.engine.surrogate import Moments, Samples, Surrogate, solved
from gpulime.errors import stage

GRAM_ENTRIES = 2**24  # entries of Gram matrices at once, to bound memory
LARGEST = 1e30  # larger outputs count as infinite: results are kept in float32, and a fit sums squares of outputs
FITTED = ("coefficients", "intercepts", "scores", "scores_loo", "spreads", "local_predictions")


@stage("surrogate")
def solve(flight: Flight, settings: Settings) -> dict[str, Tensor]:
    """Fit the surrogates of a flight with complete outputs.

    Returns
    -------
    The tensors of `gpulime.explanations.batch.Explanations` by name; NaN for an input with a non-finite output.
    """
    outputs, masks, counts, k = flight.outputs, flight.masks, flight.inputs.counts, flight.inputs.k
    finite = outputs.abs() <= LARGEST  # not NaN
    outputs = outputs.masked_fill(~finite, 0.0)
    together = max(1, GRAM_ENTRIES // (k * k * outputs.shape[2]))
    with devices.exact(outputs.device):
        inputs = torch.arange(len(counts), device=counts.device).split(together)
        fitted = [_fit(flight, settings, masks, outputs, index) for index in inputs]
    non_finite = (~finite.all(-1)).sum(1)

    def fit(name: str) -> Tensor:
        values = torch.cat([getattr(piece, name) for piece in fitted])
        return values.masked_fill_((non_finite > 0).view(-1, *[1] * (values.ndim - 1)), torch.nan)

    return {name: fit(name) for name in FITTED} | {
        "labels": flight.labels,
        "predictions": flight.outputs[:, 0].clone(),
        "predicted": flight.predicted,
        "predicted_probs": flight.predicted_probs,
        "counts": counts,
        "non_finite": non_finite,
    }


def _fit(flight: Flight, settings: Settings, drawn: Tensor | None, outputs: Tensor, index: Tensor) -> Surrogate:
    inputs = flight.inputs
    counts, k = inputs.counts[index], inputs.k
    x0 = None if inputs.origin is None else inputs.origin[index]

    def samples(rows: Tensor) -> Samples:
        masks = flight.draw(index[:, None], rows) if drawn is None else drawn[index[:, None], rows]
        regressors = inputs.regressors(index[:, None], rows, masks)
        return regressors, outputs[index[:, None], rows], proximity(regressors, counts, settings, x0)

    pieces = torch.arange(flight.n_samples, device=index.device).split(max(1, MASK_ENTRIES // (k * len(index))))
    return solved(Moments(counts, k, outputs[index, 0], x0), pieces, samples, settings)
