"""The part of a run's images that one process explains, where several share a run.

A share is told by the ids alone, never by places in a list, so that no image has two owners and none has no owner, however many
processes there were before. Nothing is coordinated: what an owner finds done it leaves alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

import gpulime
from gpulime.errors import GpulimeError, check


@dataclass(frozen=True)
class Share:
    """One of ``shards`` parts, and of that the part of one of ``world`` ranks; shard and rank count from 0.

    Attributes
    ----------
    device : int or None
        The number of the rank's own GPU on its machine; None where there is one process.
    """

    shard: int = 0
    shards: int = 1
    rank: int = 0
    world: int = 1
    device: int | None = None

    @classmethod
    def of(cls, shard: str | None, environment: Mapping[str, str] = os.environ) -> Share:
        """From what ``--shard`` says, such as "2/8", and what torchrun tells its ranks.

        Raises
        ------
        GpulimeError
            Where a part is not one of the parts that there are.
        """
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
        """Whether an image is in it."""
        number = gpulime.key(image_id)
        return number % self.shards == self.shard and number // self.shards % self.world == self.rank

    @property
    def number(self) -> int:
        """Another one for each process, where all divide the run into as many shards."""
        return self.shard + self.shards * self.rank

    @property
    def is_all(self) -> bool:
        """Whether there is one process for everything."""
        return self.shards == self.world == 1

    def __str__(self) -> str:
        parts = [f"shard {self.shard + 1} of {self.shards}"] if self.shards > 1 else []
        parts += [f"rank {self.rank} of {self.world}"] if self.world > 1 else []
        return ", ".join(parts) or "all images"


ALL = Share()


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "0")
    check(text.isdecimal(), f"{name} must be a number, as torchrun sets it; got {text!r}")
    return int(text)
