"""The part of a run's images that one of several processes explains.

Work is assigned by hashing the image id, never by position, so each image has exactly one owner and a run can resume with a
different number of processes. Nothing is coordinated: an owner skips finished images.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import gpulime
from gpulime.errors import GpulimeError, check
from gpulime.runs.reading.sources import Item
from gpulime.runs.store.row_index import Done


@dataclass(frozen=True)
class Share:
    """One of ``shards`` parts, divided among ``world`` ranks; shard and rank count from 0."""

    shard: int = 0
    shards: int = 1
    rank: int = 0
    world: int = 1
    device: int | None = None  # index of the rank's GPU on its machine; None if there is one process

    @classmethod
    def of(cls, shard: str | None, environment: Mapping[str, str] = os.environ) -> Share:
        """Parse ``--shard``, such as "2/8", and torchrun's environment variables."""
        given = re.fullmatch(r"(\d+)/(\d+)", shard or "1/1")
        if given is None or not 1 <= int(given[1]) <= int(given[2]):
            raise GpulimeError(
                f"shard must be a part and the number of parts, such as '2/8' for the second of eight; got {shard!r}"
            )
        part = int(given[1]) - 1, int(given[2])
        if not {"RANK", "WORLD_SIZE"} <= environment.keys():
            return cls(*part)
        rank, world, device = (_number(environment, name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
        check(rank < world, f"RANK must be below WORLD_SIZE, as torchrun sets them; got {rank} and {world}")
        return cls(*part, rank, world, device)

    def owns(self, image_id: str) -> bool:
        """True if an image belongs to this share."""
        number = gpulime.key(image_id)
        return number % self.shards == self.shard and number // self.shards % self.world == self.rank

    @property
    def number(self) -> int:
        """A number for each process, unique among processes with the same number of shards."""
        return self.shard + self.shards * self.rank

    @property
    def is_all(self) -> bool:
        """True if one process does everything."""
        return self.shards == self.world == 1

    def __str__(self) -> str:
        parts = [f"shard {self.shard + 1} of {self.shards}"] if self.shards > 1 else []
        parts += [f"rank {self.rank} of {self.world}"] if self.world > 1 else []
        return ", ".join(parts) or "the whole run"


ALL = Share()


@dataclass(frozen=True)
class Todo:
    """Remaining and finished images of a run, for one process."""

    items: Sequence[Item]  # to be explained now
    done: Sequence[Item]  # images of the run that have a row, of any process
    own: int  # number of images of this process, finished or not
    again: int  # number of ``items`` that failed before
    suspects: int = 0  # number of ``items``, at their end, that were in flight when a process lost its device

    @property
    def passes(self) -> list[Sequence[Item]]:
        """Groups to explain together: images that may crash the device come last and alone."""
        last = len(self.items) - self.suspects
        return [self.items[:last], *([item] for item in self.items[last:])]

    @classmethod
    def of(
        cls,
        items: Sequence[Item],
        share: Share,
        done: Mapping[str, Done],
        retry_failed: bool,
        suspects: Sequence[str] = (),
    ) -> Todo:
        """Select ``items`` of this share without a row and, on demand, with an error row.

        Images that crash the device each time are skipped; a launcher that restarts the call would crash forever.
        """
        own = [item for item in items if share.owns(item.image_id)]
        new = [item for item in own if item.image_id not in done]
        failed = [item for item in own if retry_failed and item.image_id in done and done[item.image_id].may_be_tried_again]
        failed.sort(key=lambda item: done[item.image_id].attempt)  # so that repeated short runs reach all of them
        again = [dataclasses.replace(item, attempt=done[item.image_id].attempt + 1) for item in failed]
        place = {image_id: i for i, image_id in enumerate(suspects)}
        left = sorted([*new, *again], key=lambda item: place.get(item.image_id, -1))
        count = sum(item.image_id in place for item in left)
        return cls(left, [item for item in items if item.image_id in done], len(own), len(again), count)


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "0")
    check(text.isdecimal(), f"{name} must be a number, as torchrun sets it; got {text!r}")
    return int(text)
