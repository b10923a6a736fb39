"""The result of a measurement, as it is saved in JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from gpulime.bench.clock import Quantiles

FASTER, UNCLEAR, NOTHING, SLOWER, FAILED, NOT_TRIED = "faster", "unclear", "nothing", "slower", "failed", "not tried"


class PieceRow(NamedTuple):
    """A piece, its seconds, and the seconds of an image that follow; of the bare model, only its forwards."""

    images: float
    forwards: int
    seconds: float
    an_image: float


@dataclass(frozen=True)
class Outcome:
    """The outcome of a variant.

    Attributes
    ----------
    kind, name, action : as of `way.Variant`
    verdict : FASTER, UNCLEAR, NOTHING, SLOWER, FAILED or NOT_TRIED
    gain : speedup over the present settings, in back-to-back pieces
    error : the largest difference of a coefficient from the present settings', relative to the image's largest; of the most
        probable class
    top5 : share of the five strongest segments that both have
    reason : why there is no gain
    once : seconds of compiling, once per process
    """

    kind: str
    name: str
    action: str
    verdict: str
    gain: Quantiles | None = None
    error: float | None = None
    top5: float | None = None
    reason: str | None = None
    once: float | None = None


@dataclass(frozen=True)
class Result:
    """All numbers; times in seconds, memory in bytes.

    Attributes
    ----------
    subject, machine : of the measurement
    settings : those that matter here
    images_per_s, forwards_per_s : of a run with the present settings
    bare_forwards_per_s : of the model alone, in the layout ``bare``
    efficiency : the bare forwards' time over the run's, for the same forwards
    stages : seconds an image by stage, which add up to ``an_image``
    memory : the peak of the run; None if unknown
    batch_rates, best_batch : forwards per second of the model by rows of a batch; the smallest batch about as fast as any
    whole_images, whole_seconds : of the whole set; None for random images
    outcomes : of the variants
    notes : limits of these numbers
    pieces : all pieces by side
    """

    subject: dict[str, str]
    machine: dict[str, Any]
    settings: dict[str, Any]
    images_per_s: Quantiles
    forwards_per_s: Quantiles
    bare: str
    bare_forwards_per_s: Quantiles
    efficiency: Quantiles
    stages: dict[str, float]
    an_image: float
    memory: int | None
    batch_rates: dict[int, float]
    best_batch: int
    whole_images: int | None
    whole_seconds: Quantiles | None
    outcomes: list[Outcome]
    notes: list[str]
    pieces: dict[str, list[PieceRow]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The same as plain JSON; quantiles and pieces are objects with their names as keys."""
        plain: dict[str, Any] = _plain(dataclasses.asdict(self))
        return plain

    def write(self, file: Path) -> None:
        """Write it as JSON."""
        file.write_text(json.dumps(self.as_json(), indent=2) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, Quantiles | PieceRow):
        return value._asdict()
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
