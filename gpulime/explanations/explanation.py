"""One explanation of a text or a table row, with lime's fields and methods, and a list of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

from gpulime import labels as numbers
from gpulime.classes import Names, called
from gpulime.errors import GpulimeError, check, unknown
from gpulime.explanations import fields
from gpulime.explanations.shown import Shown, ShownList

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gpulime.explanations.batch import Explanations

MODES = ("classification", "regression")
DUMMY_LABEL = 1  # of a regression, as in lime; label 0 holds the negated weights
SHOWN_LABELS = 3  # in a line about one explanation

Weights = Sequence[tuple[int, float]]


class DomainMapper:
    """Names the parts of one input and shows the input as HTML; this one has neither names nor a view.

    Subclasses are `gpulime.explanations.text.TextDomainMapper` and `gpulime.explanations.table.TableDomainMapper`.
    """

    def map_exp_ids(self, exp: Weights, *args: Any, **kwargs: Any) -> list[tuple[Any, float]]:
        """Replace the part's number by its name in each pair (part, weight).

        Parameters
        ----------
        exp : sequence of (part, weight)
        kwargs
            Options of a subclass.

        Returns
        -------
        list of (name, weight), in the same order
        """
        return list(exp)

    def instance_html(self, exp: Weights, label: int, *args: Any, **kwargs: Any) -> str:
        """HTML of the input with the weights of one label; empty if there is no view of it.

        Parameters
        ----------
        exp : sequence of (part, weight)
        label : int
            The label that the weights belong to.
        args, kwargs
            Options of a subclass. `Explanation.as_html` passes ``unsure``, the parts whose sign is not certain, and
            ``heading``, HTML that names the label.
        """
        return ""


class Explanation(Shown):
    """The explanation of one input, with lime's fields and methods.

    Parameters
    ----------
    domain_mapper : DomainMapper
        Names the parts and shows the input.
    mode : {"classification", "regression"}
    class_names : sequence of str or mapping of int to str, optional
        Only for classification.
    random_state : any
        Kept as lime keeps it; nothing is drawn from it.

    Attributes
    ----------
    local_exp : dict, label -> list of (part, weight), strongest first
    standard_errors : dict, label -> dict of part -> standard error of its weight; NaN, or no entry, if not known
    intercept, scores, scores_loo, local_preds, predictions : dict, label -> float
        ``scores_loo`` is the leave-one-out R2 beside lime's ``scores``.
    score, local_pred : one label's, as lime keeps them
    top_labels : list of int or None, the labels explained, most probable first
    predict_proba : (classes,) array or None, the model's probabilities for the input
    predicted_value, min_value, max_value : float, only of a regression; the bounds are NaN if not known
    dummy_label : int, only of a regression: the label of its weights

    Raises
    ------
    GpulimeError
        If the mode is unknown.
    """

    def __init__(
        self,
        domain_mapper: DomainMapper,
        mode: str = "classification",
        class_names: Names | None = None,
        random_state: Any = None,
    ) -> None:
        if mode not in MODES:
            raise unknown("mode", mode, MODES)
        self.domain_mapper, self.mode, self.random_state = domain_mapper, mode, random_state
        self.local_exp: dict[int, list[tuple[int, float]]] = {}
        self.standard_errors: dict[int, dict[int, float]] = {}
        self.intercept: dict[int, float] = {}
        self.scores: dict[int, float] = {}
        self.scores_loo: dict[int, float] = {}
        self.local_preds: dict[int, Any] = {}
        self.predictions: dict[int, float] = {}
        self.score: float | None = None
        self.local_pred: Any = None
        self.top_labels: list[int] | None = None
        self.class_names = class_names
        self.predict_proba: Any = None
        if mode == "regression":
            self.class_names = ["negative", "positive"]
            self.predicted_value: float | None = None
            self.min_value, self.max_value = 0.0, 1.0
            self.dummy_label = DUMMY_LABEL

    def __repr__(self) -> str:
        from gpulime.explanations import shades

        labels = shades.labels_of(self)[:SHOWN_LABELS] if self.mode == "classification" else list(self.local_exp)[:1]
        facts = [called(label, self.class_names) if self.mode == "classification" else "value" for label in labels]
        values = [self.predictions.get(label) for label in labels]
        said = [name if value is None else f"{name} {value:.3f}" for name, value in zip(facts, values, strict=True)]
        more = ", ..." if self.mode == "classification" and len(self.local_exp) > SHOWN_LABELS else ""
        parts = max((len(weights) for weights in self.local_exp.values()), default=0)
        score = shades.score(self, labels[0]).replace("R²", ", R2").replace("\N{MINUS SIGN}", "-") if labels else ""
        return f"{type(self).__name__}({', '.join(said) or 'no label'}{more}; {parts} parts{score})"

    def available_labels(self) -> list[int]:
        """The explained labels of a classification; with ``top_labels`` the most probable first.

        Raises
        ------
        NotImplementedError
            For a regression, as in lime.
        """
        if self.mode != "classification":
            raise NotImplementedError("Not supported for regression explanations.")
        return list(self.top_labels or self.local_exp)

    def as_list(self, label: int | None = 1, errors: bool = False, **kwargs: Any) -> list[tuple[Any, ...]]:
        """The parts of a label by name, strongest first.

        Parameters
        ----------
        label : int or None
            An explained label, as a number or by its name; None is the most probable explained label. Ignored for a
            regression.
        errors : bool
            If True, list the standard errors too.
        kwargs
            Options of the domain mapper, such as ``positions=True`` for texts.

        Returns
        -------
        list of (name, weight), or with ``errors`` of (name, weight, standard error)
            A standard error is NaN if it is not known.

        Raises
        ------
        GpulimeError
            If the label was not explained; the message lists the explained ones.
        """
        label = self._chosen(label)
        weights = self.local_exp[label]
        named = [(name, float(weight)) for name, weight in self.domain_mapper.map_exp_ids(weights, **kwargs)]
        if not errors:
            return list(named)
        known = self.standard_errors.get(label, {})
        return [(*pair, float(known.get(part, math.nan))) for pair, (part, _) in zip(named, weights, strict=True)]

    def as_map(self) -> dict[int, list[tuple[int, float]]]:
        """Label -> list of (part, weight), strongest first."""
        return self.local_exp

    def as_pyplot_figure(self, label: int | None = 1, **kwargs: Any) -> Figure:
        """Draw the weights of a label as horizontal bars with their 95 % intervals; needs the extra ``plots``.

        Parameters
        ----------
        label, kwargs
            As for `as_list`.

        Returns
        -------
        matplotlib.figure.Figure
            A figure of pyplot, as in lime: ``plt.show()`` shows it.

        Raises
        ------
        GpulimeError
            If matplotlib is missing or the label was not explained.
        """
        from gpulime.explanations import plots

        return plots.named_bars(self, self._chosen(label), **kwargs)

    def _chosen(self, label: Any) -> int:
        """The label that the caller means, if it was explained."""
        if self.mode == "regression":
            return self.dummy_label
        check(bool(self.local_exp), "the explanation holds no label")
        if label is None:
            return self._most_probable()
        found: Any = None
        with suppress(GpulimeError):  # then it was not explained
            found = numbers.number(label, self.class_names)
        if found not in self.local_exp:
            names = (f"{known} ({called(known, self.class_names)})" for known in self.available_labels())
            raise GpulimeError(f"label must be one of those explained, {', '.join(names)}; got {label!r}")
        return int(found)

    def _most_probable(self) -> int:
        """The explained label with the highest prediction; the first one if predictions are not known."""
        labels = [label for label in self.available_labels() if label in self.local_exp]
        return int(max(labels, key=lambda label: self.predictions.get(label, -math.inf)))


class BatchExplanation(Explanation):
    """The explanation of one input of a batch: its methods take the most probable explained label by default."""

    @classmethod
    def of(
        cls,
        batch: Explanations,
        index: int,
        domain_mapper: DomainMapper,
        mode: str = "classification",
        bounds: tuple[float, float] = (math.nan, math.nan),
    ) -> BatchExplanation:
        """One input of a batch, whose parts are numbered 0 ... count - 1.

        Parameters
        ----------
        batch : Explanations
        index : int
            The input's place in the batch.
        domain_mapper : DomainMapper
        mode : {"classification", "regression"}
            A regression has the label 0 in the batch.
        bounds : pair of float
            The least and the largest output among the samples, of a regression.
        """
        one, row = cls(domain_mapper, mode, batch.class_names), fields.row(batch, index)
        fields.fill(one, row, range(int(row["counts"])))
        if mode == "regression":
            one.top_labels = None
            one.predicted_value = one.predictions[0]
            one.min_value, one.max_value = map(float, bounds)
            one.standard_errors[DUMMY_LABEL] = one.standard_errors[0]
            for by_label in (one.intercept, one.scores, one.scores_loo, one.local_preds, one.predictions):
                by_label[DUMMY_LABEL] = by_label[0]
            one.local_exp[DUMMY_LABEL] = one.local_exp[0]
            one.local_exp[0] = [(part, -weight) for part, weight in one.local_exp[DUMMY_LABEL]]
        return one

    def as_list(self, label: int | None = None, errors: bool = False, **kwargs: Any) -> list[tuple[Any, ...]]:
        """As `Explanation.as_list`, by default of the most probable explained label."""
        return super().as_list(label, errors, **kwargs)

    def as_pyplot_figure(self, label: int | None = None, **kwargs: Any) -> Figure:
        """As `Explanation.as_pyplot_figure`, by default of the most probable explained label."""
        return super().as_pyplot_figure(label, **kwargs)


class ExplanationList(ShownList, list[Explanation]):
    """A list of explanations with HTML for notebooks; so is a slice of it."""

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> Explanation: ...
    @overload
    def __getitem__(self, index: slice, /) -> ExplanationList: ...
    def __getitem__(self, index: SupportsIndex | slice, /) -> Explanation | ExplanationList:
        """One explanation, or several."""
        return ExplanationList(super().__getitem__(index)) if isinstance(index, slice) else super().__getitem__(index)

    def __repr__(self) -> str:
        return f"ExplanationList({len(self)} explanations)"
