"""lime's `SegmentationAlgorithm`: one of scikit-image's segmentations with its parameters."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from gpulime.errors import nearest, unknown

ALGORITHMS = ("quickshift", "slic", "felzenszwalb")


class SegmentationAlgorithm:
    """A segmentation of scikit-image, as a function of the image.

    Parameters
    ----------
    algo_type : str
        "quickshift", "slic" or "felzenszwalb".
    **target_params
        Parameters of that function. lime drops unknown ones silently; here a warning names the nearest one.

    Attributes
    ----------
    algo_type, target_params : as given, without what the function does not have
    target_fn : scikit-image's function

    Raises
    ------
    GpulimeError
        For an unknown algorithm, with the right ones.
    """

    def __init__(self, algo_type: str, **target_params: Any) -> None:
        if algo_type not in ALGORITHMS:
            raise unknown("algo_type", algo_type, ALGORITHMS)
        from skimage import segmentation

        self.algo_type = algo_type
        self.target_fn: Callable[..., Any] = getattr(segmentation, algo_type)
        self.target_params: dict[str, Any] = target_params
        known = self.filter_params(self.target_fn)
        for name in target_params.keys() - known.keys():
            hint = nearest(name, self._parameters(self.target_fn))
            warnings.warn(f"{algo_type} has no parameter {name!r}{hint}; it is ignored", stacklevel=2)
        self.set_params(**known)

    def __call__(self, *args: Any) -> np.ndarray[Any, np.dtype[Any]]:
        """Segment one image (h, w, c): (h, w) integers, ids as scikit-image gives them."""
        labels: np.ndarray[Any, np.dtype[Any]] = self.target_fn(args[0], **self.target_params)
        return labels

    def set_params(self, **params: Any) -> None:
        """Replace all given parameters by others.

        Raises
        ------
        ValueError
            If the function has no parameter of that name.
        """
        self._check_params(params)
        self.target_params = params

    def filter_params(self, fn: Callable[..., Any], override: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Parameters in ``target_params`` that ``fn`` accepts, and ``override``."""
        known = self._parameters(fn)
        return {**{name: value for name, value in self.target_params.items() if name in known}, **(override or {})}

    def _check_params(self, parameters: Iterable[str]) -> None:
        if isinstance(parameters, str):
            raise TypeError("invalid argument: list or dictionary expected")
        known = self._parameters(self.target_fn)
        for name in parameters:
            if name not in known:
                raise ValueError(
                    f"{name} is not a valid parameter{nearest(name, known)}; {self.algo_type} has {', '.join(known)}"
                )

    @staticmethod
    def _parameters(fn: Callable[..., Any]) -> list[str]:
        return [name for name, one in inspect.signature(fn).parameters.items() if one.kind is not one.VAR_KEYWORD]
