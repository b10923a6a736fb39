"""Cache of batch sizes between processes: a small JSON file that may be lost or damaged at any time.

A second file of the same form lists each ``data.factory`` that this user has run. Both lie in ``$XDG_CACHE_HOME/gpulime``, by
default ``~/.cache/gpulime``. The environment variable ``GPULIME_CACHE`` names another folder; ``off`` keeps nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from pathlib import Path

VARIABLE = "GPULIME_CACHE"
MOST = 1000  # entries; the oldest go first
BATCH_SIZES, FACTORIES = "batch_sizes.json", "factories.json"


def path(name: str = BATCH_SIZES) -> Path | None:
    """The file of that name; None if the cache is off."""
    chosen = os.environ.get(VARIABLE)
    if chosen == "off":
        return None
    if chosen:
        return Path(chosen) / name
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without a home
        return None
    return home / "gpulime" / name


def entries(kept_in: str = BATCH_SIZES) -> dict[str, int]:
    """Measured batch sizes by key, the oldest first."""
    file = path(kept_in)
    try:
        found = {} if file is None else json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or broken
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: b for name, b in found.items() if type(b) is int and b > 0}


def keep(name: str, b: int, kept_in: str = BATCH_SIZES) -> None:
    """Add an entry; if it cannot be written, it will be measured again."""
    file = path(kept_in)
    if file is None:
        return
    kept = entries(kept_in)
    kept.pop(name, None)  # it is the newest now
    kept[name] = b
    text = json.dumps(dict(list(kept.items())[-MOST:]), indent=1)
    aside = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            aside.write_text(text, encoding="utf-8")
            os.replace(aside, file)  # readers see the old file or the new one
        finally:
            aside.unlink(missing_ok=True)


def clear() -> int:
    """Delete all entries and return their number."""
    count, file = len(entries()), path()
    if file is not None:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            file.unlink()
    return count
