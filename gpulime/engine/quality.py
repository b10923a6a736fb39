"""Presets of sampler, estimator and number of samples, by the benchmark of convergence (docs/samples.md)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from gpulime.engine.designs import DESIGNS, Exhaustive
from gpulime.errors import check, unknown, whole


@dataclass(frozen=True)
class Sampling:
    """How many masks an input gets, how they are drawn, and how coefficients are estimated from them.

    Attributes
    ----------
    n_samples : int, or "auto" for as many as a stopping rule wants
    sampler, estimator, link : str, as for `gpulime.Explainer`
    """

    n_samples: int | str
    sampler: str
    estimator: str
    link: str

    @property
    def expected(self) -> int:
        """Samples of an input; if a stopping rule ends them, what it is expected to take."""
        return EXPECTED if isinstance(self.n_samples, str) else self.n_samples


LIME = Sampling(1000, "bernoulli", "ridge", "identity")
QUALITIES = {
    "lime": LIME,
    "fast": Sampling(257, "blocks", "gp", "auto"),  # the error of lime at 1000 or less
    "high": Sampling(1025, "blocks", "gp", "auto"),
}
EXPECTED = 257  # samples that an input is expected to take if a stopping rule ends them


def sampling(quality: str | None, **given: Any) -> Sampling:
    """The preset's sampling, with what is given (not None) in its place; lime's without a preset.

    Raises
    ------
    GpulimeError
        If there is no such preset, or a number of samples is neither 2 or more nor "auto".
    """
    if quality is not None and (not isinstance(quality, str) or quality not in QUALITIES):
        raise unknown("quality", quality, QUALITIES)
    if given.get("estimator") not in (None, "gp") and given.get("link") is None:
        given["link"] = "identity"  # only a process has another
    chosen = replace(QUALITIES[quality or "lime"], **{name: value for name, value in given.items() if value is not None})
    if chosen.n_samples != "auto":
        chosen = replace(chosen, n_samples=whole("n_samples", chosen.n_samples, 2, ', the whole input and one mask, or "auto"'))
    pairs, paired = " or ".join(repr(name) for name in DESIGNS if name != Exhaustive.name), chosen.sampler in DESIGNS
    for setting, needs in (('n_samples="auto"', chosen.n_samples == "auto"), ('estimator="gp"', chosen.estimator == "gp")):
        check(paired or not needs, f"{setting} needs pairs of masks: sampler={pairs}; got {chosen.sampler!r}")
    few = chosen.n_samples != "auto" and paired and chosen.sampler != Exhaustive.name and int(chosen.n_samples) < 3
    check(
        not few,
        f"n_samples must be at least 3 with sampler={chosen.sampler!r}, the whole input and a pair; got {chosen.n_samples!r}",
    )
    fits = chosen.link == "identity" or chosen.estimator == "gp"
    check(fits, f"link={chosen.link!r} needs estimator='gp'; got {chosen.estimator!r}")
    return chosen
