"""Zeros around an image before a convolution: those that the convolution can do without, being told of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils._pytree import tree_map_only


class Border(NamedTuple):
    """Zeros around the height and width of an image, in pixels, none of them negative."""

    left: int
    right: int
    top: int
    bottom: int

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Border | None:
        """What `torch.nn.functional.pad` is called with, or None where it is anything else."""
        given = dict(zip(("input", "pad", "mode", "value"), args, strict=False)) | kwargs
        amounts, mode, value = given.get("pad"), given.get("mode", "constant"), given.get("value") or 0
        if not isinstance(amounts, tuple | list) or len(amounts) != 4 or mode != "constant" or value != 0:
            return None
        return cls(*amounts) if all(type(amount) is int and amount >= 0 for amount in amounts) else None

    @property
    def padding(self) -> tuple[int, int]:
        """That of a convolution, which has the same at both ends: of height and width."""
        return max(self.top, self.bottom), max(self.left, self.right)

    @property
    def widening(self) -> tuple[int, int, int, int]:
        """The zeros around its weights, which look past what it has too much at one end: left, right, top, bottom."""
        wide, high = self.right - self.left, self.bottom - self.top
        return max(wide, 0), max(-wide, 0), max(high, 0), max(-high, 0)

    def fits(self, weight: Tensor, padding: Any, dilation: Any, groups: int) -> bool:
        """Whether a convolution can do without it and gains: one whose work is next to nothing may have wider weights."""
        if isinstance(padding, str) or isinstance(dilation, int):
            return False
        return not any(self.widening) or (groups > 1 and weight.shape[1] == 1 and all(n == 1 for n in dilation))


class Bordered(Tensor):
    """An image whose border is still to be put around it; whatever PyTorch does with it, it does with the real one."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, image: Tensor, border: Border) -> Bordered:
        n, c, h, w = image.shape
        h, w = h + border.top + border.bottom, w + border.left + border.right
        strides = h * w * c, 1, w * c, c  # of channels_last
        make: Any = torch.Tensor._make_wrapper_subclass
        return make(cls, (n, c, h, w), strides=strides, dtype=image.dtype)  # type: ignore[no-any-return]

    def __init__(self, image: Tensor, border: Border) -> None:
        self._image, self._border, self._image_version = image, border, image._version
        self._made: Tensor | None = None
        torch._C._set_throw_on_mutable_data_ptr(self)  # for code that would go by it, there being nothing

    @property
    def is_made(self) -> bool:
        """Whether the real one has been asked for."""
        return self._made is not None

    def made(self) -> Tensor:
        """The image with its border.

        Raises
        ------
        RuntimeError
            If the image has been written to meanwhile.
        """
        if self._made is None:
            if self._image._version != self._image_version:
                raise RuntimeError("the image has changed since it was given a border")
            self._made = pad(self._image, self._border)
        return self._made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        args, kwargs = with_borders((args, kwargs or {}))
        return func(*args, **kwargs)


def with_borders(arguments: Any) -> Any:
    """The same, every image in them with its border."""
    return tree_map_only(Bordered, Bordered.made, arguments)
