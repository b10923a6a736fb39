"""Models of texts and tables: scikit-learn estimators from files or code, functions, and networks."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from gpulime.config import ModelConfig, expanded
from gpulime.errors import GpulimeError, about, check, line_of
from gpulime.runs.reading import code, models, weights

SKOPS = ".skops"
SOURCES = ("estimator", "factory", "pickle")


@dataclass(frozen=True)
class Estimator:
    """A model of texts or tables with the facts that a run needs.

    Attributes
    ----------
    model : estimator, function, nn.Module or pipeline of transformers
    tokenizer : for a module of token ids; None for others
    class_names : list of str or None, as set; the explainer knows those of the model itself
    sha256 : str or None, of the file, the weights, or the pickled estimator; None if it cannot be pickled
    description : str, where it comes from
    tokenizer_digest : str or None, of its vocabulary and limits
    """

    model: Any
    tokenizer: Any
    class_names: list[str] | None
    sha256: str | None
    description: str
    tokenizer_digest: str | None = None


def load(config: ModelConfig) -> Estimator:
    """Load the model of texts or tables that ``config`` names.

    Raises
    ------
    GpulimeError
        Unless one of ``model.estimator``, ``model.factory`` and ``model.pickle`` is set, and can be loaded.
    """
    given = [name for name in SOURCES if getattr(config, name) is not None]
    one = "set one of model.estimator (a .skops file or an import path), model.factory and model.pickle"
    check(len(given) == 1, f"{one}; got {' and '.join(given) or 'none'}")
    [source] = given
    with about(f"model.{source} {getattr(config, source)!r}"):
        model, digest = {"estimator": _estimator, "factory": _of_factory, "pickle": _of_pickle}[source](config)
    if config.checkpoint is not None:
        with about(f"model.checkpoint {config.checkpoint!r}"):
            check(isinstance(model, nn.Module), f"holds weights of an nn.Module; the model is a {type(model).__name__}")
            weights.put(weights.read(config.checkpoint), model)
    tokenizer = None
    if config.tokenizer is not None:
        with about(f"model.tokenizer {config.tokenizer!r}"):
            tokenizer = models.made(models.imported(config.tokenizer), {}, "the tokenizer")
    return Estimator(
        model=model,
        tokenizer=tokenizer,
        class_names=models.class_names_of(config.class_names, None, model),
        sha256=digest or _digest(model),
        description=str(getattr(config, source)),
        tokenizer_digest=_tokenizer_digest(tokenizer or getattr(model, "tokenizer", None)),
    )


def _estimator(config: ModelConfig) -> tuple[Any, str | None]:
    name = str(config.estimator)
    if name.endswith(SKOPS):
        return _of_skops(expanded(name), config.trusted)
    dangerous = name.lower().endswith((".pkl", ".pickle", ".joblib"))
    check(
        not dangerous,
        "is a pickle, which runs any code in it: set model.pickle instead, for a file of your own, or save it by skops",
    )
    return models.imported(name), None


def _of_skops(path: Path, trusted: list[str]) -> tuple[Any, str]:
    try:
        from skops import io
    except ModuleNotFoundError as error:
        raise GpulimeError("needs skops: pip install skops") from error
    check(path.is_file(), "there is no such file")
    try:
        unknown = [name for name in io.get_untrusted_types(file=path) if name not in trusted]
        if unknown:
            listed = ", ".join([*trusted, *unknown])
            raise GpulimeError(
                f"holds types that skops does not trust ({len(unknown)}). If you know them all: --model.trusted '[{listed}]'"
            )
        return io.load(path, trusted=trusted), _file_digest(path)
    except GpulimeError:
        raise
    except Exception as error:  # zipfile, json and skops raise many kinds for damaged files
        raise GpulimeError(f"cannot be read: {line_of(error)}") from error


def _of_pickle(config: ModelConfig) -> tuple[Any, str]:
    import joblib

    path = expanded(str(config.pickle))
    check(path.is_file(), "there is no such file")
    try:
        return joblib.load(path), _file_digest(path)
    except (Exception, SystemExit) as error:  # it may run any code
        raise GpulimeError(f"cannot be read: {line_of(error)}") from error


def _of_factory(config: ModelConfig) -> tuple[Any, None]:
    return models.made(models.imported(str(config.factory)), config.kwargs, "the model"), None


def _tokenizer_digest(tokenizer: Any) -> str | None:
    if not hasattr(tokenizer, "get_vocab"):
        return None
    facts = type(tokenizer).__name__, getattr(tokenizer, "model_max_length", None), sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(repr(facts).encode("utf-8", "surrogatepass")).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(model: Any) -> str | None:
    """Digest of a network's weights, or of a pickled estimator; None for a function, and if it cannot be pickled."""
    module = model if isinstance(model, nn.Module) else getattr(model, "model", None)
    if isinstance(module, nn.Module):
        return code.sha256(module)
    if not hasattr(model, "predict"):
        return None
    try:
        return hashlib.sha256(pickle.dumps(model)).hexdigest()
    except Exception:  # an estimator may hold anything
        return None
