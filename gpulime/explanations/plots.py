"""Figures of explanations, for papers and notebooks; matplotlib comes with the extra ``plots``.

Functions return a new figure and do not touch pyplot or other global state, except `named_bars`, which lime's users show
with ``plt.show()``.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpulime.classes import Names, called, name_of
from gpulime.errors import GpulimeError, about, check, unknown, whole
from gpulime.explanations import shades
from gpulime.explanations.image import ImageExplanation
from gpulime.explanations.shades import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

    from gpulime.explanations.explanation import Explanation

KINDS = ("overlay", "bars", "panels")
PANELS = ("positive", "positive and negative", "image", "mask")
SIDE = 3.2  # inches of a square
BAR = 0.3  # inches from one bar to the next, at least
COLUMNS = 4
FINE = 320  # pixels of a hatching's longer side, at least
LETTERS = 36  # of a line of a title that fits the width of a square


def one(
    explanation: ImageExplanation,
    label: int | None,
    kind: str,
    ax: Any,
    num_features: int,
    class_names: Names | None,
) -> Figure:
    """Draw one explanation; parameters and errors are those of `gpulime.ImageExplanation.plot`."""
    needed = _axes_each(kind)
    label, num_features = shades.chosen(explanation, label), whole("num_features", num_features, 0)
    axes, figure = _axes(ax, *((2, 2) if kind == "panels" else (1, 1)), kind)
    check(len(axes) == needed, f"kind {kind!r} draws into {needed} axes, got {len(axes)}")
    _draw(explanation, label, kind, axes, num_features, class_names)
    if ax is None and kind == "panels":
        figure.suptitle(axes[0].get_ylabel(), fontsize="medium", parse_math=False)
        axes[0].set_ylabel("")
    if ax is None and kind == "overlay" and np.any(axes[0].images[1].get_array()):
        bar = figure.colorbar(axes[0].images[1], ax=axes[0], fraction=0.046, pad=0.03)
        bar.outline.set_visible(False)
        bar.set_label("coefficient")
    return figure


def many(
    explanations: Sequence[ImageExplanation],
    label: int | None,
    kind: str,
    ax: Any,
    num_features: int,
    class_names: Names | None,
) -> Figure:
    """Draw several explanations, one behind the other; parameters and errors are those of `ExplainedImages.plot`."""
    each, n = _axes_each(kind), len(explanations)
    check(n > 0, "there are no explanations to plot")
    num_features = whole("num_features", num_features, 0)
    columns = each if each > 1 else min(COLUMNS, n)
    axes, figure = _axes(ax, -(-n * each // columns), columns, kind)
    check(len(axes) >= n * each, f"{n} images as {kind!r} draw into {n * each} axes or more, got {len(axes)}")
    for i, explanation in enumerate(explanations):
        with about(f"image {i}"):
            chosen = shades.chosen(explanation, label)
            _draw(explanation, chosen, kind, axes[i * each : (i + 1) * each], num_features, class_names)
    for empty in axes[n * each :]:
        empty.set_axis_off()
    return figure


def named_bars(explanation: Explanation, label: int, **kwargs: Any) -> Figure:
    """All weights of a label as bars, on a new figure of pyplot; ``kwargs`` go to `Explanation.as_list`."""
    _needs_matplotlib("as_pyplot_figure")
    from matplotlib import pyplot

    weights = [(part, float(w)) for part, w in explanation.local_exp[label]]
    names = [str(name) for name, _ in explanation.as_list(label, **kwargs)]
    figure = pyplot.figure(figsize=(2 * SIDE, max(1.5 * SIDE, BAR * len(names))), layout="constrained")
    ax = figure.add_subplot()
    bars(ax, names, weights, shades.errors(explanation, label))
    named = f" for class {name_of(label, explanation.class_names) or label}" if explanation.mode == "classification" else ""
    ax.set_title(f"Local explanation{named}", fontsize="medium", parse_math=False)
    return figure


def _needs_matplotlib(method: str) -> None:
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError as error:
        raise GpulimeError(f'{method} needs matplotlib: pip install "gpulime[plots]"') from error


def _axes_each(kind: str) -> int:
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    _needs_matplotlib("plot")
    return len(PANELS) if kind == "panels" else 1


def _axes(ax: Any, rows: int, columns: int, kind: str) -> tuple[list[Axes], Figure]:
    """The given axes and their figure, or those of a new figure."""
    from matplotlib.axes import Axes

    from gpulime.explanations.figure import NotebookFigure

    if ax is None:
        width = 1.4 * SIDE if kind == "bars" else SIDE
        made = NotebookFigure(figsize=(width * columns + 0.4, SIDE * rows + 0.2), layout="constrained")
        return list(made.subplots(rows, columns, squeeze=False).flat), made
    axes = list(np.ravel(np.array(ax, dtype=object)))
    wrong = [type(item).__name__ for item in axes if not isinstance(item, Axes)]
    check(bool(axes) and not wrong, f"ax must be matplotlib Axes, one or several; got {wrong[0] if wrong else 'none'}")
    figure = axes[0].get_figure(root=True)
    if figure is None:
        raise GpulimeError("ax has been removed from its figure")
    return axes, figure


def _draw(
    explanation: ImageExplanation,
    label: int,
    kind: str,
    axes: Sequence[Axes],
    num_features: int,
    class_names: Names | None,
) -> None:
    title = _title(explanation, label, class_names)
    if kind == "panels":
        _panels(explanation, label, axes, num_features)
        axes[0].set_ylabel(title, fontsize="medium", parse_math=False)
        return
    (_overlay if kind == "overlay" else _bars)(explanation, label, axes[0], num_features)
    axes[0].set_title(title, fontsize="medium", parse_math=False)


def _title(explanation: ImageExplanation, label: int, class_names: Names | None) -> str:
    """The label's name and its numbers, wrapped to the width of the picture."""
    name = called(label, explanation.class_names if class_names is None else class_names)
    facts = []
    if label in explanation.predictions:
        facts.append(f"{float(explanation.predictions[label]):.3f}")
    if score := shades.score(explanation, label):
        facts.append(score)
    line, numbers = ", ".join([name, *facts]), ", ".join(facts)
    return line if len(line) <= LETTERS else "\n".join([*textwrap.wrap(name, LETTERS), numbers]).strip()


def _overlay(explanation: ImageExplanation, label: int, ax: Axes, num_features: int) -> None:
    """Images of the axes: the gray picture, the colours, the hatching, the outlines; the strongest bear their ids."""
    weights, segments = explanation.local_exp[label], explanation.segments
    gray = shades.rgb(explanation.image).mean(2)
    largest = shades.scale(weights)
    ax.imshow(gray + shades.LIGHTER * (255 - gray), cmap="gray", vmin=0, vmax=255)
    ax.imshow(shades.heat(segments, weights), cmap=_colours(), vmin=-largest, vmax=largest, interpolation="nearest")
    if hatched := shades.unsure(weights, shades.errors(explanation, label)):
        h, w = segments.shape
        ax.imshow(_hatching(gray, segments, hatched), interpolation="nearest", extent=(-0.5, w - 0.5, h - 0.5, -0.5))
        ax.set_xlabel(shades.HATCHED, fontsize="small")
    white = np.ones((*segments.shape, 4))
    white[..., 3] = shades.OUTLINE * shades.outlines(segments)
    if min(segments.shape) > 64:  # on a tiny picture a pixel is no thin line
        ax.imshow(white, interpolation="nearest")
    for segment, _ in shades.strongest(weights, num_features):
        if (segments == segment).any():
            box = {"boxstyle": "round,pad=0.25", "facecolor": "black", "alpha": 0.62, "linewidth": 0}
            place = shades.centre(segments, segment)
            ax.text(*place, str(segment), color="white", fontsize="x-small", ha="center", va="center", bbox=box)
    _bare(ax)


def _hatching(gray: Array, segments: Array, hatched: Sequence[int]) -> Array:
    """A layer (h, w, 4), fine enough for a figure, that fades some segments by the gray ground and hatches them."""
    ground, segments = shades.resized([gray + shades.LIGHTER * (255 - gray), segments], FINE, max(FINE, *gray.shape))
    inside = np.isin(segments, hatched)
    layer = np.repeat(ground[..., None] / 255, 4, 2)
    layer[..., 3] = (1 - shades.FADED) * inside
    for lines, shade in zip(shades.stripes(segments.shape), (1, 0), strict=True):
        layer[lines & inside, :3] += 2 * shades.STRIPE * (shade - layer[lines & inside, :3])  # of which the layer shows half
    return layer


def _bars(explanation: ImageExplanation, label: int, ax: Axes, num_features: int) -> None:
    """One horizontal bar a segment, the strongest on top: to the right for the label, to the left against it."""
    picked = shades.strongest(explanation.local_exp[label], num_features)
    known = shades.errors(explanation, label)
    bars(ax, [f"segment {segment}" for segment, _ in picked], picked, known)
    if not picked:
        ax.text(0.5, 0.5, "no segment has a coefficient", transform=ax.transAxes, ha="center", va="center")


def bars(ax: Axes, names: Sequence[str], picked: shades.Weighted, known: Mapping[int, float]) -> None:
    """One horizontal bar for each (part, weight) with its name, and its 95 % interval if standard errors are known."""
    values = [w for _, w in picked]
    half = [shades.INTERVAL * known.get(part, 0.0) for part, _ in picked]
    lines: dict[str, Any] = {"xerr": half, "capsize": 3, "error_kw": {"elinewidth": 1}} if known else {}
    colours = [shades.FOR if w > 0 else shades.AGAINST for w in values]
    drawn = ax.barh(range(len(picked)), values, color=colours, height=0.7, **lines)
    hatched = shades.unsure(picked, known)
    for bar, (part, _) in zip(drawn, picked, strict=True):
        if part in hatched:
            bar.set(alpha=shades.FADED, hatch="////", edgecolor="0.3", linewidth=0)
    largest = max(map(abs, values), default=1.0)
    ax.bar_label(drawn, [shades.signed(w, largest) for w in values], padding=3, fontsize="small")
    ax.set_yticks(range(len(picked)), names, parse_math=False)
    ax.set_ylim(max(len(picked), 1) - 0.4, -0.6)
    ends = [0, *(w + side * h for w, h in zip(values, half, strict=True) for side in (-1, 1))]
    span = np.ptp(ends) or 1.0  # beside each bar there is room for its number
    ax.set_xlim(min(ends) - 0.4 * span * any(w < 0 for w in values), max(ends) + 0.4 * span)
    ax.axvline(0, color="0.5", linewidth=0.8)
    ax.set_xlabel("\n".join(["coefficient" + ", and its 95 % interval" * bool(known)] + [shades.HATCHED] * bool(hatched)))
    ax.locator_params(axis="x", nbins=4)
    ax.tick_params(length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)


def _panels(explanation: ImageExplanation, label: int, axes: Sequence[Axes], num_features: int) -> None:
    """The four pictures of lime's tutorials."""
    from matplotlib.colors import ListedColormap
    from skimage.segmentation import mark_boundaries

    picture = shades.rgb(explanation.image)
    _, positive = explanation.get_image_and_mask(label, positive_only=True, hide_rest=True, num_features=num_features)
    _, both = explanation.get_image_and_mask(label, positive_only=False, num_features=num_features)
    painted = picture.copy()
    painted[both > 0, 1] = painted[both < 0, 0] = picture.max()  # lime's green and red, on a gray image too
    shown: list[tuple[Array, dict[str, Any]]] = [
        (np.where(positive[..., None] > 0, picture, 0).astype(np.uint8), {}),
        (mark_boundaries(painted, both), {}),
        (picture, {}),
        (both, {"cmap": ListedColormap([shades.AGAINST, "#ededea", shades.FOR]), "vmin": -1, "vmax": 1}),
    ]
    for ax, name, (array, how) in zip(axes, PANELS, shown, strict=True):
        ax.imshow(array, interpolation="nearest", **how)
        ax.set_title(name, fontsize="medium")
        _bare(ax)


def _bare(ax: Axes) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


def _colours() -> Colormap:
    """Orange, transparent in the middle, blue."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgba

    stops = [
        (0.0, to_rgba(shades.AGAINST, shades.DEEPEST)),
        (0.4999, to_rgba(shades.AGAINST, 0)),
        (0.5001, to_rgba(shades.FOR, 0)),
        (1.0, to_rgba(shades.FOR, shades.DEEPEST)),
    ]
    return LinearSegmentedColormap.from_list("gpulime", stops)
