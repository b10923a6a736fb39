"""lime's text explainer with lime's names: ``from lime.lime_text import ...`` becomes ``from gpulime.lime_text import ...``.

Masks, strings and numbers equal lime's for the same ``random_state``; docs/moving-from-lime.md lists the differences and why.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from sklearn.metrics import pairwise_distances
from sklearn.utils import check_random_state
from torch import Tensor
from tqdm.auto import tqdm

from gpulime import device as devices
from gpulime import lime_base
from gpulime.engine.class_columns import ClassColumns
from gpulime.engine.flight import Flight
from gpulime.engine.model import Inputs, Predictor
from gpulime.engine.selection import SELECTIONS
from gpulime.engine.settings import Settings
from gpulime.errors import check, unknown, whole
from gpulime.explanations.explanation import Explanation, ExplanationList
from gpulime.explanations.text import TextDomainMapper as Mapper
from gpulime.lime_base import LimeInput, LimeLabels
from gpulime.lime_queue import LimeQueue, UnexplainedError
from gpulime.texts import models
from gpulime.texts.batch import listed
from gpulime.texts.indexed import IndexedCharacters, IndexedString
from gpulime.texts.lime_masks import lime_masks
from gpulime.texts.masked_texts import MaskedTexts
from gpulime.texts.packed import width
from gpulime.texts.preparation import Window
from gpulime.texts.words import Array, Split, check_split, check_words

__all__ = ["IndexedCharacters", "IndexedString", "LimeTextExplainer", "TextDomainMapper", "UnexplainedError"]

Classifier = Callable[[list[str]], Any]
PERCENT = 100  # lime's distances are this many times scikit-learn's


class TextDomainMapper(Mapper):
    """Names the words of a text.

    Parameters
    ----------
    indexed_string : IndexedString or IndexedCharacters
    """

    def __init__(self, indexed_string: IndexedString | IndexedCharacters) -> None:
        words = indexed_string.words
        super().__init__(words.names, words.text, words.spans)
        self.indexed_string = indexed_string


@dataclass(frozen=True)
class _Call:
    """The arguments of one call."""

    labels: Sequence[int]
    top_labels: int | None
    num_samples: int
    distance_metric: Any
    model_regressor: Any
    settings: Settings


@dataclass(kw_only=True)
class _Prepared(LimeInput):
    """A text in the queue and its masks (s, k) bool."""

    indexed: IndexedString | IndexedCharacters
    masks: Array


class LimeTextExplainer:
    r"""Explains predictions on texts.

    Parameters
    ----------
    kernel_width : float
        Width of the kernel, in cosine distances times 100.
    kernel : callable, optional
        (distances (s,), kernel_width) -> weights (s,); by default `gpulime.lime_base.exponential_kernel`.
    verbose : bool
        Print intercept, local prediction and prediction of each label.
    class_names : sequence of str, optional
        By default "0", "1", ...
    feature_selection : str
        "auto", "none", "forward_selection", "highest_weights" or "lasso_path".
    split_expression : str or callable
        A regular expression of what separates words; or a callable text -> words, in their order in the text.
    bow : bool
        True: a word is one part wherever it occurs, and hiding removes it. False: each occurrence is a part, and hiding puts
        ``mask_string`` in its place.
    mask_string : str, optional
        In place of a hidden word without ``bow``: by default "UNKWORDZ", or ``chr(0)`` with ``char_level``.
    random_state : int or numpy.random.RandomState, optional
        Random state of the masks; None is NumPy's global state.
    char_level : bool
        True: characters are the parts, in place of words.

    Raises
    ------
    GpulimeError
        If a setting is invalid.
    """

    def __init__(
        self,
        kernel_width: float = 25,
        kernel: Callable[..., Any] | None = None,
        verbose: bool = False,
        class_names: Sequence[str] | None = None,
        feature_selection: str = "auto",
        split_expression: Split = r"\W+",
        bow: bool = True,
        mask_string: str | None = None,
        random_state: int | np.random.RandomState | None = None,
        char_level: bool = False,
    ) -> None:
        if feature_selection not in SELECTIONS:
            raise unknown("feature_selection", feature_selection, SELECTIONS)
        check_split(split_expression)
        fits = isinstance(kernel_width, Real) and kernel_width > 0
        check(fits, f"kernel_width must be a number above 0; got {kernel_width!r}")
        if bow and mask_string is not None:
            warnings.warn("mask_string has no effect with bow=True, which removes hidden words: pass bow=False", stacklevel=2)
        self.kernel_width, self.kernel = float(kernel_width), kernel or lime_base.exponential_kernel
        self.verbose, self.class_names, self.feature_selection = verbose, class_names, feature_selection
        self.split_expression, self.bow, self.mask_string, self.char_level = split_expression, bow, mask_string, char_level
        self.random_state: np.random.RandomState = check_random_state(random_state)

    def explain_instance(
        self,
        text_instance: str,
        classifier_fn: Classifier,
        labels: Iterable[int] = (1,),
        top_labels: int | None = None,
        num_features: int | None = 10,
        num_samples: int = 5000,
        distance_metric: Any = "cosine",
        model_regressor: Any = None,
        batch_size: int | str = models.AUTO,
        progress_bar: bool = False,
    ) -> Explanation:
        """Explain the prediction for one text.

        Parameters
        ----------
        text_instance : str
        classifier_fn : callable
            List of b strings -> (b, classes) probabilities, such as the ``predict_proba`` of a scikit-learn pipeline; (b,)
            probabilities are those of label 1. Equal strings are passed once.
        labels : iterable of int
            Classes to explain if ``top_labels`` is None or 0.
        top_labels : int, optional
            Number of most probable classes to explain.
        num_features : int
            The most words an explanation may use; None is all.
        num_samples : int
            s, masked texts, including the text itself.
        distance_metric : str or callable
            As for scikit-learn's ``pairwise_distances``.
        model_regressor : scikit-learn regressor, optional
            Fitted in place of the ridge; needs ``coef_``, ``intercept_`` and ``sample_weight``.
        batch_size : int or "auto"
            The most strings per call of the function; "auto" is 1024.
        progress_bar : bool
            If True, show a progress bar.

        Returns
        -------
        Explanation

        Raises
        ------
        GpulimeError
            If the text has no word, or the function's output or an argument is invalid.
        """
        try:
            return self.explain_instances(
                [text_instance],
                classifier_fn,
                labels=labels,
                top_labels=top_labels,
                num_features=num_features,
                num_samples=num_samples,
                distance_metric=distance_metric,
                model_regressor=model_regressor,
                batch_size=batch_size,
                progress_bar=progress_bar,
            )[0]
        except UnexplainedError as unexplained:
            error = unexplained.failures[0]
        raise error  # the original error, with its own cause

    def explain_instances(
        self,
        text_instances: Iterable[str],
        classifier_fn: Classifier,
        labels: Iterable[int] = (1,),
        top_labels: int | None = None,
        num_features: int | None = 10,
        num_samples: int = 5000,
        distance_metric: Any = "cosine",
        model_regressor: Any = None,
        batch_size: int | str = models.AUTO,
        progress_bar: bool = False,
    ) -> ExplanationList:
        """Explain many texts in one queue, so that the function's batches are full, and equal strings are passed once.

        The results equal those of a loop over `explain_instance`. If a text fails, the others are still explained: the error is
        raised at the end and holds their explanations. If the first three texts all fail, the rest are not tried. A
        KeyboardInterrupt also holds the ``explanations`` so far.

        Parameters
        ----------
        text_instances : sequence or iterable of str
        classifier_fn, ..., progress_bar
            As for `explain_instance`.

        Returns
        -------
        ExplanationList, in the order of the texts

        Raises
        ------
        UnexplainedError
            If some texts could not be explained; a `GpulimeError` with the dicts ``explanations`` and ``failures``, by the
            text's number.
        GpulimeError
            If an argument is invalid.
        """
        texts = listed(text_instances)
        call = _Call(
            labels=[] if top_labels else lime_base.given_labels(labels),
            top_labels=whole("top_labels", top_labels, 1) if top_labels else None,
            num_samples=whole("num_samples", num_samples, 2, ", the whole text and one mask"),
            distance_metric=distance_metric,
            model_regressor=model_regressor,
            settings=Settings(feature_selection=self.feature_selection, num_features=num_features),
        )
        predictor = self._predictor(classifier_fn, models.checked(batch_size))
        with tqdm(total=len(texts) * num_samples, disable=not progress_bar) as bar:
            queue = LimeQueue[_Prepared, Explanation](
                predictor,
                Window(),
                prepare=lambda i: self._prepare(texts[i], call),
                flight=lambda i, one: _flight(i, one, call),
                solve=lambda one, flight: self._solve(one, flight, call),
                progress=bar.update,
                one="text",
            )
            return ExplanationList(queue.run(len(texts)))

    def _predictor(self, classifier_fn: Classifier, batch_size: int | str) -> Predictor:
        hidden = None if self.bow else self.mask_string
        if not self.bow and hidden is None:
            hidden = chr(0) if self.char_level else "UNKWORDZ"
        called = _Function(models.function(classifier_fn, batch_size, hidden, "classifier_fn"), None, "float32", None)
        called.columns = ClassColumns()
        return called

    def _prepare(self, text: Any, call: _Call) -> _Prepared:
        """Divide a text, then draw its masks, as lime does."""
        if self.char_level:
            indexed: IndexedString | IndexedCharacters = IndexedCharacters(text, self.bow, self.mask_string)
        else:
            indexed = IndexedString(text, self.split_expression, self.bow, self.mask_string)
        check_words(indexed.words)
        return _Prepared(indexed=indexed, masks=lime_masks(self.random_state, call.num_samples, len(indexed.words)))

    def _solve(self, one: _Prepared, flight: Flight, call: _Call) -> Callable[[], Explanation]:
        """Fit a linear model to each label, as lime does; the returned function fills lime's fields."""
        masks = csr_matrix(one.masks, dtype=float) if callable(call.distance_metric) else one.masks.astype(float)
        distances = PERCENT * pairwise_distances(masks, masks[:1], metric=call.distance_metric).ravel()
        weights = lime_base.weights(self.kernel, distances, self.kernel_width)
        fitted = lime_base.fits(one.masks, weights, flight.outputs(), call.settings, call.model_regressor)

        def explained() -> Explanation:
            found, names = fitted(), self.class_names
            if names is None:
                names = [str(label) for label in range(len(one.output))]
            explanation = Explanation(TextDomainMapper(one.indexed), class_names=names, random_state=self.random_state)
            explanation.predict_proba = one.output
            if call.top_labels:
                explanation.top_labels = one.labels
            lime_base.fill(explanation, one.labels, found, bool(call.top_labels), None, self.verbose)
            return explanation

        return explained


def _flight(number: int, one: _Prepared, call: _Call) -> Flight:
    labels = LimeLabels(given=call.labels, most=call.top_labels, one=one)
    words = one.indexed.words
    inputs = MaskedTexts([words], torch.tensor([number]), labels, width(len(words)))
    return Flight(inputs, call.num_samples, torch.from_numpy(one.masks)[None])


class _Function(Predictor):
    """A function of strings, called without changes to gradients, autocast or the random state."""

    def _look(self, outputs: Tensor, ends: Inputs) -> None:
        """Give no warnings: outputs are explained as they are."""

    @contextmanager
    def inference(self, device: torch.device) -> Iterator[None]:
        """Keep what the function finds."""
        devices.keep_memory()
        yield
