"""The part of a run's images that one of several processes explains.

Work is assigned by hashing the image id, never by position, so each image has exactly one owner and a run can resume with a
different number of processes. Nothing is coordinated: an owner skips finished images.
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
    """One of ``shards`` parts, divided among ``world`` ranks; shard and rank count from 0.

    Attributes
    ----------
    device : int or None
        The index of the rank's GPU on its machine; None if there is one process.
    """

    shard: int = 0
    shards: int = 1
    rank: int = 0
    world: int = 1
    device: int | None = None

    @classmethod
    def of(cls, shard: str | None, environment: Mapping[str, str] = os.environ) -> Share:
        """Parse ``--shard``, such as "2/8", and torchrun's environment variables.

        Raises
        ------
        GpulimeError
            If a shard or rank is out of range.
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
        return ", ".join(parts) or "all images"


ALL = Share()


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "0")
    check(text.isdecimal(), f"{name} must be a number, as torchrun sets it; got {text!r}")
    return int(text)
