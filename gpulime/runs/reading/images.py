"""The images of a run on the command line: files, or the dataset of ``data.factory``; also for reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gpulime.config import DataConfig
from gpulime.errors import check
from gpulime.runs import from_dataset
from gpulime.runs.progress.terminal import note
from gpulime.runs.reading import factories, models, sources
from gpulime.runs.reading.read import DatasetReader, FileReader
from gpulime.runs.reading.sources import Item, Source
from gpulime.runs.reading.transform import Transform


@dataclass(frozen=True)
class Images:
    """Images and their reader.

    Attributes
    ----------
    items : in order, the first ``data.limit``
    reader : reads one item
    count : number of images, including those beyond the limit
    targets : the class folders, and the target of the images in each
    name : of the source
    """

    items: Sequence[Item]
    reader: FileReader | DatasetReader
    count: int
    targets: dict[str, int] = field(default_factory=dict)
    name: str = ""


def find(data: DataConfig, transform: Transform, class_names: Sequence[str] | None) -> Images:
    """The images of a configuration.

    Raises
    ------
    GpulimeError
        If there are none, two have the same id, ``data.keep`` has no masks, or ``data.factory`` cannot be called or makes no
        dataset.
    """
    if data.factory is not None:
        return _of_factory(data, transform)
    masked = data.keep is None or data.masks is not None  # segments of a segmenter have other ids in each image
    check(masked, "data.keep names segments of masks: set data.masks too, or data.factory for a dataset that brings them")
    source = sources.find(data, class_names)
    if source.ignored:
        listed = ", ".join(f"{count} {ending or 'without ending'}" for ending, count in sorted(source.ignored.items()))
        note(f"{len(source.items)} images in {data.source}; left aside: {listed}")
    reader = FileReader(replace(source, items=[], targets={}), transform)
    return Images(source.items, reader, source.images, source.targets, data.source)


def _of_factory(data: DataConfig, transform: Transform) -> Images:
    unused = [name for name in ("source", "resize", "crop") if getattr(data, name) != getattr(DataConfig, name)]
    if unused:
        note(f"data.factory makes the images; not used: {', '.join(f'data.{name}' for name in unused)}")
    made = models.made_dataset(data)
    items = from_dataset.items(made)
    factories.keep(data)
    return Images(
        items[: data.limit], DatasetReader(made, transform.channels, in_unit=True), len(items), name=str(data.factory)
    )


def again(data: DataConfig, transform: Transform) -> FileReader | DatasetReader | None:
    """The reader of a run from its run.json; None for a ``data.factory`` that this user has not run in this folder.

    A run.json may come from another person, and its factory could run any code.
    """
    if data.factory is None:
        return FileReader(Source.reading(data), transform)
    if not factories.has_run(data):
        return None
    return DatasetReader(models.made_dataset(data), transform.channels, in_unit=True)
