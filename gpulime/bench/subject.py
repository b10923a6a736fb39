"""Subject of a measurement: the model, images and settings of `gpulime explain`, or random images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from gpulime import device as devices
from gpulime.bench.bare import channels_last
from gpulime.bench.stages import Staged, Stages
from gpulime.bench.way import Way
from gpulime.config import Config, DataConfig
from gpulime.engine.batch_size import BatchSize
from gpulime.engine.model import Model
from gpulime.errors import GpulimeError, check, whole
from gpulime.labels import of_run
from gpulime.runs.reading import models
from gpulime.runs.reading.images import find as find_images
from gpulime.runs.reading.read import Read
from gpulime.runs.reading.sources import Item
from gpulime.runs.reading.transform import Transform

RANDOM = "random"
RANDOM_IMAGES = 64  # different images; more would not change the times


@dataclass(frozen=True)
class RandomReader:
    """Makes random uint8 pixels instead of reading them; an item's path is its number."""

    shape: tuple[int, int, int]

    def __call__(self, item: Item) -> Read:
        """(c, h, w) noise, the same for the same item."""
        generator = torch.Generator().manual_seed(int(item.path))
        return Read(item, torch.randint(256, self.shape, dtype=torch.uint8, generator=generator), "")


@dataclass
class Subject:
    """A model, images, and the settings of their explanation.

    Attributes
    ----------
    model : Module or callable
        In eval mode, on its device.
    items, reader : the images, and the reader of one of them; pixels are uint8, or floats in [0, 1]
    lime : arguments of `gpulime.Explainer`
    data : DataConfig; only ``workers`` and ``batch_size`` are used
    images : int or None, number of images of the whole set
    about : descriptions of model and images
    """

    model: Model
    items: Sequence[Item]
    reader: Callable[[Item], Read]
    lime: dict[str, Any]
    data: DataConfig = field(default_factory=DataConfig)
    images: int | None = None
    about: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._channels_last: Model | None = None
        self._read = 0

    @property
    def n_samples(self) -> int:
        """Samples per image, s."""
        return int(self.lime["n_samples"])

    @property
    def way(self) -> Way:
        """The present settings."""
        compile = self.lime.get("compile", False)
        compile = compile if compile != "auto" else False  # "auto" depends on the length of a run
        return Way(self.lime["precision"], self.lime["batch_size"], self.data.workers, compile)

    def next_items(self, n: int) -> list[Item]:
        """Take the next n images; the last is followed by the first, since an image read twice comes from memory."""
        chosen = [self.items[i % len(self.items)] for i in range(self._read, self._read + n)]
        self._read += n
        return chosen

    @property
    def repeats(self) -> bool:
        """True if an image has been read twice."""
        return self._read > len(self.items)

    def explainer(self, way: Way, stages: Stages, **changed: Any) -> Staged:
        """Make an Explainer that runs the model in a given way."""
        here = {"precision": way.precision, "batch_size": way.batch_size, "compile": way.compile}
        explainer = Staged(stages, self._model(way), **{**self.lime, **here, **changed})
        explainer.batch_size = BatchSize(way.batch_size)
        return explainer

    def _model(self, way: Way) -> Model:
        """The model for a way; ways with channels_last share one copy."""
        if not way.channels_last:
            return self.model
        if self._channels_last is None:
            self._channels_last = channels_last(self.model)
        return self._channels_last

    def forget_models(self) -> None:
        """Free the copy made for variants."""
        self._channels_last = None


def of_config(config: Config, images: str | None = None) -> Subject:
    """Make the subject of a configuration.

    Parameters
    ----------
    config : Config
    images : str, optional
        "random": noise of the model's input size; ``data.source`` is then ignored.

    Raises
    ------
    GpulimeError
        If a setting, the model or the source is invalid.
    """
    check(images in (None, RANDOM), f"--images must be {RANDOM!r}, or left out to read data.source; got {images!r}")
    loaded = models.load(config.model, config.data, config.lime)
    device = devices.named(config.lime.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    lime = {**dataclasses.asdict(config.lime), "mean": loaded.transform.mean, "std": loaded.transform.std, "device": device}
    # The same number of labels as in a run: their choice does not change the time, and random images have no target.
    wanted, most = of_run(lime.pop("labels"), loaded.class_names), config.lime.top_labels
    counts = {"top": most, "target": 1, "top+target": most + 1}
    lime["top_labels"] = counts[wanted] if isinstance(wanted, str) else len(wanted)
    about = {"model": loaded.description}
    model = loaded.model.eval().to(device)
    if images == RANDOM:
        c, h, w = shape = _shape(loaded.transform)
        about["images"] = f"random pixels, {c} x {h} x {w}"
        items = [Item(str(i), str(i).encode()) for i in range(RANDOM_IMAGES)]
        return Subject(model, items, RandomReader(shape), lime, config.data, None, about)
    try:
        found = find_images(config.data, loaded.transform, loaded.class_names)
    except GpulimeError as error:
        raise GpulimeError(f"{error} (--images {RANDOM} measures without any)") from error
    about["images"] = f"{len(found.items):,} of {found.name}"
    return Subject(model, found.items, found.reader, lime, config.data, len(found.items), about)


def _shape(transform: Transform) -> tuple[int, int, int]:
    side = whole("data.crop or data.resize", transform.crop or transform.resize, 1)
    return transform.channels or 3, side, side
