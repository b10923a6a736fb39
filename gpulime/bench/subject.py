"""Subject of a measurement: the model, images and settings of `gpulime explain`, or random images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from gpulime import config as configs
from gpulime import device as devices
from gpulime.config import Config, DataConfig
from gpulime.engine import ownership
from gpulime.engine.model import Model
from gpulime.errors import GpulimeError, check, whole
from gpulime.labels import of_run
from gpulime.runs import from_config, sampling
from gpulime.runs.reading import models
from gpulime.runs.reading.read import Read
from gpulime.runs.reading.sources import Item

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
    """A model in eval mode on its device, images, and the settings of their explanation.

    ``lime`` are arguments of `gpulime.Explainer`, ``images`` the number of the whole set, if known, ``about`` describes model
    and images, and ``read`` counts the images taken so far. Pixels are uint8, or floats in [0, 1].
    """

    model: Model
    items: Sequence[Item]
    reader: Callable[[Item], Read]
    lime: dict[str, Any]
    data: DataConfig = field(default_factory=DataConfig)
    images: int | None = None
    about: dict[str, str] = field(default_factory=dict)
    read: int = 0

    @property
    def n_samples(self) -> int:
        """Samples per image, s."""
        return int(self.lime["n_samples"])

    def next_items(self, n: int) -> list[Item]:
        """Take the next n images; the last is followed by the first, since an image read twice comes from memory."""
        chosen = [self.items[i % len(self.items)] for i in range(self.read, self.read + n)]
        self.read += n
        return chosen


def of_config(config: Config, images: str | None = None) -> Subject:
    """Make the subject of a configuration; with ``images`` "random", noise of the model's input size replaces its source.

    Raises
    ------
    GpulimeError
        If a setting, the model or the source is invalid.
    """
    check(images in (None, RANDOM), f"--images must be {RANDOM!r}, or left out to read data.source; got {images!r}")
    config = configs.resolved(config)
    check(config.kind == "image", "gpulime bench measures images; got a source of texts or a table")
    loaded = models.load(config.model, config.data, config.lime)
    device = devices.named(config.lime.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    lime = {**dataclasses.asdict(config.lime), "mean": loaded.transform.mean, "std": loaded.transform.std, "device": device}
    lime["n_samples"] = sampling.chosen(config.lime).expected  # as many for each image, so that pieces compare
    # The same number of labels as in a run: their choice does not change the time, and random images have no target.
    wanted, most = of_run(lime.pop("labels"), loaded.class_names), config.lime.top_labels
    counts = {"top": most, "target": 1, "top+target": most + 1}
    lime["top_labels"] = counts[wanted] if isinstance(wanted, str) else len(wanted)
    lime["compile"] = lime["compile"] if lime["compile"] != "auto" else False  # "auto" depends on the length of a run
    model = ownership.own(loaded.model.eval(), device)
    if images == RANDOM:
        side = whole("data.crop or data.resize", loaded.transform.crop or loaded.transform.resize, 1)
        shape = (loaded.transform.channels or 3, side, side)
        about = {"model": loaded.description, "images": "random pixels, {} x {} x {}".format(*shape)}
        items = [Item(str(i), str(i).encode()) for i in range(RANDOM_IMAGES)]
        return Subject(model, items, RandomReader(shape), lime, config.data, None, about)
    try:
        found, reader = from_config.images(config.data, loaded.transform, loaded.class_names)
    except GpulimeError as error:
        raise GpulimeError(f"{error} (--images {RANDOM} measures without any)") from error
    about = {"model": loaded.description, "images": f"{len(found.items):,} of {config.data.factory or config.data.source}"}
    return Subject(model, found.items, reader, lime, config.data, len(found.items), about)
