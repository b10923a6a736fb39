"""Write explanations of all kinds to NumPy files without pickle, and read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gpulime.classes import Names
from gpulime.errors import GpulimeError, check

if TYPE_CHECKING:
    from gpulime.explanations.batch import Explanations

FORMAT = 1
IMAGES = "images"  # the kind of files that do not tell it
KINDS = {IMAGES: "ExplainedImages", "texts": "ExplainedTexts", "rows": "ExplainedRows"}  # modules here, and classes in them
LATER = (
    "predicted",
    "predicted_probs",
    "scores_loo",
    "spreads",
    "standard_errors",
    "samples",
    "exhaustive",
)  # fields that files of earlier versions lack


def save(batch: Explanations, path: str | Path) -> None:
    """Write tensors as arrays, and all else as JSON in the entry ``about``."""
    tensors = batch._tensors()
    kind = next((kind for kind, name in KINDS.items() if name == type(batch).__name__), None)
    check(kind is not None, f"explanations of images, texts and rows can be saved; got {type(batch).__name__}")
    plain = {name: value for name, value in vars(batch).items() if name not in tensors and name != "class_names"}
    about = {"gpulime.Explanations": FORMAT, "kind": kind, "class_names": _plain(batch.class_names), "fields": plain}
    arrays: dict[str, Any] = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
    with Path(path).open("wb") as file:  # a file, so that no ".npz" is appended to the name
        np.savez_compressed(file, about=np.array(json.dumps(about)), **arrays)


def load(wanted: type[Explanations], path: str | Path) -> Explanations:
    """Read explanations of the kind that the file names; it must be ``wanted`` or a subclass."""
    with Path(path).open("rb") as file:
        try:
            archive = dict(np.load(file, allow_pickle=False))
            about = json.loads(str(archive.pop("about")))
            version, class_names = about["gpulime.Explanations"], _named(about.get("class_names"))
            kind = about.get("kind", IMAGES)
            found = dict(about.get("fields", {})) | {name: torch.from_numpy(array) for name, array in archive.items()}
            new, known = version > FORMAT, kind in KINDS
        except Exception as error:  # NumPy and zipfile raise a dozen kinds of errors for damaged files
            raise GpulimeError(f"{path} was not written by Explanations.save, or only a part of it is left") from error
    check(not new, f"{path} has format {version}; this gpulime reads up to {FORMAT}: update it")
    check(known, f"{path} holds explanations of {kind!r:.40}; this gpulime reads those of {', '.join(KINDS)}: update it")
    # By name: the engine imports this file, and no pixels.
    cls: type[Explanations] = getattr(import_module(f"gpulime.explanations.{kind}"), KINDS[kind])
    check(issubclass(cls, wanted), f"{path} holds explanations of {kind}: read it by gpulime.Explanations.load")
    names = {one.name for one in fields(cls)} - {"class_names"}
    missing = sorted(names - set(found) - set(LATER))
    check(not missing, f"{path} lacks {missing}")
    try:
        here = _unknown(found["labels"], found["coefficients"]) | {name: found[name] for name in names & set(found)}
        loaded = cls(**cls._of_json(here), class_names=class_names)
        sound = loaded._sound()
    except Exception as error:  # of values of any type
        raise _apart(path) from error
    if not sound:
        raise _apart(path)
    return loaded


def _apart(path: str | Path) -> GpulimeError:
    return GpulimeError(f"{path} holds arrays whose shapes, types or values do not belong together")


def _unknown(labels: Tensor, coefficients: Tensor) -> dict[str, Any]:
    """The fields `LATER` of labels (n, l) and coefficients (n, l, k) from a file that lacks them."""
    n, nan = len(labels), torch.full(labels.shape, torch.nan, dtype=torch.float64)
    of_inputs = {"predicted": torch.full((n,), -1), "predicted_probs": torch.full((n,), torch.nan)}
    of_inputs |= {"samples": torch.zeros(n, dtype=torch.int64), "standard_errors": torch.full_like(coefficients, torch.nan)}
    of_inputs |= {"exhaustive": torch.zeros(n, dtype=torch.bool)}
    return of_inputs | {"scores_loo": nan, "spreads": nan.clone()}


def _plain(names: Names | None) -> list[str] | dict[str, str] | None:
    """Names as JSON, whose keys are strings."""
    if names is None or not isinstance(names, Mapping):
        return None if names is None else [str(name) for name in names]
    return {str(label): str(name) for label, name in names.items()}


def _named(plain: list[str] | dict[str, str] | None) -> Names | None:
    if isinstance(plain, dict):
        return {int(label): str(name) for label, name in plain.items()}
    return None if plain is None else [str(name) for name in plain]
