"""What is left of a run for one process to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpulime.runs.progress.partition import Share
from gpulime.runs.reading.sources import Item
from gpulime.runs.store.store import Done


@dataclass(frozen=True)
class Todo:
    """What is left of a run, and what is not.

    Attributes
    ----------
    items : to be done now
    done : images of the run that have a row, whoever's they are
    own : how many images of the run are this process's, done or not
    again : how many of ``items`` have failed before
    suspects : how many of ``items``, at their end, were being explained when a process lost its device
    """

    items: Sequence[Item]
    done: Sequence[Item]
    own: int
    again: int
    suspects: int = 0

    @property
    def passes(self) -> list[Sequence[Item]]:
        """What is explained together: one that may cost the device costs it by itself, when all others have their rows."""
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
        """What of ``items`` a process does: those of its share without a row, and on demand those whose row is an error.

        Not those that cost the device each time: where a launcher starts the same call again they would do so for ever.
        """
        own = [item for item in items if share.owns(item.image_id)]
        new = [item for item in own if item.image_id not in done]
        failed = [item for item in own if retry_failed and item.image_id in done and done[item.image_id].may_be_tried_again]
        failed.sort(key=lambda item: done[item.image_id].attempt)  # a run that ends early gets to all of them in the end
        again = [dataclasses.replace(item, attempt=done[item.image_id].attempt + 1) for item in failed]
        place = {image_id: i for i, image_id in enumerate(suspects)}
        left = sorted([*new, *again], key=lambda item: place.get(item.image_id, -1))
        count = sum(item.image_id in place for item in left)
        return cls(left, [item for item in items if item.image_id in done], len(own), len(again), count)
