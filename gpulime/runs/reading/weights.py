"""Weights of a model: read from a file without running code from it, and load into the model."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gpulime.config import expanded
from gpulime.errors import GpulimeError, check, line_of

PACKAGE = "package://"
NESTED_UNDER = ("state_dict", "model_state_dict", "model")  # keys under which training scripts store the weights
PARALLEL = "module."  # the prefix that DataParallel adds to every name
SHOWN_NAMES = 5


def read(path: str) -> dict[str, Tensor]:
    """The weights in a checkpoint, by name; no code in the file is run.

    It is a .safetensors file, a file that torch.load reads with weights_only=True (the weights at its top, or under one of
    `NESTED_UNDER`), or package://PACKAGE/FILE for such a file inside an installed package.

    Raises
    ------
    GpulimeError
        If the file is missing or damaged, is a pickle that needs code, or holds no weights.
    """
    file = _located(path)
    check(file.is_file(), "there is no such file")
    content = _safetensors(file) if file.suffix == ".safetensors" else _torch_save(file)
    if isinstance(content, Mapping):
        content = next((content[key] for key in NESTED_UNDER if isinstance(content.get(key), Mapping)), content)
    named = isinstance(content, Mapping) and all(isinstance(name, str) for name in content)
    if not named or not any(isinstance(value, Tensor) for value in content.values()):
        kind = f"a mapping of {_some(content)}" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise GpulimeError(f"must hold a state dict, at its top or under one of {_some(NESTED_UNDER)}; it holds {kind}")
    return dict(content)


def put(weights: Mapping[str, Tensor], model: nn.Module) -> None:
    """Load ``weights`` into ``model``; names must match exactly.

    Raises
    ------
    GpulimeError
        With the first few weights that are missing, unknown, or of another shape.
    """
    if _all_parallel(weights) and not _all_parallel(model.state_dict()):
        weights = {name.removeprefix(PARALLEL): value for name, value in weights.items()}
    try:
        outcome = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # torch lists every weight of another shape
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise GpulimeError(f"does not fit the model: {'; '.join(lines[:SHOWN_NAMES]) or line_of(error)}") from error
    except Exception as error:  # values that are not tensors, and modules with their own loading
        raise GpulimeError(f"does not fit the model: {line_of(error)}") from error
    faults = [
        f"{len(names)} {what}: {_some(names)}"
        for what, names in (("missing", outcome.missing_keys), ("unknown to it", outcome.unexpected_keys))
        if names
    ]
    check(not faults, f"does not fit the model; weights {', '.join(faults)}")


def _located(path: str) -> Path:
    if not path.startswith(PACKAGE):
        return expanded(path)
    package, _, inside = path.removeprefix(PACKAGE).partition("/")
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise GpulimeError(f"there is no installed package {package!r}")
    return Path(spec.submodule_search_locations[0], inside)


def _safetensors(file: Path) -> Any:
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except Exception as error:  # damaged files may hold anything
        raise GpulimeError(f"is not a whole .safetensors file: {line_of(error)}") from error


def _torch_save(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise GpulimeError(
            "holds more than tensors, or is damaged; it is not loaded, because that could run any code. "
            "Save the weights alone, torch.save(model.state_dict(), path), or as .safetensors"
        ) from error
    except Exception as error:  # damaged files may hold anything
        raise GpulimeError(f"is not a whole file of torch.save: {line_of(error)}") from error


def _all_parallel(names: Iterable[str]) -> bool:
    return all(name.startswith(PARALLEL) for name in names)


def _some(names: Iterable[object]) -> str:
    quoted = [repr(name) for name in names]
    return ", ".join(quoted[:SHOWN_NAMES]) + (" ..." if len(quoted) > SHOWN_NAMES else "")
