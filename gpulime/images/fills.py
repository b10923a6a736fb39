"""Fills of hidden segments: the mean of the segment, a blur, a colour, or another image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gpulime import arrays
from gpulime import device as devices
from gpulime.errors import check, stage, unknown

Fill = str | float | Sequence[float] | Tensor
FILLS = ("mean", "blur")


def resolve(spec: Fill) -> str | Tensor:
    """Check a fill: a name of `FILLS`, or a tensor: () for a number, (c,) for a colour, (n, c, h, w) or (c, h, w) for images.

    Raises
    ------
    GpulimeError
        If the name is unknown, or the fill is not numeric.
    """
    if isinstance(spec, str):
        if spec not in FILLS:
            raise unknown("fill", spec, [*FILLS, "a number", "a colour (c,)", "images (n, c, h, w)"])
        return spec
    found = arrays.tensor(spec)
    value = torch.empty(0, 0) if found is None else found
    check(
        value.ndim in (0, 1, 3, 4) and value.numel() > 0 and not value.is_complex(),
        f"fill must be {' or '.join(map(repr, FILLS))}, a number, a colour (c,) or images (n, c, h, w); got {spec!r:.100}",
    )
    check(bool(value.isfinite().all()), "fill must be finite; it holds NaN or infinity")
    return value


@stage("fill")
def fill(spec: str | Tensor, images: Tensor, labels: Tensor, k: int, unit: float = 1.0) -> Tensor:
    """Make the pictures that hidden segments show.

    Parameters
    ----------
    spec : as returned by `resolve`
    images : (n, c, h, w) float tensor
    labels : (n, h, w) int32 in [0, k)
    k : int
        The most segments of any image.
    unit : float
        Divisor of numbers: 255 if the caller's images were uint8, since a colour is given in the images' units.

    Returns
    -------
    (n, c, h, w) tensor of the dtype of ``images``; it may share memory (a colour is expanded)

    Raises
    ------
    GpulimeError
        If a colour does not have c entries, or a picture does not have the images' shape.
    """
    if isinstance(spec, str):
        return segment_means(images, labels, k) if spec == "mean" else blur(images)
    n, c, h, w = images.shape
    fits(spec, (n, c, h, w))
    value = devices.sent(spec, images.device).to(images.dtype) / unit
    return (value[:, None, None] if value.ndim == 1 else value).expand(n, c, h, w)


@stage("fill")
def fits(spec: str | Tensor, shape: tuple[int, ...]) -> None:
    """Raise `GpulimeError` unless a colour or pictures fit images of that shape (n, c, h, w)."""
    n, c, h, w = shape
    if isinstance(spec, Tensor) and spec.ndim == 1:
        check(spec.shape[0] in (1, c), f"fill must have one entry per channel, c = {c}; got {spec.shape[0]}")
    if isinstance(spec, Tensor) and spec.ndim >= 3:
        shapes = [(c, h, w), (1, c, h, w), (n, c, h, w)]
        check(tuple(spec.shape) in shapes, f"fill must be (n, c, h, w) = {(n, c, h, w)}; got {tuple(spec.shape)}")


def outside(spec: str | Tensor, unit: float) -> str | None:
    """Warning for a colour or pictures outside the images' range, [0, unit]; None if inside."""
    if isinstance(spec, str) or (spec.min() >= 0 and spec.max() <= unit):
        return None
    return (
        f"fill runs from {float(spec.min()):.3g} to {float(spec.max()):.3g}, and the images from 0 to {unit:g}: "
        "a fill is given in the units of the images"
    )


def segment_means(images: Tensor, labels: Tensor, k: int) -> Tensor:
    """Replace every pixel by the mean of its segment, per channel (lime's ``hide_color=None``).

    A GPU adds in any order, so pixels, which must be finite, are summed as 64-bit integers. Their unit is set by the channel's
    largest value: 2e-14 of it at 224x224. An image then has the same means in every run and batch.
    """
    n, c, h, w = images.shape
    where = labels.view(n, 1, h * w).long().expand(n, c, h * w)
    values = (images if images.dtype == torch.float64 else images.float()).flatten(2)
    largest = torch.frexp(values.abs().amax(2, keepdim=True)).exponent.clamp(min=-60)  # a power of two within float32
    exponent = 62 - (h * w).bit_length() - largest.long()
    scale = ((exponent + 1023) << 52).view(torch.float64)  # 2**exponent from its bits: pow is not exact on every device
    whole = (values * scale.to(values.dtype)).long()
    sums = torch.zeros(n, c, k, dtype=torch.int64, device=images.device).scatter_add_(2, where, whole)
    sizes = torch.zeros(n, 1, k, dtype=torch.int64, device=images.device)
    sizes.scatter_add_(2, where[:, :1], torch.ones_like(where[:, :1]))
    means = (sums / scale / sizes.clamp(min=1)).to(images.dtype)
    return means.gather(2, where).view(n, c, h, w)


def blur(images: Tensor) -> Tensor:
    """Blur by a Gaussian with a sigma of 1/20 of the longer side: shapes disappear, colours remain.

    The blur along each side is a matrix, with reflection at the borders. Two matrix products take a fraction of the time of a
    convolution with such a large kernel.
    """
    n, c, h, w = images.shape
    sigma = max(h, w) / 20
    down, across = (_blurring(side, sigma, images.device) for side in (h, w))
    planes = images.reshape(n * c, h, w).double()  # TF32 does not apply to float64
    # One product per plane, so that an image's result is the same in any batch.
    blurred = devices.product(down.expand(n * c, h, h), devices.product(planes, across.T.expand(n * c, w, w)))
    return blurred.view(n, c, h, w).to(images.dtype)


def _blurring(side: int, sigma: float, device: torch.device) -> Tensor:
    """Matrix (side, side) float64 of a Gaussian blur; its rows sum to 1."""
    # A reflection cannot reach beyond the other border.
    radius = min(int(3 * sigma + 0.5), side - 1)
    steps = torch.arange(-radius, radius + 1, device=device)
    weights = (-0.5 * (steps / sigma).double() ** 2).exp()
    places = (torch.arange(side, device=device)[:, None] + steps).abs()
    places = places.where(places < side, 2 * (side - 1) - places)
    matrix = torch.zeros(side, side, dtype=torch.float64, device=device)
    return matrix.scatter_add_(1, places, (weights / weights.sum()).expand(side, -1))
