"""Methods that show explanations of texts and rows as HTML, in notebooks and in files."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from gpulime.errors import GpulimeError


class Shown:
    """HTML of one explanation; `Explanation` has these methods."""

    def as_html(
        self: Any, labels: Any = None, predict_proba: bool = True, show_predicted_value: bool = True, **kwargs: Any
    ) -> str:
        """The explanation as a page of its own: HTML without scripts, style sheets or requests, for light and dark themes.

        Parameters
        ----------
        labels : list of labels, optional
            Explained labels to show, as numbers or names; by default all. The input is shown for the first one. Ignored for
            a regression.
        predict_proba : bool
            If True, show the probabilities of the most probable classes.
        show_predicted_value : bool
            If True, show the predicted value of a regression.
        kwargs
            Options of the domain mapper: for texts ``text=True`` and ``opacity=True``, for rows ``show_table=True`` and
            ``show_all=False``.

        Returns
        -------
        str

        Raises
        ------
        GpulimeError
            If a label was not explained.
        """
        from gpulime.explanations import html

        return html.page(html.one(self, labels, predict_proba, show_predicted_value, **kwargs))

    def save_to_file(
        self: Any,
        file_path: str | Path,
        labels: Any = None,
        predict_proba: bool = True,
        show_predicted_value: bool = True,
        **kwargs: Any,
    ) -> None:
        """Write the page of `as_html` to a file, in UTF-8; lone surrogates, which it cannot hold, become escapes."""
        Path(file_path).write_text(
            self.as_html(labels, predict_proba, show_predicted_value, **kwargs), "utf-8", "backslashreplace"
        )

    def show_in_notebook(
        self: Any, labels: Any = None, predict_proba: bool = True, show_predicted_value: bool = True, **kwargs: Any
    ) -> None:
        """Display the explanation in a notebook; parameters are those of `as_html`. It needs IPython.

        Raises
        ------
        GpulimeError
            If IPython is missing or a label was not explained.
        """
        try:
            shown = import_module("IPython.display")  # by name: mypy takes it with and without the package
        except ModuleNotFoundError as error:
            raise GpulimeError("show_in_notebook needs IPython: pip install ipython") from error
        from gpulime.explanations import html

        shown.display(shown.HTML(html.one(self, labels, predict_proba, show_predicted_value, **kwargs)))

    def _repr_html_(self: Any) -> str:
        """HTML for a notebook: probabilities, the strongest weights of all labels, and the input."""
        from gpulime.explanations import html

        return html.one(self, few=html.LEAST_BARS)


class ShownList:
    """HTML of several explanations, for anything with a length, slices and `Explanation` items."""

    def _repr_html_(self: Any) -> str:
        """HTML for a notebook: a table of the first inputs with their strongest parts."""
        from gpulime.explanations import html

        shown = list(self[: html.MOST_INPUTS])
        return html.many(repr(self), shown, len(self) - len(shown))
