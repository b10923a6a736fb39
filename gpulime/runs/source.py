"""Source of a run's inputs: reads them, turns them into batches of the explainer, and knows the columns of their kind."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

from gpulime.engine.engine import Engine
from gpulime.runs.reading.read import Read
from gpulime.runs.reading.sources import Item

Group = tuple[list[Read], Any]  # inputs read together, and their batch for the explainer; None if they could not be read


class Source(Protocol):
    """Inputs of one kind: images, texts or the rows of a table.

    Attributes
    ----------
    kind : str, "image", "text" or "row"
    """

    kind: str

    @property
    def per_sample(self) -> float:
        """Forwards of an input for each of its samples; below 1 if inputs share samples."""
        ...

    @property
    def explainer(self) -> Engine[Any]:
        """The explainer of this kind."""
        ...

    def groups(self, items: Sequence[Item], proven: bool, waiting: Callable[[], None]) -> Generator[Group, None, None]:
        """Read items in order, as groups of the batches to explain together.

        ``proven`` is true if the run has explained inputs before; errors are then the inputs'. ``waiting`` is called between
        groups and while a worker process is waited for.
        """
        ...

    def passes(self, items: Sequence[Item]) -> list[Sequence[Item]]:
        """Divide items into those that are explained together, one pass after the other."""
        ...

    def alone(self, read: Read) -> Any:
        """The batch of one input that could be read."""
        ...

    def read(self, item: Item) -> Read:
        """Read one input again."""
        ...

    def columns(self, piece: Any, i: int, read: Read) -> dict[str, Any]:
        """Columns that input ``i`` of a piece of explanations has by its kind: ``n_segments``, its parts, its content."""
        ...
