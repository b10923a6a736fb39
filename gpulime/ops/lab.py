"""sRGB -> CIE Lab, with the roundings of scikit-image's float32: segmenters compare distances in it.

scikit-image computes in float32 and takes powers and cube roots from NumPy, whose last bit depends on the processor. Here
both are rounded to the nearest float32, on every device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gpulime import device
from gpulime.errors import check
from gpulime.ops import source

XYZ_FROM_RGB = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
WHITE = (0.95047, 1.0, 1.08883)  # D65, seen by the observer of 2 degrees

_THREADS = 256


def rgb2lab(images: Tensor) -> Tensor:
    """`skimage.color.rgb2lab`, for images whose channels are planes.

    Parameters
    ----------
    images : (n, 3, h, w) float32, in [0, 1]

    Returns
    -------
    (n, 3, h, w) float32: L in [0, 100], a and b

    Raises
    ------
    GpulimeError
        For images of another dtype or shape.
    """
    check(images.dtype == torch.float32, f"images must be float32; got {images.dtype}")
    check(images.ndim == 4 and images.shape[1] == 3, f"images must be (n, 3, h, w); got {tuple(images.shape)}")
    if not source.available(images.device):
        return rgb2lab_reference(images)
    n, _, h, w = images.shape
    lab = device.empty(n, 3, h, w, dtype=torch.float32, device=images.device)
    grid = (-(-n * h * w // _THREADS),)
    source.launch("lab.cu", "rgb2lab", grid, (_THREADS,), (images.contiguous(), lab, n, h * w), device=images.device)
    return lab


def rgb2lab_reference(images: Tensor) -> Tensor:
    """The definition (`CIELAB <https://en.wikipedia.org/wiki/CIELAB_color_space>`_), rounded after each step."""
    power = ((images + 0.055) / images.new_full((), 1.055)).double().pow(_float32(2.4)).float()
    light = torch.where(images > 0.04045, power, images / images.new_full((), 12.92))
    x, y, z = (_response(light, row, white) for row, white in zip(XYZ_FROM_RGB, WHITE, strict=True))
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def _response(light: Tensor, row: tuple[float, float, float], white: float) -> Tensor:
    """The nonlinear response of Lab to X, Y or Z, (n, h, w)."""
    total = (light[:, 0].double() * _float32(row[0])).float()
    for channel in (1, 2):  # a fused multiply-add each, as matrix products are computed
        total = (light[:, channel].double() * _float32(row[channel]) + total.double()).float()
    total = total / total.new_full((), white)
    return torch.where(total > 0.008856, total.double().pow(1 / 3).float(), 7.787 * total + 16 / 116)


def _float32(value: float) -> float:
    """The nearest float32 of a function that float64 computes from float32 numbers."""
    return torch.tensor(value, dtype=torch.float32).item()
