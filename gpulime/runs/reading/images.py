"""Images of a run: read and segmented, if need be in worker processes, and turned into batches."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gpulime.config import DataConfig
from gpulime.explainer import Explainer
from gpulime.explanations.images import ExplainedImages
from gpulime.images.batch import Batch
from gpulime.runs.reading.batches import Checks, Group, batches, read_target
from gpulime.runs.reading.read import DatasetReader, FileReader, Read
from gpulime.runs.reading.sources import Item
from gpulime.runs.reading.workers import read_all
from gpulime.runs.store import row


@dataclass
class ImageSource:
    """The images of a run, of files or a dataset; a `gpulime.runs.source.Source`.

    Attributes
    ----------
    labels : "top", "target" or "top+target", or the classes to explain for each image
    class_names : names of the model's classes; None if unknown
    segmenter : str, the segmenter with its version, for the store
    keep : ids of segments that are never hidden
    """

    explainer: Explainer
    reader: FileReader | DatasetReader
    labels: str | Sequence[int]
    class_names: Sequence[str] | None
    data: DataConfig
    segmenter: str
    keep: Sequence[int] = ()
    kind: str = row.IMAGE
    per_sample: float = 1.0
    _checks: Checks | None = None

    def groups(self, items: Sequence[Item], proven: bool, waiting: Callable[[], None]) -> Generator[Group, None, None]:
        """Read images in order, in groups of one shape."""
        self._checks = checks = self._checks or Checks(proven)
        for reads in read_all(
            items,
            self.reader,
            self.explainer.segmenter,
            self.explainer.device,
            self.data.batch_size,
            self.data.workers,
            timeout_seconds=self.data.timeout_seconds,
            waiting=waiting,
        ):
            waiting()
            checks.look(reads)
            aimed = [read_target(read, self.labels, self.class_names, self._count_classes) for read in reads]
            yield from batches(aimed, self.labels, self.reader.in_unit, self.keep)

    def passes(self, items: Sequence[Item]) -> list[Sequence[Item]]:
        """All images together."""
        return [items]

    def alone(self, read: Read) -> Batch:
        """The batch of one image."""
        [(_, batch)] = batches([read], self.labels, self.reader.in_unit, self.keep)
        assert batch is not None  # it could be read
        return batch

    def read(self, item: Item) -> Read:
        """Read one image again."""
        return self.reader(item)

    def columns(self, piece: ExplainedImages, i: int, read: Read) -> dict[str, Any]:
        """Size and label map of an image, as `columns`."""
        return columns(piece, i, read.segmenter or self.segmenter)

    def _count_classes(self, images: Tensor) -> int | None:
        """Count the model's classes from their names, its outputs so far, or one more call; None if that fails."""
        if self.class_names is not None:
            return len(self.class_names)
        if self.explainer.predictor.classes is None:
            with suppress(Exception, SystemExit):  # the error comes up again in the image's row
                self.explainer.count_classes(images)
        return self.explainer.predictor.classes


def columns(piece: ExplainedImages, i: int, segmenter: str) -> dict[str, Any]:
    """Columns of the store for image ``i`` alone: size and label map; pixels that are never hidden are a segment, too."""
    labels = piece.segments[i].numpy()
    raster, dtype = row.raster(labels)
    return {
        "kind": row.IMAGE,
        "h": labels.shape[0],
        "w": labels.shape[1],
        "n_segments": int(labels.max()) + 1,
        "seg": raster,
        "seg_dtype": dtype,
        "segmenter": segmenter,
    }
