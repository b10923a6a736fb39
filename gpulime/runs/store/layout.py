"""Layout of shards: their folder in a run and their columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

VERSION_KEY = b"gpulime.schema_version"  # in the metadata of every shard


@dataclass(frozen=True)
class Layout:
    """One kind of shards.

    Attributes
    ----------
    folder : str, in the run
    schema : pyarrow.Schema, the columns; its metadata state the version
    record : callable, one entry as it is appended -> the batch of its rows, which are written together
    remedy : str, the call that makes the rows of a corrupt shard again
    added : columns that shards of earlier versions lack, and the version that added each
    """

    folder: str
    schema: pa.Schema
    record: Callable[[Mapping[str, Any]], pa.RecordBatch]
    remedy: str
    added: Mapping[str, int] = field(default_factory=dict)

    @property
    def version(self) -> int:
        """The version of the schema."""
        return int(self.schema.metadata[VERSION_KEY])
