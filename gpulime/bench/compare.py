"""The difference of a variant's coefficients from those of the present settings."""

from __future__ import annotations

from gpulime.errors import GpulimeError
from gpulime.explanations.batch import Explanations

STRONGEST = 5


def difference(found: Explanations, reference: Explanations) -> tuple[float, float]:
    """For the most probable class: the largest difference, relative to an image's largest coefficient, and the common top 5.

    Raises
    ------
    GpulimeError
        If a coefficient or an output is not finite.
    """
    ours, theirs = found.coefficients[:, 0], reference.coefficients[:, 0]
    bad = int(found.non_finite.sum())
    if bad or not bool(ours.isfinite().all()):
        raise GpulimeError(f"the model's output was NaN or infinite for {bad} samples")
    largest = theirs.abs().amax(1)
    apart = (ours - theirs).abs().amax(1)
    error = (apart / largest.where(largest > 0, 1.0)).max()
    shares = []
    for i, count in enumerate(reference.counts.tolist()):
        some = min(STRONGEST, count)
        both = [set(part[i, :count].abs().topk(some).indices.tolist()) for part in (ours, theirs)]
        shares.append(len(both[0] & both[1]) / some)
    return float(error), sum(shares) / len(shares)
