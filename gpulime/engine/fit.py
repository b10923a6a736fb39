"""Fit: the surrogates of a flight with independent samples, a few inputs at a time."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from gpulime.engine import shared
from gpulime.engine.flight import MASK_ENTRIES, Flight, slices
from gpulime.engine.proximity import proximity
from gpulime.engine.settings import Settings
from gpulime.engine.shared import Repeats
from gpulime.engine.surrogate import FITTED, LARGEST, Moments, Samples, Surrogate, solved
from gpulime.errors import stage

# Regressors of inputs with a shared neighbourhood that are fitted at once: few on a CPU, to stay in its cache.
SHARED_ENTRIES = defaultdict(lambda: 2**26, cpu=2**20)
FIT_ENTRIES = 2**24  # entries of Gram matrices, and of outputs, of the inputs that are fitted at once, to bound memory


@stage("surrogate")
def solve(flight: Flight, settings: Settings) -> dict[str, Tensor]:
    """Fit the surrogates of a flight with complete outputs, a few inputs at a time.

    Returns
    -------
    The tensors of `gpulime.explanations.batch.Explanations` by name; NaN for an input with a non-finite output.
    """
    counts, k = flight.inputs.counts, flight.inputs.k
    l = flight.labels.shape[1]
    together = max(1, min(FIT_ENTRIES // (k * k * l), FIT_ENTRIES // (flight.n_samples * l)))
    repeats = _repeats(flight)
    if flight.inputs.shared:  # there may be many inputs in the flight
        different = flight.n_samples if repeats is None else 1 + len(repeats.first)
        together = max(1, min(together, SHARED_ENTRIES[counts.device.type] // (different * k)))
    masks = flight.masks
    pieces = [_fit(flight, settings, masks, where, repeats) for where in slices(len(counts), together)]
    found = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]} if len(pieces) > 1 else pieces[0]
    return found | {
        "samples": torch.full_like(counts, flight.n_samples),
        "exhaustive": torch.zeros_like(counts, dtype=torch.bool),
    }


def _fit(flight: Flight, settings: Settings, drawn: Tensor | None, where: slice, repeats: Repeats | None) -> dict[str, Tensor]:
    """Fit some inputs of a flight; masks that were not ``drawn`` before, (n, s, k), are drawn again."""
    if repeats is not None:
        return _known(_fit_repeats(flight, settings, where, repeats), torch.zeros_like(flight.inputs.counts[where]))
    inputs, outputs = flight.inputs, flight.outputs(where)
    counts, k = inputs.counts[where], inputs.k
    x0 = None if inputs.origin is None else inputs.origin[where]
    index, numbers = (torch.arange(size, device=counts.device) for size in (flight.n, flight.n_samples))
    index = index[where, None]
    finite = outputs.abs() <= LARGEST  # not NaN
    outputs = outputs.where(finite, 0.0)

    moments = Moments(counts, k, outputs[:, 0], x0)
    pieces = list(slices(flight.n_samples, max(1, MASK_ENTRIES[counts.device.type] // (k * len(counts)))))
    at_once = inputs.at_once and len(pieces) == 1

    def samples(rows: slice) -> Samples:
        masks = flight.draw(index, numbers[rows]) if drawn is None else drawn[where, rows]
        regressors = inputs.regressors(index, numbers[rows], masks)
        weights = proximity(regressors, counts, settings, x0)
        # Pieces are used twice, so they are converted here.
        return regressors if at_once else regressors.double(), outputs[:, rows].double(), weights, None

    if at_once:
        x, y, weights, _ = samples(pieces[0])
        fitted = shared.solved(moments, x, y, weights, settings)
    else:
        fitted = solved(moments, pieces, samples, settings)
    return _known(fitted, (~finite.all(-1)).sum(1))


def _fit_repeats(flight: Flight, settings: Settings, where: slice, repeats: Repeats) -> Surrogate:
    """Fit some inputs of a flight whose samples are few different ones."""
    inputs, labels, first = flight.inputs, flight.labels[where], flight.first[where]
    counts, x0 = inputs.counts[where], None if inputs.origin is None else inputs.origin[where]
    index = torch.arange(flight.n, device=counts.device)[where, None]
    numbers = torch.cat([repeats.first.new_zeros(1), repeats.first])
    regressors = inputs.regressors(index, numbers, flight.draw(index, numbers))
    weights = proximity(regressors, counts, settings, x0)
    means, variances = (values[:, labels].transpose(0, 1) for values in (repeats.means, repeats.variances))
    outputs = torch.cat([first[:, None].double(), means], 1)
    repeated = torch.cat([repeats.counts.new_ones(1), repeats.counts]), torch.cat([0 * means[:, :1], variances], 1)
    return shared.solved(Moments(counts, inputs.k, first, x0), regressors, outputs, weights, settings, repeated)


def _known(fitted: Surrogate, non_finite: Tensor) -> dict[str, Tensor]:
    """The tensors of a fit by name; NaN for inputs with ``non_finite`` (n,) samples."""
    unknown = (non_finite > 0)[:, None]

    def known(values: Tensor) -> Tensor:
        return values.masked_fill_(unknown if values.ndim == 2 else unknown[..., None], torch.nan)

    return {name: known(getattr(fitted, name)) for name in FITTED} | {"non_finite": non_finite}


def _repeats(flight: Flight) -> Repeats | None:
    """The groups of equal samples that inputs share, on a CPU; None if there are none, or an output is not finite."""
    if not flight.inputs.shared or flight.labels.is_cuda:
        return None
    groups = flight.inputs.groups(flight.n_samples)
    if groups is None or not bool((flight.rest.abs() <= LARGEST).all() and (flight.first.abs() <= LARGEST).all()):
        return None
    return Repeats.of(groups, flight.rest)
