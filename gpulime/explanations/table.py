"""Names of the columns of one table row, and its values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpulime.errors import check
from gpulime.explanations import markup, shades
from gpulime.explanations.explanation import DomainMapper, Weights
from gpulime.explanations.markup import LEFT, RIGHT

TALLEST = "max-height:32em;overflow:auto;margin:14px 0 0"
MOST_SHOWN = 30  # columns, unless all are asked for


class TableDomainMapper(DomainMapper):
    """Names the columns of a row and holds its values as text.

    Parameters
    ----------
    feature_names : sequence of k str
        The name of each column.
    feature_values : sequence of str
        The value of each column as it is shown; of a sparse row the values of ``feature_indexes`` alone.
    discretized_feature_names : sequence of k (str or None), optional
        The name of each part, such as "sepal width <= 2.80"; None is the column's name.
    feature_indexes : sequence of int, optional
        The columns that a sparse row has values for.

    Raises
    ------
    GpulimeError
        If the numbers of names and values do not fit.
    """

    def __init__(
        self,
        feature_names: Sequence[Any],
        feature_values: Sequence[Any],
        discretized_feature_names: Sequence[Any] | None = None,
        feature_indexes: Sequence[int] | None = None,
    ) -> None:
        self.feature_names, self.feature_values = list(feature_names), list(feature_values)
        self.exp_feature_names = self.feature_names  # lime's name of them
        self.discretized_feature_names = None if discretized_feature_names is None else list(discretized_feature_names)
        self.feature_indexes = None if feature_indexes is None else [int(i) for i in feature_indexes]
        k = len(self.feature_names)
        expected = k if self.feature_indexes is None else len(self.feature_indexes)
        given = len(self.feature_values)
        check(given == expected, f"feature_values must have {expected} values for {k} columns; got {given}")
        named = k if self.discretized_feature_names is None else len(self.discretized_feature_names)
        check(named == k, f"discretized_feature_names must have a name for each of {k} columns; got {named}")

    def map_exp_ids(self, exp: Weights) -> list[tuple[str, float]]:
        """Replace the part's number by its name in each pair (part, weight).

        Parameters
        ----------
        exp : sequence of (part, weight)

        Returns
        -------
        list of (name, weight), in the same order
        """
        return [(self._name(part), weight) for part, weight in exp]

    def instance_html(
        self,
        exp: Weights,
        label: int,
        unsure: Sequence[int] = (),
        heading: str = "",
        show_table: bool = True,
        show_all: bool = False,
    ) -> str:
        """HTML of the row as a table of columns, values and weights.

        Parameters
        ----------
        exp : sequence of (part, weight)
        label : int
            The label that the weights belong to.
        unsure : sequence of int
            Parts whose sign is not certain; their ground is faded.
        heading : str
            HTML that names the label.
        show_table : bool
            If False, show nothing.
        show_all : bool
            If True, show all columns in their order, of a sparse row all with a value; otherwise the `MOST_SHOWN`
            with the strongest weights, fewer if names are long, and a line that counts the others with a weight.
        """
        if not show_table:
            return ""
        weights, values, largest = dict(exp), self._values(), shades.scale(exp)
        head = markup.row((("column", LEFT), ("value", RIGHT), ("weight", RIGHT)), "th")
        rows = []
        for part in values if show_all else list(weights)[:MOST_SHOWN]:
            weight = float(weights.get(part, 0.0))
            coloured = bool(shades.strongest([(part, weight)], 1))
            ground = f"background:{markup.tint(weight, largest, part in unsure)}" if coloured else ""
            number = shades.signed(weight, largest) if coloured else "\N{EN DASH}"
            name, value = markup.name(self.feature_names[part]), markup.name(values.get(part, "0"))
            rows.append(markup.row(((name, LEFT), (value, RIGHT), (number, f"{RIGHT};{ground}"))))
        title = "Values and weights" + f" for and against {heading}" * bool(heading)
        if show_all:
            return _scrolled(markup.table(title, rows, head))
        rows = markup.fitting(rows, markup.ROOM - markup.size(_scrolled(markup.table(title, [], head))))
        return _scrolled(markup.table(title, rows, head)) + markup.more(len(weights) - len(rows), "column")

    def _values(self) -> dict[int, Any]:
        """The value of each column; of a sparse row those that it has, for the others are 0."""
        return dict(zip(self.feature_indexes or range(len(self.feature_names)), self.feature_values, strict=False))

    def _name(self, part: int) -> str:
        shown = None if self.discretized_feature_names is None else self.discretized_feature_names[part]
        return str(self.feature_names[part] if shown is None else shown)


def _scrolled(table: str) -> str:
    return f'<div style="{TALLEST}" tabindex="0">{table}</div>'
