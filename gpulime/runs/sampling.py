"""Sampling of a run: what a preset and the settings beside it mean, and the entries of run.json that say so."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gpulime.config import LimeConfig
from gpulime.engine.quality import LIME, Sampling, sampling
from gpulime.errors import GpulimeError

if TYPE_CHECKING:
    from gpulime.explainer import Explainer
    from gpulime.text_explainer import TextExplainer

CHOSEN = ("n_samples", "sampler", "estimator", "link")  # by a preset
ALL = ("quality", *CHOSEN, "tolerance", "confidence", "max_samples")


def chosen(lime: LimeConfig) -> Sampling:
    """The sampling of a run's settings.

    Raises
    ------
    GpulimeError
        If the preset and the settings beside it do not fit together.
    """
    try:
        return sampling(lime.quality, **{name: getattr(lime, name) for name in CHOSEN})
    except GpulimeError as error:
        if lime.sampler is None or lime.quality in (None, "lime"):
            raise
        raise GpulimeError(f"{error} (lime.quality is {lime.quality!r}; with 'lime' any sampler will do)") from error


def resolved(fixed: Mapping[str, Any], explainer: Explainer | TextExplainer) -> dict[str, Any]:
    """Settings that change a row, with the explainer's sampling: the same whether a preset or its settings were given.

    An estimator and a link equal to lime's are left out, and a stopping rule if there is none: runs of earlier versions have
    no such entries, and so can be resumed.
    """
    used = dataclasses.asdict(explainer.sampling)
    for name in ("estimator", "link"):
        if used[name] == getattr(LIME, name):
            del used[name]
    if explainer.stopping is not None:
        used |= dataclasses.asdict(explainer.stopping)
    rest = {name: value for name, value in fixed.items() if name.removeprefix("lime.") not in ALL}
    return rest | {f"lime.{name}": value for name, value in used.items()}
