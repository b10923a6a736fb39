"""Stopping: the rule that ends the samples of an input.

References
----------
Bechhofer, "A single-sample multiple decision procedure for ranking means", 1954 (differences that do not matter).
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from statistics import NormalDist

import torch
from torch import Tensor

from gpulime.errors import check, whole

TOP = 5  # parts of a label that must be settled
SMALL = 0.05  # of a label's largest coefficient: smaller coefficients and differences do not matter


@dataclass(frozen=True)
class Stopping:
    """Rule that ends the samples of an input; `gpulime.Explainer` documents its settings."""

    tolerance: float | None = None
    confidence: float = 0.95
    max_samples: int = 4096

    def __post_init__(self) -> None:
        whole("max_samples", self.max_samples, 2, ", the whole input and one mask")
        fits = isinstance(self.confidence, Real) and 0 < float(self.confidence) < 1
        check(fits, f"confidence must be a number between 0 and 1, such as 0.95; got {self.confidence!r}")
        number = isinstance(self.tolerance, Real) and not isinstance(self.tolerance, bool)
        fits = self.tolerance is None or (number and self.tolerance > 0)
        check(fits, f"tolerance must be a number above 0, or None; got {self.tolerance!r}")

    @classmethod
    def of(cls, n_samples: int | str, tolerance: float | None, confidence: float, max_samples: int) -> Stopping | None:
        """Make the rule for ``n_samples="auto"``; None for a number of samples, which allows no settings of the rule."""
        if n_samples == "auto":
            return cls(tolerance, confidence, max_samples)
        given = {"tolerance": tolerance, "confidence": confidence, "max_samples": max_samples}
        for name, value in given.items():
            check(value == getattr(cls, name), f"{name}={value!r} needs n_samples='auto'; got {n_samples!r}")
        return None

    def settled(self, coefficients: Tensor, errors: Tensor, labels: Tensor, counts: Tensor, look: int) -> Tensor:
        """Tell for each input if its samples suffice, (n,) bool.

        With ``tolerance``, the root mean square of an input's standard errors must be at most that. Without, the parts with the
        `TOP` largest coefficients of each label, and their signs, must be the true ones; coefficients and differences that are
        surely below `SMALL` of the label's largest coefficient do not matter. ``confidence`` is that of each comparison: look
        number i from 1 may be wrong with probability ``(1 - confidence) / (i (i + 1))``, so all looks together with
        1 - confidence.

        Parameters
        ----------
        coefficients, errors : (n, l, k)
        labels : (n, l)
        counts : (n,)
        look : int, looks so far, this one included
        """
        valid = (torch.arange(errors.shape[2], device=errors.device) < counts[:, None])[:, None]
        if self.tolerance is not None:
            fresh = first_of(labels) == torch.arange(labels.shape[1], device=labels.device)
            square = (errors.square() * (valid & fresh[..., None])).sum((1, 2)) / (counts * fresh.sum(1))
            return ~(square > self.tolerance**2)  # NaN is settled: more samples would not mend it
        z = -NormalDist().inv_cdf((1 - float(self.confidence)) / (2 * look * (look + 1)))
        size, order = coefficients.abs().masked_fill(~valid, 0.0).sort(-1, descending=True)
        error = z * errors.masked_fill(~valid, 0.0).gather(-1, order)
        small = SMALL * size[..., :1]
        top, rest = slice(None, TOP), slice(TOP, None)
        unsure = ((size < error) & (size + error > small))[..., top].any(-1)
        if size.shape[-1] > TOP:
            unsure |= (size - error)[..., top].amin(-1) < ((size + error)[..., rest] - small).amax(-1)
        return ~unsure.any(-1)


def first_of(labels: Tensor) -> Tensor:
    """Place (n, l) of the first label that equals each of ``labels`` (n, l)."""
    l = labels.shape[1]
    alike = labels[:, :, None] == labels[:, None]
    return (alike * torch.arange(l, 0, -1, device=labels.device)).argmax(-1)
