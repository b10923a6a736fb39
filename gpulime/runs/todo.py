"""What is left of a run for one process to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpulime.runs.share import Share
from gpulime.runs.sources import Item
from gpulime.runs.store import Done


@dataclass(frozen=True)
class Todo:
    """What is left of a run, and what is not.

    Attributes
    ----------
    items : to be done now
    done : images of the run that have a row, whoever's they are
    own : how many images of the run are this process's, done or not
    again : how many of ``items`` have failed before
    """

    items: Sequence[Item]
    done: Sequence[Item]
    own: int
    again: int

    @classmethod
    def of(cls, items: Sequence[Item], share: Share, done: Mapping[str, Done], retry_failed: bool) -> Todo:
        """What of ``items`` a process does: those of its share without a row, and on demand those whose row is an error."""
        own = [item for item in items if share.owns(item.image_id)]
        new = [item for item in own if item.image_id not in done]
        failed = [item for item in own if retry_failed and item.image_id in done and not done[item.image_id].is_ok]
        failed.sort(key=lambda item: done[item.image_id].attempt)  # a run that ends early gets to all of them in the end
        again = [dataclasses.replace(item, attempt=done[item.image_id].attempt + 1) for item in failed]
        return cls([*new, *again], [item for item in items if item.image_id in done], len(own), len(again))
