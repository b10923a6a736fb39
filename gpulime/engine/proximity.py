"""Proximity: the weight of each sample, near 1 if much of the input is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gpulime.errors import check

if TYPE_CHECKING:
    from gpulime.engine.settings import Settings

Distance = str | Callable[[Tensor], Any]


Kernel = str | Callable[[Tensor, float], Any]


# Between a binary row with `on` of k ones and the row of all ones.
DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": lambda on, k: 1 - (on / k).sqrt(),
    "euclidean": lambda on, k: (k - on).sqrt(),
    "sqeuclidean": lambda on, k: k - on,
    "manhattan": lambda on, k: k - on,
    "chebyshev": lambda on, k: (on < k).double(),
    "hamming": lambda on, k: 1 - on / k,
    "jaccard": lambda on, k: 1 - on / k,
    "dice": lambda on, k: (k - on) / (k + on),
}


KERNELS: dict[str, Callable[[Tensor, float | Tensor], Tensor]] = {
    "exponential": lambda d, width: (-(d**2) / (2 * width**2)).exp(),
    "uniform": lambda d, width: torch.ones_like(d),
}


def proximity(masks: Tensor, counts: Tensor, settings: Settings) -> Tensor:
    """The weight of each sample: near 1 where much of the image is shown.

    Parameters
    ----------
    masks : (n, s, k) bool, False beyond an image's count
    counts : (n,) segments of each image

    Returns
    -------
    (n, s) float64; by default ``exp(-d**2 / (2 * kernel_width**2))`` of the cosine distance ``d = 1 - sqrt(on / k)``

    Raises
    ------
    GpulimeError
        If a callable returns another shape, or weights that are negative or not finite.
    """
    s = masks.shape[1]
    k = counts[:, None].double()
    if callable(settings.distance):
        pieces = [settings.distance(masks[i, :, :count].double()) for i, count in enumerate(counts.tolist())]
        distances = torch.stack([_checked("distance", piece, (s,), masks.device) for piece in pieces])
    else:
        distances = DISTANCES[settings.distance](masks.sum(-1).double(), k)
    if callable(settings.kernel):
        widths = [settings.kernel_width or 0.75 * count**0.5 for count in counts.tolist()]
        rows = [settings.kernel(distances[i], width) for i, width in enumerate(widths)]
        weights = torch.stack([_checked("kernel", row, (s,), masks.device) for row in rows])
        check(bool((weights >= 0).all()), "kernel must return weights of 0 or more; got negative ones")
        return weights
    return KERNELS[settings.kernel](distances, settings.kernel_width or 0.75 * k.sqrt())


def _checked(name: str, value: Any, shape: tuple[int, ...], device: torch.device) -> Tensor:
    tensor = torch.as_tensor(value, dtype=torch.float64, device=device)
    check(
        tuple(tensor.shape) == shape,
        f"{name} must return one number per sample, (s,) = {shape}; got {tuple(tensor.shape)}",
    )
    check(bool(tensor.isfinite().all()), f"{name} must return finite numbers; got NaN or infinity")
    return tensor
