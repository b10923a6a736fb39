"""Equal maps: the rule that tells if two methods give the same ones."""

from __future__ import annotations

from torch import Tensor

EQUAL = "equal to"  # begins the note of a method whose maps are those of another one
TOLERANCE = 1e-4  # of a map's largest value, by which equal maps may differ


def same_maps(maps: Tensor, others: Tensor) -> Tensor:
    """Tell which of two methods' maps (n, l, h, w) are the same, up to a positive factor and rounding.

    Returns
    -------
    (n, l) bool; False where one of the two is not finite, or constant: such a map says nothing of its method
    """
    one, other = (
        given / given.abs().amax((-2, -1), keepdim=True).clamp(min=1e-30) for given in (maps.double(), others.double())
    )
    found: Tensor = ((one - other).abs() <= TOLERANCE).flatten(2).all(2)  # NaN is no such difference
    return found & ~_constant(one) & ~_constant(other)


def equal(maps: Tensor, others: Tensor) -> bool:
    """Tell if all maps (n, l, h, w) of two methods are the same, except those not finite in one or constant in both."""
    compared = (maps + others).isfinite().flatten(2).all(2) & ~(_constant(maps) & _constant(others))
    return bool(compared.any()) and bool(same_maps(maps, others)[compared].all())


def _constant(maps: Tensor) -> Tensor:
    """Tell which maps (n, l, h, w) are constant, such as Grad-CAM's zeros, up to rounding: (n, l) bool."""
    spread: Tensor = maps.amax((-2, -1)) - maps.amin((-2, -1))
    return spread <= TOLERANCE * maps.abs().amax((-2, -1))
