"""Settings of the surrogate: weights of samples, selection of parts and ridge penalty."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from numbers import Real

from gpulime.engine.proximity import DISTANCES, KERNELS, Distance, Kernel
from gpulime.engine.selection import SELECTIONS
from gpulime.errors import check, unknown, whole

ESTIMATORS = ("ridge", "wls", "gp")
SHAPLEY = "shapley"  # a kernel without distances
WITH_SHAPLEY = (
    f"kernel={SHAPLEY!r} needs all of sampler='antithetic', estimator='gp' or 'wls', link='identity' and num_features=None, "
    "which quality= does not set"
)
LINKS = ("identity", "logit", "auto")
REGULAR = 1e-6  # penalty of "wls", against singular systems; times the weight of samples 1 to s - 1 if that is below 1


@dataclass(frozen=True)
class Settings:
    """Settings for weighting samples and fitting; `gpulime.Explainer` documents each."""

    alpha: float = 1.0
    kernel: Kernel = "exponential"
    kernel_width: float | None = 0.25
    distance: Distance = "cosine"
    feature_selection: str = "auto"
    num_features: int | None = None
    estimator: str = "ridge"
    link: str = "identity"

    def __post_init__(self) -> None:
        if not callable(self.kernel) and not (isinstance(self.kernel, str) and self.kernel in (*KERNELS, SHAPLEY)):
            raise unknown("kernel", self.kernel, (*KERNELS, SHAPLEY))
        if not callable(self.distance) and not (isinstance(self.distance, str) and self.distance in DISTANCES):
            raise unknown("distance", self.distance, DISTANCES)
        if not (isinstance(self.estimator, str) and self.estimator in ESTIMATORS):
            raise unknown("estimator", self.estimator, ESTIMATORS)
        if not (isinstance(self.link, str) and self.link in LINKS):
            raise unknown("link", self.link, LINKS)
        if self.kernel == SHAPLEY:
            for name, right in (("estimator", ("wls", "gp")), ("link", ("identity",)), ("num_features", (None,))):
                value = getattr(self, name)
                check(value in right, f"{WITH_SHAPLEY}; got {name}={value!r}")
            named = not callable(self.distance)
            check(named, f"kernel={SHAPLEY!r} weights masks by the number of shown parts, so distance must not be a function")
        if self.feature_selection not in SELECTIONS:
            raise unknown("feature_selection", self.feature_selection, SELECTIONS)
        fits = isinstance(self.alpha, Real) and not isinstance(self.alpha, bool) and 0 <= self.alpha < math.inf
        check(fits, f"alpha must be a number, 0 or more, and finite; got {self.alpha!r}")
        width = self.kernel_width
        fits = width is None or (isinstance(width, Real) and width > 0 and 0 < float(width) ** 2 < math.inf)
        check(fits, f"kernel_width must be a positive number, or None for 0.75 * sqrt(k); got {width!r}")
        if self.num_features is not None:
            whole("num_features", self.num_features, 1, ", or None for all")
        if self.estimator != "ridge":
            check(self.alpha == 1, f"alpha={self.alpha!r} needs estimator='ridge'; {self.estimator!r} has no penalty")
        if self.estimator == "gp":
            check(
                not callable(self.distance),
                "estimator='gp' needs a distance by name, since it counts shown parts; got a function",
            )

    @property
    def selects(self) -> bool:
        """If a model may leave parts out."""
        return self.num_features is not None or self.feature_selection == "lasso_path"

    def of_all_parts(self) -> Settings:
        """The same without a selection of parts."""
        return replace(self, num_features=None, feature_selection="none")
