"""What is known of single tensors."""

from __future__ import annotations

import weakref
from typing import Generic, TypeVar

from torch import Tensor

T = TypeVar("T")


class OfTensors(Generic[T]):
    """What is known of some tensors for as long as they live; another that comes to lie at the same place is another."""

    def __init__(self) -> None:
        self._table: dict[int, tuple[weakref.ref[Tensor], T]] = {}

    def __setitem__(self, tensor: Tensor, known: T) -> None:
        key, table = id(tensor), self._table
        table[key] = weakref.ref(tensor, lambda _: table.pop(key, None)), known

    def get(self, tensor: Tensor) -> T | None:
        """What is known of it, if anything is."""
        entry = self._table.get(id(tensor))
        return entry[1] if entry is not None else None

    def tensors(self) -> list[Tensor]:
        """Those that live still."""
        return [tensor for ref, _ in list(self._table.values()) if (tensor := ref()) is not None]

    def values(self) -> list[T]:
        """What is known of those that live still."""
        return [known for _, known in self._table.values()]

    def clear(self) -> None:
        """Forget them all."""
        self._table.clear()

    def __len__(self) -> int:
        return len(self._table)
