"""Records of a run's source, a .csv, .parquet or .jsonl file: their ids, and the columns that are texts or a table."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from torch import Tensor

from gpulime.config import DataConfig
from gpulime.errors import GpulimeError, about, check, nearest
from gpulime.labels import padded
from gpulime.runs.reading.read import Read
from gpulime.runs.reading.sources import TARGET_COLUMNS, Found, Item, check_ids, target_of
from gpulime.runs.source import Group

BLOCK = 2**26  # bytes that Arrow parses at once; a record must fit into it
REPLACEMENT = "\ufffd"  # in place of bytes that are not UTF-8
ERROR = "unreadable"  # error_type of a record that cannot be read
ENDINGS = (".csv", ".parquet", ".jsonl")
BROKEN = "record {} cannot be read"  # its id if ids come from a column
MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"]  # values of a table in a .csv that are missing


@dataclass(frozen=True)
class Records:
    """The records of a file, in its order.

    Attributes
    ----------
    table : pyarrow.Table, the columns of the model's input
    places : dict, id -> row of ``table``
    broken : dict, id -> reason, of records that could not be read
    replaced : int, characters that are not UTF-8 and stand as U+FFFD
    """

    table: pa.Table
    places: dict[str, int]
    broken: dict[str, str]
    replaced: int = 0

    def record(self, image_id: str) -> dict[str, Any]:
        """The values of one record by column, as Python objects; None if there is none."""
        found: dict[str, Any] = self.table.slice(self.places[image_id], 1).to_pylist()[0]
        return found

    def rows(self, ids: Sequence[str] | None = None, framed: bool = False) -> Any:
        """Records of some ids, or all, as a DataFrame, or as an array (n, d) float64 with NaN for missing values.

        Raises
        ------
        GpulimeError
            If a column of an array is no number, or pandas is missing.
        """
        table = self.table if ids is None else self.table.take([self.places[image_id] for image_id in ids])
        if framed:
            return _frame(table)
        return np.stack([_numbers(table[name], name) for name in table.column_names], axis=1)

    @property
    def is_numeric(self) -> bool:
        """True if all columns are numbers."""
        types = (field.type for field in self.table.schema)
        return all(pa.types.is_integer(type_) or pa.types.is_floating(type_) for type_ in types)

    @property
    def lacking(self) -> set[str]:
        """Ids of records with a missing value."""
        columns = [pc.is_null(column, nan_is_null=True).to_numpy() for column in self.table.columns]
        lacking = np.logical_or.reduce(columns) if columns else np.zeros(0, bool)
        return {image_id for image_id, place in self.places.items() if lacking[place]}

    @property
    def digest(self) -> str:
        """SHA-256 of all values, column by column."""
        found = hashlib.sha256()
        for name in self.table.column_names:
            found.update(f"{name} {self.table[name].type}\n".encode())
            found.update(repr(self.table[name].to_pylist()).encode("utf-8", "surrogatepass"))
        return found.hexdigest()

    def sha256(self, image_id: str) -> str:
        """SHA-256 of the values of one record."""
        text = json.dumps(self.record(image_id), sort_keys=True, default=str, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Source:
    """A file as it was read.

    Attributes
    ----------
    table : pyarrow.Table, the records that could be read
    broken : dict, number of a record that could not be read, from 0 -> reason
    replaced : int, characters that are not UTF-8 and stand as U+FFFD
    """

    table: pa.Table
    broken: dict[int, str]
    replaced: int = 0

    @property
    def numbers(self) -> list[int]:
        """The numbers of the records of ``table``, from 0; those that could not be read have numbers, too."""
        return [i for i in range(len(self.table) + len(self.broken)) if i not in self.broken]


def find(data: DataConfig, class_names: Sequence[str] | None) -> tuple[Found, Records]:
    """The first ``data.limit`` records of ``data.source``, and all of its records.

    ``data.text`` names the column of texts, or ``data.columns`` those of a table. Ids come from the column ``data.id``, else
    they are the numbers of the records, from 0.

    Raises
    ------
    GpulimeError
        If the file cannot be read, is empty, lacks a column, or has an id twice.
    """
    with about(f"data.source {data.source!r}"):
        source = read(data.source, data)
        whole, names, numbers = source.table, source.table.column_names, source.numbers
        ids = list(map(str, numbers)) if data.id is None else _ids(_column(whole, data.id, "data.id"))
        of_target = _target_column(data, names)
        targets: list[Any] = [None] * len(whole) if of_target is None else whole[of_target].to_pylist()
        items = []
        for number, image_id, value in zip(numbers, ids, targets, strict=True):
            with about(f"record {number}"):
                items.append(Item(image_id, b"", _target(value, class_names, needed=data.target is not None)))
        broken = {(str(number) if data.id is None else BROKEN.format(number)): why for number, why in source.broken.items()}
        items += [Item(image_id, b"") for image_id in broken]
        check(bool(items), "holds no records")
        check_ids(items, "ids of records")
        chosen = [data.text] if data.text is not None else input_columns(data, names, of_target)
        for name in chosen:
            _column(whole, name, "data.text" if data.text is not None else "data.columns")
    places = {image_id: i for i, image_id in enumerate(ids)}
    found = Records(whole.select(chosen), places, broken, source.replaced)
    return Found(items[: data.limit], len(items), {}, {}), found


def training(data: DataConfig, records: Records) -> Records:
    """The rows of ``data.training``, in the columns of ``records``; ``records`` itself if it is not set."""
    if data.training is None:
        return records
    with about(f"data.training {data.training!r}"):
        whole = read(data.training, data).table
        for name in records.table.column_names:
            _column(whole, name, "data.columns")
        check(len(whole) > 0, "holds no records")
        return Records(whole.select(records.table.column_names), {str(i): i for i in range(len(whole))}, {})


def classes(item: Item, labels: str | Sequence[int]) -> list[int]:
    """The classes of the target of a record; raises `GpulimeError` if it has none, and ``labels`` is "target"."""
    check(item.target is not None or labels != "target", "has no target, and labels is 'target'")
    return [] if item.target is None else [item.target]


def aimed(reads: Sequence[Read], labels: str | Sequence[int]) -> tuple[Tensor | None, bool]:
    """Labels (n, l) of records, and True if the classes with the highest output are explained, too."""
    wanted = [read.classes if isinstance(labels, str) else labels for read in reads]
    return None if labels == "top" else padded(wanted), labels in ("top", "top+target")


def grouped(reads: Iterable[Read], batch: Callable[[Sequence[Read]], Any]) -> Iterator[Group]:
    """Neighbouring records that could be read, with their batch; and those that could not, with None."""
    for sound, group in itertools.groupby(reads, lambda read: read.error is None):
        some = list(group)
        yield some, batch(some) if sound else None


def input_columns(data: DataConfig, names: Sequence[str], of_target: str | None) -> list[str]:
    """The columns of the model's input: ``data.columns``, or all but those of ids and targets."""
    if isinstance(data.columns, list):
        return data.columns
    aside = {data.id, of_target}
    return [name for name in names if name not in aside]


def read(source: str, data: DataConfig) -> Source:
    """Read a .csv, .parquet or .jsonl file.

    In a .csv, ids, texts and the columns of ``data.strings`` are strings; other columns are numbers if all of their values are.

    Raises
    ------
    GpulimeError
        If there is no such file, or it is damaged.
    """
    path = os.path.expanduser(source)
    ending = os.path.splitext(path)[1].lower()
    check(ending in ENDINGS, f"must be one of {', '.join(ENDINGS)} for texts and tables")
    check(os.path.isfile(path), "there is no such file")
    try:
        if ending == ".parquet":
            return Source(pyarrow.parquet.read_table(path), {})
        with open(path, "rb") as file:
            content = file.read()
        text = content.decode("utf-8-sig", "replace")
        replaced = text.count(REPLACEMENT) - content.count(REPLACEMENT.encode())
        return replace((_csv if ending == ".csv" else _jsonl)(text, data), replaced=replaced)
    except (pa.ArrowException, OSError) as error:
        raise GpulimeError(f"cannot be read: {' '.join(str(error).split())}") from error


def _csv(text: str, data: DataConfig) -> Source:
    broken: dict[int, str] = {}

    def skip(record: Any) -> str:  # its number counts the header, too, and begins with 1
        why = f"must have {record.expected_columns} values, has {record.actual_columns}: {record.text:.80}"
        broken[record.number - 2] = why
        return "skip"

    parse = pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip)
    # One thread, since records have no numbers otherwise.
    options = pyarrow.csv.ReadOptions(use_threads=False, block_size=BLOCK)
    strings = [name for name in (data.id, data.text, *data.strings) if name is not None]
    convert = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(strings, pa.string()),
        null_values=MISSING if data.text is None else [""],  # a text may be "null"
        strings_can_be_null=True,
    )
    table = pyarrow.csv.read_csv(pa.BufferReader(text.encode()), options, parse, convert)
    header = table.column_names
    separated = len(header) != 1 or not {*";\t|"} & {*header[0]}
    check(separated, f"its values must be separated by commas; its header is {header[0] if header else ''!r:.80}")
    return Source(table, broken)


def _jsonl(text: str, data: DataConfig) -> Source:
    is_array = text.lstrip()[:1] == "[" and text.rstrip()[-1:] == "]"
    check(not is_array, 'each line must be one JSON object, such as {"text": "..."}; it holds an array')
    records: list[dict[str, Any]] = []
    broken: dict[int, str] = {}
    for number, line in enumerate(line for line in text.split("\n") if line.strip()):
        try:
            record = json.loads(line)
            check(isinstance(record, dict), "must be an object {...}")
            records.append(record)
        except (ValueError, RecursionError) as error:
            broken[number] = f"must be a line of JSON: {error}: {line:.80}"
    names = dict.fromkeys(name for record in records for name in record)
    return Source(pa.table({name: _array([record.get(name) for record in records]) for name in names}), broken)


def _array(values: list[Any]) -> pa.Array:
    """Values of one column; as strings if their types differ."""
    try:
        return pa.array(values)
    except pa.ArrowException:
        return pa.array([None if value is None else value if isinstance(value, str) else json.dumps(value) for value in values])


def _numbers(column: pa.ChunkedArray, name: str) -> np.ndarray[Any, np.dtype[Any]]:
    """A column (n,) as float64, NaN for missing values."""
    try:
        return np.asarray(pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False))
    except pa.ArrowException as error:
        raise GpulimeError(f"the column {name!r} must be numbers: {' '.join(str(error).split())}") from error


def _frame(table: pa.Table) -> Any:
    try:
        import pandas  # noqa: F401
    except ModuleNotFoundError as error:
        raise GpulimeError("columns of text, and a model of DataFrames, need pandas: pip install pandas") from error
    return table.to_pandas()


def _column(table: pa.Table, name: str, setting: str) -> pa.ChunkedArray:
    names = table.column_names
    check(names.count(name) < 2, f"{setting} must name one column; {names.count(name)} are called {name!r}")
    check(name in names, f"{setting} names no column: {name!r}{nearest(name, names)}; its columns are {', '.join(names)}")
    return table[name]


def _ids(column: pa.ChunkedArray) -> list[str]:
    missing = column.null_count
    check(missing == 0, f"data.id must give every record an id; {missing} of {len(column)} have none")
    return [str(value) for value in column.to_pylist()]


def _target_column(data: DataConfig, names: Sequence[str]) -> str | None:
    """The column of the true class: ``data.target``, else one with a usual name that is no input."""
    if data.target is not None:
        check(data.target in names, f"data.target names no column: {data.target!r}{nearest(data.target, names)}")
        return data.target
    inputs = {data.text, *(data.columns if isinstance(data.columns, list) else ())}
    return next((name for name in names if name.lower() in TARGET_COLUMNS and name not in inputs), None)


def _target(value: Any, class_names: Sequence[str] | None, needed: bool) -> int | None:
    """The class of a value: an index, or one of the names.

    None for anything else if names are not known, as of a regression, or if the column was not asked for.
    """
    if value is None:
        return None
    try:
        return target_of(str(value), class_names)
    except GpulimeError:
        if needed and class_names is not None:
            raise
        return None
