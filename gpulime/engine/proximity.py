"""Proximity weights of samples: near 1 if much of the input is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gpulime.errors import check, stage, unknown

if TYPE_CHECKING:
    from gpulime.engine.settings import Settings

Distance = str | Callable[[Tensor], Any]
Kernel = str | Callable[[Tensor, float], Any]

# Distances between a binary row with `on` of k ones and the row of all ones.
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

# Distances between rows (n, s, k) of any numbers and the row (n, 1, k) of sample 0.
DISTANCES_OF_NUMBERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": lambda x, x0: 1 - torch.nn.functional.cosine_similarity(x, x0, dim=-1),
    "euclidean": lambda x, x0: (x - x0).norm(dim=-1),
    "sqeuclidean": lambda x, x0: (x - x0).square().sum(-1),
    "manhattan": lambda x, x0: (x - x0).abs().sum(-1),
    "chebyshev": lambda x, x0: (x - x0).abs().amax(-1),
}
KERNELS: dict[str, Callable[[Tensor, float | Tensor], Tensor]] = {
    "exponential": lambda d, width: (d**2 / (-2 * width**2)).exp(),
    "uniform": lambda d, width: torch.ones_like(d),
}


@stage("surrogate")
def proximity(regressors: Tensor, counts: Tensor, settings: Settings, x0: Tensor | None = None) -> Tensor:
    """Weight of each sample: near 1 if it is close to sample 0.

    Parameters
    ----------
    regressors : (n, s, k), masks (bool) or numbers; False or 0 beyond an input's count
    counts : (n,) parts of each input
    x0 : (n, k), optional
        Regressors of sample 0; None for masks, whose sample 0 shows everything.

    Returns
    -------
    (n, s) float64; for masks by default ``exp(-d**2 / (2 * kernel_width**2))`` of the cosine distance ``d = 1 - sqrt(on / k)``

    Raises
    ------
    GpulimeError
        If a callable returns another shape, or weights that are negative or not finite; if the distance is for masks only.
    """
    s, device = regressors.shape[1], regressors.device
    k = counts[:, None].double()
    if callable(settings.distance):
        check(x0 is None, "distance must be a name for inputs that are numbers; a callable takes masks")
        pieces = [settings.distance(regressors[i, :, :count].double()) for i, count in enumerate(counts.tolist())]
        distances = torch.stack([_checked("distance", piece, (s,), device) for piece in pieces])
    elif x0 is None:
        # Whole numbers are summed faster on a CPU; on a GPU their conversion would be one more launch.
        on = regressors.sum(-1, dtype=torch.float64 if regressors.is_cuda else torch.int32).double()
        distances = DISTANCES[settings.distance](on, k)
    elif settings.distance in DISTANCES_OF_NUMBERS:
        distances = DISTANCES_OF_NUMBERS[settings.distance](regressors.double(), x0[:, None].double())
    else:
        raise unknown("distance of numbers", settings.distance, DISTANCES_OF_NUMBERS)
    if callable(settings.kernel):
        widths = [settings.kernel_width or 0.75 * count**0.5 for count in counts.tolist()]
        rows = [settings.kernel(distances[i], width) for i, width in enumerate(widths)]
        weights = torch.stack([_checked("kernel", row, (s,), device) for row in rows])
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
