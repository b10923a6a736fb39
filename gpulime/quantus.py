"""gpulime as an explanation function of Quantus.

>>> metric(model=model, x_batch=x, y_batch=y, a_batch=None, explain_func=gpulime.quantus.explain_func, device="cpu")
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from gpulime import arrays
from gpulime.errors import GpulimeError
from gpulime.explainer import Explainer

OF_QUANTUS = ("device", "method", "xai_lib", "softmax")  # arguments that are for Quantus' own explanation functions


def explain_func(model: Any, inputs: Any, targets: Any, segments: Any = "grid", **settings: Any) -> np.ndarray[Any, Any]:
    """Explain a batch by LIME, with the interface that Quantus' metrics expect of ``explain_func``.

    An Explainer is made for each call, since metrics change the weights of a model between calls. Masks are a function of the
    seed, so explanations of equal models and inputs are equal. Quantus ends with an AssertionError if a map is 0 everywhere, as
    of a constant model.

    Parameters
    ----------
    model : nn.Module
    inputs : (n, c, h, w) array or tensor, normalised for the model
    targets : (n,) integers
    segments : as for `gpulime.Explainer`, or label maps (h, w) or (n, h, w)
        A segmenter that sees colours, such as "slic", needs the right mean and std among the settings.
    **settings
        As for `gpulime.Explainer`, by default with ``normalized=True, mean=0, std=1, fill=0``. Those of Quantus' own functions
        (device, method, xai_lib, softmax) are ignored.

    Returns
    -------
    (n, 1, h, w) float32 array, larger is more important for the target

    Raises
    ------
    GpulimeError
        If an argument is invalid.
    """
    images = arrays.tensor(inputs)
    images = images.float() if isinstance(images, Tensor) else inputs
    maps = segments if isinstance(segments, Tensor | np.ndarray) else None
    if maps is not None and maps.ndim == 2:
        maps = np.broadcast_to(np.asarray(maps), (len(images), *maps.shape))
    defaults = {"normalized": True, "mean": 0.0, "std": 1.0, "fill": 0.0, "segments": "grid" if maps is not None else segments}
    chosen = {name: value for name, value in settings.items() if name not in OF_QUANTUS}
    found = Explainer(model, **{**defaults, **chosen}).explain(images, _labels(targets), maps)
    return found.heatmaps()[:, :1].float().cpu().numpy()


def _labels(targets: Any) -> Tensor:
    """Targets as labels (n, 1)."""
    found = None if targets is None else arrays.tensor(targets)
    if found is None or (found.is_floating_point() and not bool((found == found.long()).all())):
        raise GpulimeError(f"targets must be given, (n,) class numbers: the metric's y_batch; got {targets!r:.100}")
    return found.long().reshape(-1, 1)
