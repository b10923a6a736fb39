"""Views that all collections of explanations share: HTML for notebooks, figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from gpulime.classes import Names
from gpulime.errors import whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gpulime.explanations.image import ImageExplanation


class _Sliceable(Protocol):
    """A collection of explanations, and a part of one."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[ImageExplanation]: ...
    def __getitem__(self, index: slice, /) -> _Sliceable: ...


class _Shown:
    """Plots and HTML of several explanations."""

    def _repr_html_(self: _Sliceable) -> str:
        """HTML for a notebook: the first images with the overlay of their first label."""
        from gpulime.explanations import notebook

        shown = self[: notebook.MOST_IMAGES]
        return notebook.many(repr(self), list(shown), len(self) - len(shown))

    def plot(
        self: _Sliceable,
        label: int | None = None,
        kind: str = "overlay",
        ax: Any = None,
        num_features: int = 5,
        class_names: Names | None = None,
        most: int = 12,
    ) -> Figure:
        """Draw the first images, as `ImageExplanation.plot` draws one; needs the extra ``plots``.

        Parameters
        ----------
        label, kind, num_features, class_names
            As for one image; by default each image shows its own first label.
        ax : several matplotlib Axes, optional
            Axes to draw on, such as the array of ``subplots``: one for each image, four for "panels"; further ones are
            emptied. By default a figure is made.
        most : int
            The most images to draw.

        Returns
        -------
        matplotlib.figure.Figure
            Shown by a notebook as the last value of a cell; elsewhere call its ``savefig``.

        Raises
        ------
        GpulimeError
            As for one image, and if there are too few axes or no images.
        """
        from gpulime.explanations import plots

        return plots.many(list(self[: whole("most", most, 1)]), label, kind, ax, num_features, class_names)
