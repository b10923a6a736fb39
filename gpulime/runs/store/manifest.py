"""The manifest ``run.json``: settings shared by all rows of a run. A directory holds rows of one manifest only."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from pprint import saferepr  # sorts dicts, whose order is no difference
from typing import Any

import gpulime
from gpulime.errors import GpulimeError, check
from gpulime.runs.progress import heartbeat
from gpulime.runs.store.atomic import publish
from gpulime.runs.store.row import SCHEMA_VERSION
from gpulime.runs.store.shards import rows, shards

MANIFEST = "run.json"
# The entries that readers use, and their types.
FACTS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("fixed", "config", "transform", "versions"), dict),
    **dict.fromkeys(("config_hash", "model"), (str, type(None))),
    "class_names": (list, type(None)),
}
TARGETS = "targets"  # of the class folders; a new folder shifts the targets of others
SHOWN = 8
VERSIONS = ("torch", "torchvision", "numpy", "scikit-image", "pyarrow", "pillow")


@dataclass(frozen=True)
class Terms:
    """The terms that all calls of a run must share."""

    fixed: Mapping[str, Any]  # all settings that change a row
    about: Mapping[str, Any]  # further entries of run.json: the model, the transform, the class names
    unnamed: Sequence[str] = ()  # functions among the settings without a name that identifies them

    @property
    def config_hash(self) -> str:
        """Sixteen hex digits over `fixed`."""
        text = json.dumps(self.fixed, sort_keys=True, default=repr)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def class_names(self) -> Sequence[str] | None:
        """Names of the model's classes, if known."""
        return self.about.get("class_names")

    def accept(self, run: Path) -> None:
        """Resume the run in a directory, or create one with these terms; raises as `fit`."""
        if not self.fit(run):
            about = {**self.about, "fixed": self.fixed, "config_hash": self.config_hash, "versions": versions()}
            write_manifest(run, _plain(about))

    def fit(self, run: Path) -> bool:
        """True if a directory holds a run of these terms; False if it holds none yet.

        A run.json with no rows and no live process, left by a refused call, does not block other terms.

        Raises
        ------
        GpulimeError
            If it holds a run of other terms, with the difference as far as it is known.
        """
        manifest, results = read_manifest(run), bool(shards(run))
        if manifest is None:
            others = {*rows(run, ["config_hash"])["config_hash"].to_pylist()} - {self.config_hash}
            check(not others, f"{run} holds results of other settings, and no run.json that tells which. Choose another out")
            return False
        if not (results or heartbeat.may_write(run)):
            return False
        if manifest.get("config_hash") == self.config_hash:
            doubt = f"functions cannot be compared with the ones that made them ({', '.join(self.unnamed)})"
            check(not self.unnamed, f"{run} holds results, and {doubt}: give a model_id, another for other functions")
            return True
        changed = differences(manifest.get("fixed", {}), self.fixed)
        there, remedy = ("holds results of", ", or delete it") if results else ("is being filled by a process with", "")
        older = ", of an earlier gpulime" if manifest["schema_version"] < SCHEMA_VERSION else ""
        raise GpulimeError(f"{run} {there} other settings{older}: {'; '.join(changed)}. Choose another out{remedy}")


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Settings that differ, each with both of its values; at most `SHOWN` of them and the number of the others."""
    was, now = _by_folder(was), _by_folder(_plain(now))
    changed = [
        f"{name} was {_said(was, name)}, is {_said(now, name)}"
        for name in {**was, **now}
        if _said(was, name) != _said(now, name)  # as text, as in the hash: 1 is not 1.0, not set is not None
    ]
    changed[SHOWN:] = [f"{len(changed) - SHOWN} more"] if len(changed) > SHOWN else []
    return changed


def _said(settings: Mapping[str, Any], name: str) -> str:
    return saferepr(settings[name]) if name in settings else "not set"


def _by_folder(fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Expand class folders to an entry each, so that a difference names the folder."""
    targets = fixed.get(TARGETS)
    targets = targets if isinstance(targets, dict) else {}  # a foreign run.json may hold anything
    return {
        **{name: value for name, value in fixed.items() if name != TARGETS},
        **{f"target of {folder!r}": index for folder, index in targets.items()},
    }


def _plain(value: Mapping[str, Any]) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(value, default=repr))


def versions() -> dict[str, str]:
    """Versions of the packages that matter, and the time."""
    return {
        "gpulime": gpulime.__version__,
        "python": platform.python_version(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **{name: version(name) for name in VERSIONS},
    }


def write_manifest(run: Path, manifest: Mapping[str, Any]) -> None:
    """Write ``run.json``: ``manifest``, which must be plain JSON, and the schema version of this code."""
    text = json.dumps({**manifest, "schema_version": SCHEMA_VERSION}, indent=2)
    publish(run, MANIFEST, text.encode())


def read_manifest(run: Path) -> dict[str, Any] | None:
    """Read what `write_manifest` wrote; None if there is no ``run.json``.

    Raises
    ------
    GpulimeError
        If it is not JSON, is damaged, or was written by a newer gpulime with another schema.
    """
    path = run / MANIFEST
    check(path.is_file() or not path.exists(), f"{path} must be a file")  # a pipe would block
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise GpulimeError(f"{path} must be JSON: {error}") from error
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if not isinstance(version, int):
        raise GpulimeError(f"{path} must state an integer schema_version, got {version!r}")
    readable = f"this gpulime reads up to {SCHEMA_VERSION}; a newer one is needed"
    check(version <= SCHEMA_VERSION, f"{path} has schema_version {version}, {readable}")
    for name, kinds in FACTS.items():
        if name in manifest and not isinstance(manifest[name], kinds):
            raise GpulimeError(f"{path} is damaged: {name} must not be {manifest[name]!r:.80}")
    names = manifest.get("class_names") or ()
    check(all(isinstance(name, str) for name in names), f"{path} is damaged: class_names must be names, got {names!r:.80}")
    return dict(manifest)


def manifest(run: Path) -> dict[str, Any]:
    """Read the ``run.json`` of a run; raises `GpulimeError` if there is none."""
    found = read_manifest(run)
    if found is None:
        raise GpulimeError(f"{run} holds no run: there is no run.json in it")
    return found
