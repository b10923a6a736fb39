"""The code of settings that this user has run: the calls of ``data.factory``, and models.

`gpulime report` makes a run's images again only by such a call, and `gpulime evaluate` its model.

They are stored in ``$XDG_CACHE_HOME/gpulime/factories.json``, by default in ``~/.cache/gpulime``; the file may be deleted
at any time. The environment variable ``GPULIME_CACHE`` names another folder; ``off`` stores nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import secrets
from pathlib import Path

from gpulime.config import DataConfig, ModelConfig

VARIABLE = "GPULIME_CACHE"
MOST = 1000  # calls; the oldest go first


def path() -> Path | None:
    """The file; None if nothing is kept."""
    chosen = os.environ.get(VARIABLE)
    if chosen == "off":
        return None
    if chosen:
        return Path(chosen) / "factories.json"
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # a user without a home
        return None
    return home / "gpulime" / "factories.json"


def has_run(given: DataConfig | ModelConfig) -> bool:
    """Tell if this user has run this call in the current folder."""
    return _name(given) in _names()


def keep(given: DataConfig | ModelConfig) -> None:
    """Store a call; do nothing if the file cannot be written."""
    file = path()
    if file is None:
        return
    names = {**dict.fromkeys(name for name in _names() if name != _name(given)), _name(given): None}  # it is the newest now
    text = json.dumps(dict.fromkeys(list(names)[-MOST:], 1), indent=1)
    aside = file.with_name(f"{file.name}.{secrets.token_hex(4)}")
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            aside.write_text(text, encoding="utf-8")
            os.replace(aside, file)  # readers see the old file or the new one
        finally:
            aside.unlink(missing_ok=True)


def _names() -> list[str]:
    """The calls by name, the oldest first."""
    file = path()
    try:
        found = {} if file is None else json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or broken
        return []
    return list(found) if isinstance(found, dict) else []


def _name(given: DataConfig | ModelConfig) -> str:
    """A digest of the call and of the current folder, from which Python imports the factory."""
    call = [given.factory, given.kwargs] if isinstance(given, DataConfig) else ["model", dataclasses.asdict(given)]
    text = json.dumps([os.getcwd(), *call], sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()
