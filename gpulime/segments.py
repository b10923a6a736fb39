"""images -> segments: the parts of an image that can be hidden.

A segmenter is a frozen dataclass of its options, any callable ``(h, w, c) array -> (h, w) labels`` such as scikit-image's and
lime's, or label maps of the caller. Internal ids run from 0 without gaps; ``Segments.ids`` maps back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpulime.errors import GpulimeError, check, nearest, unknown, whole

Array = np.ndarray[Any, np.dtype[Any]]
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Slic:
    """SLIC superpixels: `skimage.segmentation.slic` with its own parameters, defaults and meaning."""

    n_segments: int = 100
    compactness: float = 10.0
    max_num_iter: int = 10
    sigma: float = 0.0
    min_size_factor: float = 0.5
    max_size_factor: float = 3.0
    enforce_connectivity: bool = True

    def __call__(self, image: Array) -> Array:
        """Segment one (h, w, c) image with values in [0, 1]."""
        from skimage import segmentation

        lab = image.shape[2] == 3
        labels: Array = segmentation.slic(image, **dataclasses.asdict(self), convert2lab=lab, channel_axis=-1, start_label=0)
        return labels


@dataclass(frozen=True)
class Quickshift:
    """Quickshift: `skimage.segmentation.quickshift` with lime's defaults."""

    ratio: float = 0.2
    kernel_size: float = 4.0
    max_dist: float = 200.0
    sigma: float = 0.0
    rng: int = 42

    def __call__(self, image: Array) -> Array:
        """Segment one (h, w, c) image with values in [0, 1]."""
        from skimage import segmentation

        lab = image.shape[2] == 3
        labels: Array = segmentation.quickshift(image, **dataclasses.asdict(self), convert2lab=lab, channel_axis=-1)
        return labels


@dataclass(frozen=True)
class Felzenszwalb:
    """Felzenszwalb's graph-based segmentation: `skimage.segmentation.felzenszwalb` with its own defaults."""

    scale: float = 1.0
    sigma: float = 0.8
    min_size: int = 20

    def __call__(self, image: Array) -> Array:
        """Segment one (h, w, c) image with values in [0, 1]."""
        from skimage.segmentation import felzenszwalb

        labels: Array = felzenszwalb(image, **dataclasses.asdict(self), channel_axis=-1)
        return labels


@dataclass(frozen=True)
class Grid:
    """Rectangles of equal size, computed on the images' device; segment ids run row by row."""

    rows: int = 7
    columns: int = 7

    def labels(self, n: int, h: int, w: int, device: torch.device) -> Tensor:
        """(n, h, w) int32 labels; an image smaller than the grid gets one segment per pixel row or column."""
        rows, columns = min(self.rows, h), min(self.columns, w)
        y = torch.arange(h, device=device) * rows // h
        x = torch.arange(w, device=device) * columns // w
        return (y[:, None] * columns + x).int().expand(n, h, w).contiguous()


Segmenter = Slic | Quickshift | Felzenszwalb | Grid | Callable[[Array], Any]
SEGMENTERS: dict[str, type[Slic] | type[Quickshift] | type[Felzenszwalb] | type[Grid]] = {
    "slic": Slic,
    "quickshift": Quickshift,
    "felzenszwalb": Felzenszwalb,
    "grid": Grid,
}


def resolve(spec: str | Mapping[str, Any] | Segmenter) -> Segmenter:
    """The segmenter of a setting.

    Parameters
    ----------
    spec : str, mapping or segmenter
        A name; ``{name: {option: value}}`` as in a YAML file; a dataclass of this module; or a callable.

    Raises
    ------
    GpulimeError
        For an unknown name or option (with the right ones), or an option that makes no sense.
    """
    if isinstance(spec, str):
        spec = {spec: {}}
    if isinstance(spec, Mapping):
        check(
            len(spec) == 1,
            f"segments must name one segmenter, such as {{grid: {{rows: 7, columns: 7}}}} as a whole; got {list(spec)}",
        )
        name, options = next(iter(spec.items()))
        if name not in SEGMENTERS:
            raise unknown("segments", name, SEGMENTERS)
        valid = [field.name for field in dataclasses.fields(SEGMENTERS[name])]
        check(isinstance(options or {}, Mapping), f"segments {name!r} takes a mapping of its options; got {options!r}")
        for option in options or {}:
            if option not in valid:
                listed = ", ".join(valid)
                raise GpulimeError(f"segments {name!r} has no option {option!r}{nearest(option, valid)}; it has {listed}")
        spec = SEGMENTERS[name](**(options or {}))
    check(callable(spec) or isinstance(spec, Grid), f"segments must be a name, options or a callable; got {spec!r}")
    for option in ("n_segments", "rows", "columns") if isinstance(spec, Slic | Grid) else ():
        whole(f"segments: {option}", getattr(spec, option, 1), 1)
    return spec
