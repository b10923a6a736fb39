"""Models of texts: functions of strings, scikit-learn's pipelines, and models of transformers with a tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from gpulime import classes
from gpulime.classes import Names
from gpulime.engine.functions import NO_PROBABILITIES, NoProbabilitiesError
from gpulime.engine.model import Activation, Model
from gpulime.errors import check, whole
from gpulime.texts.counts import Counts, has_counts
from gpulime.texts.hide import ATTENTION, DROP, MASK, Hide, replacement
from gpulime.texts.strings import Strings
from gpulime.texts.token_model import TokenModel
from gpulime.texts.tokens import LIMITS, Tokenisation

AUTO = "auto"
METHODS = ("predict_proba", "predict")  # of estimators, which are explained
AUTO_STRINGS, AUTO_COUNTS = 1024, 8192  # in a call of a function of strings, and of one of counts


@dataclass(frozen=True)
class TextModel:
    """A user's model as a function of rows.

    Attributes
    ----------
    rows : callable or nn.Module, rows -> outputs (b, classes)
    tokenisation : Tokenisation or None, for models of token ids
    activation : applied to the outputs if the user names none
    class_names : list of str or None
    regression : bool, True if a single output is no probability whatever its values are
    """

    rows: Model
    tokenisation: Tokenisation | None = None
    activation: Activation = None
    class_names: Names | None = None
    regression: bool = False


def of(model: Any, tokenizer: Any, hide: Hide, batch_size: int | str, max_length: int | None) -> TextModel:
    """Adapt a user's model.

    Raises
    ------
    GpulimeError
        If the model has no probabilities or lacks its tokenizer, or ``hide`` does not fit it.
    """
    batch_size = checked(batch_size)
    if isinstance(getattr(model, "model", None), nn.Module) and hasattr(model, "tokenizer"):  # a pipeline of transformers
        model, tokenizer = model.model, tokenizer or model.tokenizer
    if isinstance(model, nn.Module):
        return _of_module(model, tokenizer, hide, batch_size, max_length)
    check(tokenizer is None, f"tokenizer belongs to a model that is an nn.Module; got {type(model).__name__}")
    adapted = function(model, batch_size, _replaced(hide), regressors=True)
    return TextModel(adapted, class_names=_sklearn_names(model), regression=_only_predicts(model))


def _of_module(model: nn.Module, tokenizer: Any, hide: Hide, batch_size: int | str, max_length: int | None) -> TextModel:
    name = type(model).__name__
    check(tokenizer is not None, f"{name} is an nn.Module and needs its tokenizer: pass tokenizer=, or a function of strings")
    config = getattr(model, "config", None)
    tokenisation = Tokenisation.of(tokenizer, config, max_length)
    _check_positions(model, config, max_length)
    replacement(hide, tokenizer)  # fails early
    kind, labels = getattr(config, "problem_type", None), getattr(config, "num_labels", None)
    one = None if kind == "regression" else "sigmoid"
    activation = one if labels == 1 else "sigmoid" if kind == "multi_label_classification" else "softmax"
    return TextModel(TokenModel(model, batch_size), tokenisation, activation, classes.of_model(model))


def _check_positions(model: nn.Module, config: Any, max_length: int | None) -> None:
    """Raise `GpulimeError` if ``max_length`` is above the limit of the config, and the model embeds no more positions."""
    embedded = {module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)}
    limits = [limit for name in LIMITS if (limit := getattr(config, name, None)) in embedded]
    if max_length is not None and limits:
        check(max_length <= min(limits), f"max_length must be at most the model's {min(limits)} positions; got {max_length}")


def checked(batch_size: int | str) -> int | str:
    """The number of rows in a call, or "auto"."""
    if isinstance(batch_size, str):
        check(batch_size == AUTO, f"batch_size must be a positive integer or 'auto'; got {batch_size!r}")
        return batch_size
    return whole("batch_size", batch_size, 1)


def function(
    model: Any,
    batch_size: int | str,
    replace: Callable[[str], str] | str | None,
    name: str = "model",
    regressors: bool = False,
) -> Strings:
    """Adapt a function of strings, or a scikit-learn model: by counts if its pipeline begins with them.

    Parameters
    ----------
    regressors : bool
        True takes ``predict`` of an estimator that does not classify.

    Raises
    ------
    NoProbabilitiesError
        If it is a classifier without probabilities.
    GpulimeError
        If it is no function.
    """
    owner, method = model, "predict_proba"
    if getattr(model, "__name__", "") in METHODS:
        owner, method = getattr(model, "__self__", None), model.__name__
    elif regressors and _only_predicts(model):
        method = "predict"
    if hasattr(owner, method) and has_counts(owner):
        return Counts(owner, batch_size if isinstance(batch_size, int) else AUTO_COUNTS, replace, name, method)
    called = getattr(owner, method, model)
    if not callable(called) and hasattr(model, "predict"):
        right = "give the pipeline a classifier with predict_proba, or pass a function that returns (b, classes)"
        raise NoProbabilitiesError(f"{NO_PROBABILITIES}; {_named(model)} has no predict_proba: {right}")
    right = f"the {name} must be a function of strings, such as a pipeline's predict_proba"
    check(callable(called), f"{right}; got {type(model).__name__}")
    return Strings(called, batch_size if isinstance(batch_size, int) else AUTO_STRINGS, replace, name)


def _only_predicts(model: Any) -> bool:
    """Tell if a model, or the owner of its method ``predict``, is a regressor of scikit-learn, or a pipeline with one."""
    owner = getattr(model, "__self__", None) if getattr(model, "__name__", "") == "predict" else model
    if not hasattr(owner, "predict"):
        return False
    from sklearn.base import BaseEstimator, is_regressor

    return isinstance(owner, BaseEstimator) and is_regressor(owner)


def _named(model: Any) -> str:
    """The type of an estimator, and of the last step of a pipeline."""
    steps = getattr(model, "steps", None)
    last = f" with {type(steps[-1][1]).__name__}" if steps else ""
    return f"{type(model).__name__}{last}"


def _replaced(hide: Hide) -> Callable[[str], str] | str | None:
    """Replacement of a hidden word in a string."""
    check(
        hide not in (MASK, ATTENTION), f"hide={hide!r} needs a tokenizer; take 'drop', a string for a hidden word or a callable"
    )
    check(
        isinstance(hide, str) or callable(hide), f"hide must be 'drop', a string for a hidden word or a callable; got {hide!r}"
    )
    return None if hide == DROP else hide


def _sklearn_names(model: Any) -> list[str] | None:
    """Names of a scikit-learn classifier's classes, if they are strings."""
    known = getattr(getattr(model, "__self__", model), "classes_", None)
    dtype = getattr(known, "dtype", None)
    return [str(one) for one in known] if known is not None and dtype is not None and dtype.kind in "OU" else None
