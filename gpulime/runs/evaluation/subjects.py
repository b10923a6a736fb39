"""Inputs of an evaluation: read again, compared with those that were explained, and put together with their explanations."""

from __future__ import annotations

import dataclasses
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from gpulime.config import DataConfig
from gpulime.engine.engine import Engine
from gpulime.errors import GpulimeError
from gpulime.explainer import Explainer
from gpulime.explanations.batch import Explanations
from gpulime.images.normalisation import Normalisation
from gpulime.runs.reading import examples
from gpulime.runs.reading.read import DatasetReader, FileReader, Read
from gpulime.runs.reading.sources import Item
from gpulime.runs.reading.tables import RowSource
from gpulime.runs.reading.texts import TextSource
from gpulime.runs.reading.workers import Workers
from gpulime.runs.store import explanations
from gpulime.runs.store.row import IMAGE

CHANGED, MISSING = "changed", "missing"  # error_type of an input that is not the explained one
AT_ONCE = 64  # texts or table rows that are measured together

Row = dict[str, Any]  # a whole row of the run's results


@dataclass(frozen=True)
class Loss:
    """An input that cannot be measured: the kind of failure, and the reason."""

    row: Row
    kind: str
    reason: str


@dataclass(frozen=True)
class Group:
    """Inputs that are measured together: as the explainer takes them, with their explanations on the CPU."""

    rows: Sequence[Row]
    inputs: Any
    explained: Any

    def part(self, places: Sequence[int]) -> Group:
        """Some of the inputs."""
        if len(places) == len(self.rows):
            return self
        where = list(places)
        inputs = [self.inputs[i] for i in where] if isinstance(self.inputs, list) else taken(self.inputs, where)
        parts = [self.explained.part(slice(i, i + 1)) for i in where]
        return Group([self.rows[i] for i in where], inputs, Explanations.cat(parts))


class Subject(Protocol):
    """Model and inputs of a run.

    ``kind`` is "image", "text" or "row".
    """

    @property
    def kind(self) -> str:
        """The kind of inputs."""
        ...

    @property
    def explainer(self) -> Engine[Any]:
        """The explainer of the run."""
        ...

    @property
    def fill(self) -> str:
        """How the run hides parts, as it stands in rows."""
        ...

    def groups(
        self, rows: Sequence[Row], labels: Callable[[Row], Sequence[int]], waiting: Callable[[], None]
    ) -> Iterator[Group | Loss]:
        """Read the inputs of rows again; ``labels`` gives the places of a row's labels, and ``waiting`` is called meanwhile."""
        ...


@dataclass
class Images:
    """Images of a run.

    Attributes
    ----------
    keeps : True if some segments of the run are never hidden
    """

    explainer: Explainer
    manifest: Mapping[str, Any]
    data: DataConfig
    reader: FileReader | DatasetReader
    keeps: bool
    kind: str = IMAGE

    @property
    def normalisation(self) -> Normalisation | None:
        """The normalisation of a dataset's images, for pictures; None for those in [0, 1]."""
        return None if self.reader.in_unit else self.explainer.normalisation

    @property
    def fill(self) -> str:
        """The fill of hidden segments."""
        return fill_name(self.explainer.preparation.fill)

    def groups(
        self, rows: Sequence[Row], labels: Callable[[Row], Sequence[int]], waiting: Callable[[], None]
    ) -> Iterator[Group | Loss]:
        """Groups of one size and one number of labels."""
        known = [(row, item) for row in rows if (item := self._item(row)) is not None]
        yield from (Loss(row, MISSING, "it is not in the data") for row in rows if self._item(row) is None)
        data, at = self.data, 0
        workers = Workers(self.reader, None, data.batch_size, data.workers, data.timeout_seconds, waiting)
        for reads in workers.read([item for _, item in known]):
            some = [row for row, _ in known[at : at + len(reads)]]
            at += len(reads)
            sound: dict[Hashable, list[tuple[Row, Tensor]]] = defaultdict(list)
            for row, read in zip(some, reads, strict=True):
                loss = _loss(row, read) or self._other_size(row, read)
                if loss is not None:
                    yield loss
                    continue
                assert read.pixels is not None
                pixels = read.pixels / 255 if self.reader.in_unit and read.pixels.dtype == torch.uint8 else read.pixels
                sound[pixels.shape, pixels.dtype, len(labels(row))].append((row, pixels))
            for pairs in sound.values():
                found = [self._explained(row, labels(row)) for row, _ in pairs]
                yield Group([row for row, _ in pairs], torch.stack([one for _, one in pairs]), Explanations.cat(found))

    @cached_property
    def _items(self) -> dict[str, Item] | None:
        """The examples of a dataset by id; None for files, whose rows have their paths."""
        if isinstance(self.reader, FileReader):
            return None
        return {item.image_id: item for item in examples.items(self.reader.dataset)}

    def _item(self, row: Row) -> Item | None:
        return Item(row["image_id"], row["path"]) if self._items is None else self._items.get(row["image_id"])

    def _other_size(self, row: Row, read: Read) -> Loss | None:
        assert read.pixels is not None
        found, right = tuple(read.pixels.shape[1:]), (row["h"], row["w"])
        return None if found == right else Loss(row, CHANGED, f"its size (h, w) was {right}, is {found}")

    def _explained(self, row: Row, places: Sequence[int]) -> Any:
        found = chosen(explanations.of_row(row, None, self.manifest), places)
        last = row["n_segments"] - 1
        if self.keeps and not any(of_label[last] for of_label in row["coef"]):  # its pixels are never hidden
            found = dataclasses.replace(found, counts=found.counts - 1)
        return found


@dataclass
class Records:
    """Texts or table rows of a run."""

    explainer: Engine[Any]
    manifest: Mapping[str, Any]
    source: TextSource | RowSource

    @property
    def kind(self) -> str:
        """The kind of inputs: "text" or "row"."""
        return self.source.kind

    @property
    def fill(self) -> str:
        """How words are hidden; columns get draws from the training data."""
        return fill_name(self.source.explainer.preparation.hide) if isinstance(self.source, TextSource) else "training"

    def groups(
        self, rows: Sequence[Row], labels: Callable[[Row], Sequence[int]], waiting: Callable[[], None]
    ) -> Iterator[Group | Loss]:
        """Groups of one number of labels."""
        for start in range(0, len(rows), AT_ONCE):
            waiting()
            sound: dict[int, list[Row]] = defaultdict(list)
            for row in rows[start : start + AT_ONCE]:
                if row["image_id"] not in self.source.records.places:
                    yield Loss(row, MISSING, "it is not in the data")
                    continue
                read = self.source.read(Item(row["image_id"], b"", row["target"]))
                if (loss := _loss(row, read)) is not None:
                    yield loss
                else:
                    sound[len(labels(row))].append(row)
            for some in sound.values():
                found = [chosen(explanations.of_row(row, None, self.manifest), labels(row)) for row in some]
                yield Group(some, self._inputs([row["image_id"] for row in some]), Explanations.cat(found))

    def _inputs(self, ids: Sequence[str]) -> Any:
        """Texts as a list, or rows as the explainer takes them."""
        source = self.source
        if isinstance(source, RowSource):
            return source.records.rows(ids, source.framed)
        return [source.records.record(image_id)[source.column] for image_id in ids]


def _loss(row: Row, read: Read) -> Loss | None:
    """The loss of an input that cannot be read or has changed; None if it is as it was explained."""
    if read.error is not None:
        gone = bool(row["path"]) and not os.path.exists(row["path"])
        return Loss(row, MISSING if gone else read.kind or MISSING, read.error)
    if row["image_sha256"] is None or read.sha256 != row["image_sha256"]:
        was, now = (str(one)[:12] for one in (row["image_sha256"], read.sha256))
        return Loss(row, CHANGED, f"it has changed since it was explained: its sha256 was {was}..., is {now}...")
    return None


def chosen(explained: Any, places: Sequence[int]) -> Any:
    """The explanations of one input for some of its labels only, by their places."""
    return dataclasses.replace(explained, **{name: getattr(explained, name)[:, list(places)] for name in PER_LABEL})


PER_LABEL = (
    *("coefficients", "standard_errors", "labels", "predictions", "local_predictions", "intercepts", "scores", "scores_loo"),
    "spreads",
)


def taken(inputs: Any, where: list[int]) -> Any:
    """Some of the images, or rows of an array or a DataFrame."""
    return inputs.iloc[where] if hasattr(inputs, "iloc") else inputs[where]


def fill_name(fill: Any) -> str:
    """A fill as it stands in rows: a name, a number or a colour.

    Raises
    ------
    GpulimeError
        If it is a picture.
    """
    if not isinstance(fill, Tensor):
        return str(getattr(fill, "__qualname__", fill))
    if fill.ndim > 1:
        raise GpulimeError(f"the fill of an evaluation must be a name, a number or a colour; got pictures {tuple(fill.shape)}")
    numbers = [f"{value:.6g}" for value in fill.reshape(-1).tolist()]
    return numbers[0] if fill.ndim == 0 else f"[{', '.join(numbers)}]"
