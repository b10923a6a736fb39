"""A matplotlib figure that a notebook shows, whether or not ``%matplotlib inline`` has run; needs the extra ``plots``."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


class NotebookFigure(Figure):
    """A figure without pyplot; IPython prefers the printer of ``%matplotlib inline`` to the method, so it is shown once."""

    def _repr_png_(self) -> bytes:
        """The picture that a notebook shows for the last value of a cell."""
        file = io.BytesIO()
        self.savefig(file, format="png", bbox_inches="tight")
        return file.getvalue()
