"""The classifier of a run: from the user's factory, with weights, transform and class names."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from gpulime import classes
from gpulime.config import DataConfig, LimeConfig, ModelConfig, expanded
from gpulime.errors import GpulimeError, about, check, line_of, nearest, unknown
from gpulime.runs.reading import code, examples, transform, weights
from gpulime.runs.reading.transform import Transform

INSTALL = {
    "efficientnet_lite_pytorch": "pip install 'gpulime[demo]', or in a checkout pip install -e '.[demo]'",
    "timm": "pip install timm",
}


@dataclass(frozen=True)
class Loaded:
    """A model with the facts that a run needs."""

    model: nn.Module  # on the CPU, as the factory and the checkpoint made it
    transform: Transform  # from a decoded picture to the model's input, with the model's normalisation
    class_names: list[str] | None  # one per output of the model; None if unknown
    weights_sha256: str  # of all parameters and buffers
    description: str  # the factory and its arguments


def load(config: ModelConfig, data: DataConfig, lime: LimeConfig) -> Loaded:
    """Make the model that ``config`` names, with the transform of the settings and the model.

    Raises
    ------
    GpulimeError
        If the factory, the checkpoint or the class names cannot be loaded, or the size of the model's input is
        unknown.
    """
    if config.factory is None:
        raise GpulimeError(
            "model.factory is not set: give the function that makes your model, such as "
            "--model.factory torchvision.models.resnet18, or start from --config configs/quickstart.yaml"
        )
    with about(f"model.factory {config.factory!r}"):
        factory = imported(config.factory)
        pretrained = _torchvision_weights(factory, config.kwargs)
        model = made(factory, config.kwargs, "the model")
        if not isinstance(model, nn.Module):
            raise GpulimeError(f"must return a torch.nn.Module; it returned a {type(model).__name__}")
    if config.checkpoint is not None:
        with about(f"model.checkpoint {config.checkpoint!r}"):
            weights.put(weights.read(config.checkpoint), model)
    return Loaded(
        model=model,
        transform=transform.choose(model, pretrained, data, lime),
        class_names=class_names_of(config.class_names, pretrained, model),
        weights_sha256=code.sha256(model),
        description=f"{config.factory}({', '.join(f'{name}={value!r}' for name, value in config.kwargs.items())})",
    )


def imported(path: str) -> Any:
    """The object at an import ``path``, module.name or module:name, from installed packages or the current directory."""
    path = path.replace(":", ".", 1)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that no file there shadows an installed package
    first, *rest = path.split(".")
    found: Any = _module(first)
    for name in rest:
        if not hasattr(found, name) and isinstance(found, ModuleType) and hasattr(found, "__path__"):
            inner = f"{found.__name__}.{name}"
            if importlib.util.find_spec(inner) is not None:
                _module(inner)
        if not hasattr(found, name):
            public = [other for other in dir(found) if not other.startswith("_")]
            raise GpulimeError(f"{getattr(found, '__name__', found)} has no {name!r}{nearest(name, public)}")
        found = getattr(found, name)
    return found


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        hint = INSTALL.get(str(error.name))
        raise GpulimeError(f"there is no module {error.name!r}" + (f"; {hint}" if hint else "")) from error
    except (Exception, SystemExit) as error:  # a script that reads its arguments, say
        raise GpulimeError(f"importing {name!r} failed with {line_of(error)}") from error


def made_dataset(config: DataConfig) -> Any:
    """The map-style dataset that ``config.factory`` makes; raises `GpulimeError` if it cannot, or makes something else."""
    with about(f"data.factory {config.factory!r}"):
        return examples.map_style(made(imported(str(config.factory)), config.kwargs, "the dataset"))


def made(factory: Any, kwargs: Mapping[str, Any], what: str) -> Any:
    """Call a factory; raises `GpulimeError` if that is impossible or fails."""
    check(callable(factory), f"must be something to call that returns {what}; got {factory!r}")
    try:
        return factory(**kwargs)
    except (Exception, SystemExit) as error:  # pass on any error of the user's code
        raise GpulimeError(f"the call with {dict(kwargs)} failed with {line_of(error)}") from error


def _torchvision_weights(factory: Any, kwargs: Mapping[str, Any]) -> Any:
    """The weights enum's member in ``kwargs`` for a factory of torchvision; None if there is none."""
    name = kwargs.get("weights")
    if not isinstance(name, str) or not str(getattr(factory, "__module__", "")).startswith("torchvision."):
        return None
    from torchvision.models import get_model_weights

    known = get_model_weights(factory)
    member = name.removeprefix(f"{known.__name__}.")
    if member not in known.__members__:
        raise unknown("model.kwargs.weights", name, known.__members__)
    return known[member]


def class_names_of(setting: list[str] | str | None, pretrained: Any, model: Any) -> list[str] | None:
    """Class names from the setting, else from torchvision's weights or a Hugging Face model, else None."""
    if setting is None:
        return _categories(pretrained) or (classes.of_model(model) if isinstance(model, nn.Module) else None)
    if not isinstance(setting, str):
        return classes.listed(setting)
    with about(f"model.class_names {setting!r}"):
        if Path(setting).suffix in {".txt", ".json"}:
            return _read_names(expanded(setting))
        names = _categories(imported(setting))
        if names is None:
            raise GpulimeError("must be a .txt, a .json or the import path of torchvision weights with categories")
        return names


def _categories(pretrained: Any) -> list[str] | None:
    names = getattr(pretrained, "meta", {}).get("categories")
    return None if names is None else list(names)


def _read_names(file: Path) -> list[str]:
    check(file.is_file() or not file.exists(), "is not a regular file")  # a pipe would block
    try:
        text = file.read_text(encoding="utf-8-sig")
        names = json.loads(text) if file.suffix == ".json" else text.strip().splitlines()
    except OSError as error:
        raise GpulimeError(f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # JSON's and Unicode's errors
        raise GpulimeError(f"cannot be read: {error}") from error
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise GpulimeError(f"must hold a list of names, one per class; got {str(names)[:80]}")
    return [name.strip() for name in names]
