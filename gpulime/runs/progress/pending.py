"""The remaining work of one process."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpulime.runs.progress.partition import Share
from gpulime.runs.reading.sources import Item
from gpulime.runs.store.store import Done


@dataclass(frozen=True)
class Todo:
    """Remaining and finished images of a run.

    Attributes
    ----------
    items : to be explained now
    done : images of the run that have a row, of any process
    own : number of images of this process, finished or not
    again : number of ``items`` that failed before
    suspects : number of ``items``, at their end, that were in flight when a process lost its device
    """

    items: Sequence[Item]
    done: Sequence[Item]
    own: int
    again: int
    suspects: int = 0

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
