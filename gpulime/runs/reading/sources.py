"""The images of a run, in a fixed order with an id each."""

from __future__ import annotations

import csv
import errno
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gpulime.config import DataConfig
from gpulime.errors import GpulimeError, about, check

# torchvision's ImageFolder reads all except the last two.
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif", ".npy")
PATH_COLUMNS = ("path", "file", "filename")
TARGET_COLUMNS = ("target", "class_index", "label")
SKIMAGE = "skimage"
PHOTOGRAPHS = ("chelsea", "coffee", "astronaut", "rocket")
RUN_JSON = "run.json"
RUN_FOLDERS = ("results", "evaluation", "_staging", "heartbeats")  # files and folders of a run directory
SHOWN_IDS = 5


@dataclass(frozen=True)
class Item:
    """One image of a run."""

    image_id: str  # its path relative to the source, with '/'; bytes that are not UTF-8 are backslash-escaped
    path: bytes  # its location; empty for a photograph of scikit-image
    target: int | None = None  # index of its true class, if known
    attempt: int = 1  # plus 1 for each retry


@dataclass(frozen=True)
class Found:
    """The images of a source in a reproducible order, up to the limit."""

    items: list[Item]
    count: int  # including images beyond the limit
    targets: dict[str, int]  # the class folders, and the target of the images in each
    ignored: dict[str, int]  # extensions of other files among the images, with their counts


def find(config: DataConfig, class_names: Sequence[str] | None = None) -> Found:
    """The first ``config.limit`` images of ``config.source``.

    It is a folder (its images, and those of its subfolders, one a class as for torchvision's ImageFolder), a .txt file with a
    path a line, a .csv file with a column of `PATH_COLUMNS` and perhaps one of `TARGET_COLUMNS`, one image, or 'skimage'. Paths
    in a list are relative to the list's own folder.

    If each folder has one of the model's ``class_names``, its images get that class as target; else, if there are as many
    folders as classes, the folder's position in sorted order; else none. In a list a target may be such a name.

    Raises
    ------
    GpulimeError
        If there is no such source or no image in it, or if two images have the same id.
    """
    ignored: Counter[str] = Counter()
    targets: dict[str, int] = {}
    with about(f"data.source {config.source!r}"):
        try:
            items = list(_items(config.source, class_names, ignored, targets))
        except (OSError, csv.Error) as error:
            raise GpulimeError(f"cannot be read: {error}") from error
        others = ", ".join(f"{ending or 'no ending'} ({count})" for ending, count in ignored.items())
        check(bool(items), f"holds no image ({', '.join(ENDINGS)})" + (f"; other files there: {others}" if others else ""))
        check_ids(items)
    return Found(items[: config.limit], len(items), targets, ignored)


def _items(source: str, class_names: Sequence[str] | None, ignored: Counter[str], targets: dict[str, int]) -> Iterator[Item]:
    path = os.path.expanduser(source)
    ending = _ending(path)
    if source == SKIMAGE:
        return (Item(name, b"") for name in PHOTOGRAPHS)
    if os.path.isdir(path):
        return _in_folder(path, class_names, ignored, targets)
    check(os.path.exists(path), "there is no such folder or file")
    check(os.path.isfile(path), "is not a folder or a regular file")
    if ending == ".txt":
        return _in_text(path)
    if ending == ".csv":
        return _in_csv(path, class_names)
    check(ending in ENDINGS, f"must be a folder, a .txt or .csv list, an image ({', '.join(ENDINGS)}) or {SKIMAGE!r}")
    return iter([Item(_image_id(os.path.basename(path)), os.fsencode(path))])


def files_in(folder: str) -> Iterator[Item]:
    """The images in a folder and its subfolders, in a reproducible order."""
    return _in_folder(os.path.expanduser(folder), None, Counter(), {})


def _in_folder(
    folder: str, class_names: Sequence[str] | None, ignored: Counter[str], targets: dict[str, int]
) -> Iterator[Item]:
    """The images in the folder, then those of each of its subfolders, at any depth."""
    names, folders = _listing(folder)
    contents = {label: sorted(_walk(os.path.join(folder, label), folder)) for label in folders}
    classes = [label for label, found in contents.items() if not _holds_runs_alone(found)]
    named = _numbering(classes, class_names)
    targets |= {label: index for label in classes if (index := _index(label, named)) is not None}
    files: list[tuple[str, int | None]] = [(name, None) for name in names]
    files += [
        (os.path.relpath(os.path.join(inside, name), folder), targets.get(label))
        for label in classes
        for inside, names in contents[label]
        for name in names or ()
    ]
    for name, target in files:
        ending = _ending(name)
        if ending in ENDINGS:
            yield Item(_image_id(name), os.fsencode(os.path.join(folder, name)), target)
        else:
            ignored[ending] += 1


def _walk(folder: str, source: str) -> Iterator[tuple[str, list[str] | None]]:
    """A folder and its subfolders with the names of their files, None for a run's directory; links are followed.

    Each is entered once. Links come last, so that a folder is found by its own name.
    """
    seen, waiting = {_identity(source)}, deque([folder])
    while waiting:
        inside = waiting.popleft()
        if (identity := _identity(inside)) in seen:
            continue
        seen.add(identity)
        if _is_run(inside):
            yield inside, None
            continue
        names, folders = _listing(inside)
        for path in (os.path.join(inside, name) for name in folders):
            (waiting.append if os.path.islink(path) else waiting.appendleft)(path)
        yield inside, names


def _listing(folder: str) -> tuple[list[str], list[str]]:
    """Names of the files and of the folders in a folder, sorted, without those of a run in the folder itself."""
    with os.scandir(folder) as entries:
        found = {entry.name: _is_folder(entry) for entry in entries}
    own = (RUN_JSON, *RUN_FOLDERS) if _is_run(folder) else ()
    names = sorted(name for name in found if name not in own)
    return [name for name in names if not found[name]], [name for name in names if found[name]]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # a link to itself, or to a folder without access
        if error.errno == errno.ELOOP or _ending(entry.name) in ENDINGS:  # an image with an error
            return False
        raise


def _identity(folder: str) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def _is_run(folder: str) -> bool:
    """True if a folder is a run directory, which must not become a class."""
    inside = [os.path.join(folder, name) for name in (RUN_JSON, *RUN_FOLDERS)]
    return os.path.isfile(inside[0]) and any(os.path.isdir(path) for path in inside[1:])


def _holds_runs_alone(found: Sequence[tuple[str, list[str] | None]]) -> bool:
    return any(names is None for _, names in found) and not any(names for _, names in found)


def _numbering(folders: Sequence[str], class_names: Sequence[str] | None) -> Sequence[str]:
    """The names whose positions number the folders; none if a position would be a wrong target."""
    if class_names is None:
        return folders
    if set(folders) <= set(class_names):
        return class_names
    return folders if len(folders) == len(class_names) else ()


def _in_text(file: str) -> Iterator[Item]:
    with open(file, "rb") as lines:  # bytes, since file names need not be text
        for line in lines.read().removeprefix(b"\xef\xbb\xbf").splitlines():
            if line.strip():
                yield _listed(os.fsdecode(line), file)


def _in_csv(file: str, class_names: Sequence[str] | None) -> Iterator[Item]:
    with open(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        rows = csv.DictReader(lines, strict=True)  # else an open quote joins all following lines to one file name
        columns = {str(name).strip().lower(): name for name in rows.fieldnames or []}
        of_path = next((columns[name] for name in PATH_COLUMNS if name in columns), None)
        of_target = next((columns[name] for name in TARGET_COLUMNS if name in columns), None)
        if of_path is None:
            raise GpulimeError(f"must have a column {' or '.join(PATH_COLUMNS)}; its columns are {', '.join(columns)}")
        for row in _strict(rows):
            with about(f"line {rows.line_num}"):
                check(bool(row[of_path]), f"{of_path} is empty")
                target = row[of_target] if of_target is not None else None
                yield _listed(row[of_path], file, target_of(target, class_names) if target else None)


def _strict(rows: csv.DictReader[str]) -> Iterator[dict[str, str]]:
    try:
        yield from rows
    except csv.Error as error:
        raise GpulimeError(f"line {rows.line_num + 1}: {error}: is a quote there that is not closed?") from error


def _listed(name: str, list_file: str, target: int | None = None) -> Item:
    path = os.path.join(os.path.dirname(list_file), name)
    return Item(_image_id(os.path.normpath(name)), os.fsencode(path), target)


def target_of(text: str, class_names: Sequence[str] | None) -> int | None:
    """Class of a target in a list, by its number or name; None if two classes have the name.

    Raises
    ------
    GpulimeError
        If there is no such class.
    """
    if class_names is not None and text in class_names:
        return _index(text, class_names)
    least, most = 0, (len(class_names) if class_names is not None else 2**31) - 1
    valid = text.strip().isdecimal() and least <= int(text) <= most
    check(valid, f"the target must be an index in {least}..{most} or one of the model's class names; got {text!r}")
    return int(text)


def _index(name: str, names: Sequence[str]) -> int | None:
    """The position of ``name``; None if two classes have it."""
    return names.index(name) if names.count(name) == 1 else None


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _image_id(path: str) -> str:
    return os.fsencode(path.replace(os.sep, "/")).decode("utf-8", "backslashreplace")


def check_ids(items: Sequence[Item], what: str = "image ids") -> None:
    """Raise `GpulimeError` if two items have the same id."""
    counts = Counter(item.image_id for item in items)
    twice = [image_id for image_id, count in counts.items() if count > 1]
    shown = ", ".join(repr(image_id) for image_id in twice[:SHOWN_IDS]) + (" ..." if len(twice) > SHOWN_IDS else "")
    check(not twice, f"{what} must be unique; {len(twice)} repeated: {shown}")
