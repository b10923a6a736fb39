"""The images of a run: which they are, in a fixed order with an id each, and how each is read."""

from __future__ import annotations

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gpulime.config import DataConfig
from gpulime.errors import GpulimeError, about, check
from gpulime.runs.pictures import Decoded, decode
from gpulime.runs.pixels import DecodeError

# torchvision's ImageFolder reads these, and numpy's arrays come on top.
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".npy")
PATH_COLUMNS = ("path", "file", "filename")
TARGET_COLUMNS = ("target", "class_index", "label")
SKIMAGE = "skimage"
__all__ = ["DecodeError", "Decoded", "Item", "Source", "find"]
PHOTOGRAPHS = ("chelsea", "coffee", "astronaut", "rocket")
SHOWN_IDS = 5


@dataclass(frozen=True)
class Item:
    """One image of a run.

    Parameters
    ----------
    image_id : str
        Its path relative to the source, with '/'; bytes that are not UTF-8 are backslash-escaped.
    path : bytes
        Where it lies; empty for a photograph of scikit-image.
    target : int or None
        Index of its true class, where it is known.
    attempt : int
        1, and one more each time that it is tried again after it has failed.
    """

    image_id: str
    path: bytes
    target: int | None = None
    attempt: int = 1


@dataclass(frozen=True)
class Source:
    """The images found, and how to read them.

    Parameters
    ----------
    items : list of Item
        In an order that is the same every time.
    ignored : dict of str to int
        Endings of other files that lie among the images, and how many have each.
    max_megapixels, max_megabytes, exif
        As in `DataConfig`.
    images : int
        How many there are, those beyond the limit too.
    """

    items: list[Item]
    ignored: dict[str, int] = field(default_factory=dict)
    max_megapixels: float = DataConfig.max_megapixels
    max_megabytes: float = DataConfig.max_megabytes
    exif: str = DataConfig.exif
    images: int = 0

    @classmethod
    def reading(cls, config: DataConfig, items: Sequence[Item] = (), ignored: Mapping[str, int] | None = None) -> Source:
        """The first ``config.limit`` of ``items``, and the limits that ``config`` sets to reading."""
        return cls(
            items=list(items[: config.limit]),
            ignored=dict(ignored or {}),
            max_megapixels=config.max_megapixels,
            max_megabytes=config.max_megabytes,
            exif=config.exif,
            images=len(items),
        )

    def load(self, item: Item) -> Decoded:
        """Read one image; raises `DecodeError`, whose ``kind`` is 'decode' or 'too_large'."""
        if item.path:
            return decode(item.path, max_megapixels=self.max_megapixels, max_megabytes=self.max_megabytes, exif=self.exif)
        if item.image_id not in PHOTOGRAPHS:  # the id of a row that came from elsewhere
            raise DecodeError(f"is none of scikit-image's photographs {', '.join(PHOTOGRAPHS)}")
        import skimage.data

        array = getattr(skimage.data, item.image_id)()
        return Decoded(array, hashlib.sha256(array.tobytes()).hexdigest())


def find(config: DataConfig, class_names: Sequence[str] | None = None) -> Source:
    """The images that ``config.source`` names, the first ``config.limit`` of them.

    Parameters
    ----------
    config : DataConfig
        ``source`` is a folder (its images, and those of its subfolders, one a class as for torchvision's ImageFolder), a
        .txt file with a path a line, a .csv file with a column of `PATH_COLUMNS` and perhaps one of `TARGET_COLUMNS`,
        one image, or 'skimage'. Paths in a list are relative to the list's own folder.
    class_names : sequence of str or None
        Names of the model's classes. Where each folder bears one of them its images get that class as target; else the
        folder's place among the sorted folders, where there are as many as classes; else none. In a list a target may be
        such a name.

    Raises
    ------
    GpulimeError
        Where there is no such source or no image in it, and where two images have the same id.
    """
    ignored: Counter[str] = Counter()
    with about(f"data.source {config.source!r}"):
        try:
            items = list(_items(config.source, class_names, ignored))
        except (OSError, csv.Error) as error:
            raise GpulimeError(f"cannot be read: {error}") from error
        others = ", ".join(f"{ending or 'no ending'} ({count})" for ending, count in ignored.items())
        check(bool(items), f"holds no image ({', '.join(ENDINGS)})" + (f"; other files there: {others}" if others else ""))
        check_ids(items)
    return Source.reading(config, items, ignored)


def _items(source: str, class_names: Sequence[str] | None, ignored: Counter[str]) -> Iterator[Item]:
    path = os.path.expanduser(source)
    ending = os.path.splitext(path)[1].lower()
    if source == SKIMAGE:
        return (Item(name, b"") for name in PHOTOGRAPHS)
    if os.path.isdir(path):
        return _in_folder(path, class_names, ignored)
    check(os.path.exists(path), "there is no such folder or file")
    if ending == ".txt":
        return _in_text(path)
    if ending == ".csv":
        return _in_csv(path, class_names)
    check(ending in ENDINGS, f"must be a folder, a .txt or .csv list, an image ({', '.join(ENDINGS)}) or {SKIMAGE!r}")
    return iter([Item(_image_id(os.path.basename(path)), os.fsencode(path))])


def _in_folder(folder: str, class_names: Sequence[str] | None, ignored: Counter[str]) -> Iterator[Item]:
    """The images that lie in the folder itself, then those of each of its subfolders, at any depth."""
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    folders = {entry.name for entry in entries if _is_folder(entry)}
    classes = sorted(folders)
    named = _numbering(classes, class_names)
    files: list[tuple[str, int | None]] = [(entry.name, None) for entry in entries if entry.name not in folders]
    files += [
        (os.path.relpath(os.path.join(inside, name), folder), _index(label, named))
        for label in classes
        for inside, _, names in sorted(os.walk(os.path.join(folder, label), followlinks=True))
        for name in sorted(names)
    ]
    for name, target in files:
        ending = os.path.splitext(name)[1].lower()
        if ending in ENDINGS:
            yield Item(_image_id(name), os.fsencode(os.path.join(folder, name)), target)
        else:
            ignored[ending] += 1


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads back to itself: an image with an error
        return False


def _numbering(folders: Sequence[str], class_names: Sequence[str] | None) -> Sequence[str]:
    """The names by whose places folders are numbered; none where a place would be a wrong target."""
    if class_names is None:
        return folders
    if set(folders) <= set(class_names):
        return class_names
    return folders if len(folders) == len(class_names) else ()


def _in_text(file: str) -> Iterator[Item]:
    with open(file, "rb") as lines:  # bytes, because a file's name need not be text
        for line in lines.read().removeprefix(b"\xef\xbb\xbf").splitlines():
            if line.strip():
                yield _listed(os.fsdecode(line), file)


def _in_csv(file: str, class_names: Sequence[str] | None) -> Iterator[Item]:
    with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        rows = csv.DictReader(lines)
        columns = {str(name).strip().lower(): name for name in rows.fieldnames or []}
        of_path = next((columns[name] for name in PATH_COLUMNS if name in columns), None)
        of_target = next((columns[name] for name in TARGET_COLUMNS if name in columns), None)
        if of_path is None:
            raise GpulimeError(f"must have a column {' or '.join(PATH_COLUMNS)}; its columns are {', '.join(columns)}")
        for row in rows:
            with about(f"line {rows.line_num}"):
                check(bool(row[of_path]), f"{of_path} is empty")
                target = row[of_target] if of_target is not None else None
                yield _listed(row[of_path], file, _target(target, class_names) if target else None)


def _listed(name: str, list_file: str, target: int | None = None) -> Item:
    path = os.path.join(os.path.dirname(list_file), name)
    return Item(_image_id(os.path.normpath(name)), os.fsencode(path), target)


def _target(text: str, class_names: Sequence[str] | None) -> int | None:
    if class_names is not None and text in class_names:
        return _index(text, class_names)
    least, most = 0, (len(class_names) if class_names is not None else 2**31) - 1
    valid = text.strip().isdecimal() and least <= int(text) <= most
    check(valid, f"the target must be an index in {least}..{most} or one of the model's class names; got {text!r}")
    return int(text)


def _index(name: str, names: Sequence[str]) -> int | None:
    """The place of ``name``; None where two classes bear it."""
    return names.index(name) if names.count(name) == 1 else None


def _image_id(path: str) -> str:
    return os.fsencode(path.replace(os.sep, "/")).decode("utf-8", "backslashreplace")


def check_ids(items: Sequence[Item]) -> None:
    counts = Counter(item.image_id for item in items)
    twice = [image_id for image_id, count in counts.items() if count > 1]
    shown = ", ".join(repr(image_id) for image_id in twice[:SHOWN_IDS]) + (" ..." if len(twice) > SHOWN_IDS else "")
    check(not twice, f"image ids must be unique; {len(twice)} repeated: {shown}")
