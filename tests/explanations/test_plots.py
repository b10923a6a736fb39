"""Figures by their structure: axes, pictures, bars; for images of every kind, and nothing shown, nothing global."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from PIL import Image
from skimage.segmentation import mark_boundaries
from test_explanation import explanations
from test_shades import ERRORS, IDS, RANGES, WEIGHTS, single, with_errors

from gpulime.errors import GpulimeError
from gpulime.explanations import plots, shades

matplotlib = pytest.importorskip("matplotlib")
from matplotlib.colors import to_rgb  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402


@pytest.fixture(autouse=True)
def _nothing_global():
    pyplot_was_there = "matplotlib.pyplot" in sys.modules
    yield
    assert pyplot_was_there or "matplotlib.pyplot" not in sys.modules


@pytest.mark.parametrize(
    ("kind", "c", "dtype"),  # each two of them together
    [(plots.KINDS[(c + i) % 3], c, dtype) for c in (1, 2, 3, 4, 5) for i, dtype in enumerate(RANGES)],
)
def test_every_kind_of_image_can_be_drawn(dtype, c, kind, tmp_path):
    one = single(dtype, c)
    before = one.image.copy()
    figure = one.plot(kind=kind)
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "figure.png", dpi=20)
    assert (tmp_path / "figure.png").stat().st_size > 500
    assert np.array_equal(one.image, before)


def test_overlay_has_the_picture_and_the_coefficient_of_each_pixel_on_a_symmetric_scale():
    figure = single().plot(label=7, num_features=2)
    ax, bar = figure.axes
    gray, heat = ax.images
    assert gray.get_array().shape == heat.get_array().shape == (16, 12)
    of = dict(WEIGHTS[7])
    expected = np.array([of[i] for i in IDS]).reshape(2, 2).repeat(8, 0).repeat(6, 1)
    np.testing.assert_array_equal(heat.get_array(), expected)
    assert heat.get_clim() == (-0.5, 0.5)
    assert bar.get_ylabel() == "coefficient"
    assert ax.get_title() == "class 7, 0.750, R² fitted 0.50"
    assert [text.get_text() for text in ax.texts] == ["9", "1"]  # ids, as in every other view
    places = [text.get_position() for text in ax.texts]
    assert [int(single().segments[int(y), int(x)]) for x, y in places] == [9, 1]


def test_a_title_wider_than_the_picture_has_several_lines():
    name = "permanently irrigated land with annual and permanent crops"
    figure = single().plot(class_names={7: name})
    *lines, numbers = figure.axes[0].get_title().split("\n")
    assert (" ".join(lines), numbers) == (name, "0.750, R² fitted 0.50")
    figure.savefig(io.BytesIO())
    box = figure.axes[0].title.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width


def test_without_coefficients_there_is_no_scale():
    one = single()
    one.local_exp[7] = [(segment, 1e-17) for segment, _ in one.local_exp[7]]
    assert len(one.plot(label=7).axes) == 1
    assert len(single().plot(label=7, num_features=0).axes) == 2


def test_colours_are_those_of_the_sign():
    heat = single().plot().axes[0].images[1]
    for value, colour in ((0.5, shades.FOR), (-0.5, shades.AGAINST)):
        np.testing.assert_allclose(heat.to_rgba(value), (*to_rgb(colour), shades.DEEPEST), atol=0.01)
    assert heat.to_rgba(0.0)[3] < 0.01


def test_outlines_are_drawn_where_they_are_thin():
    assert len(single(h=16, w=12).plot().axes[0].images) == 2
    *_, white = single(h=80, w=100).plot().axes[0].images
    opaque = white.get_array()[..., 3] > 0
    assert opaque[39].all()
    assert opaque[:, 49].all()
    assert opaque.sum() == 80 + 100 - 1


def test_in_an_overlay_uncertain_segments_are_hatched_and_the_legend_says_so():
    (ax, _) = with_errors().plot(label=7).axes
    _, heat, layer = ax.images
    alpha = layer.get_array()[..., 3]
    assert alpha.shape == (320, 240)
    assert (alpha[:160, :120] == 1 - shades.FADED).all()  # segment 1
    assert not alpha[160:].any()
    assert not alpha[:, 120:].any()
    assert tuple(layer.get_extent()) == tuple(heat.get_extent())
    assert len({*layer.get_array()[:20, :15, 0].ravel().tolist()}) > 2  # ground and stripes
    assert ax.get_xlabel() == shades.HATCHED == "hatched: the sign is not certain at 95 %"


@pytest.mark.parametrize("num_features", [1, 2, 3])
def test_bars_have_intervals_and_uncertain_ones_are_hatched(num_features):
    (ax,) = with_errors().plot(kind="bars", num_features=num_features).axes
    picked = WEIGHTS[7][:num_features]
    (lines,) = ax.collections
    ends = [(segment[0][0], segment[1][0]) for segment in lines.get_segments()]
    expected = [(w - 1.96 * ERRORS[7][segment], w + 1.96 * ERRORS[7][segment]) for segment, w in picked]
    np.testing.assert_allclose(ends, expected)
    assert [bool(bar.get_hatch()) for bar in ax.patches] == [segment == 1 for segment, _ in picked]
    assert [bar.get_alpha() for bar in ax.patches] == [shades.FADED if segment == 1 else None for segment, _ in picked]
    legend = ["coefficient, and its 95 % interval", shades.HATCHED][: min(num_features, 2)]
    assert ax.get_xlabel().split("\n") == legend
    low, high = ax.get_xlim()
    assert low < min(end for end, _ in expected)
    assert high > max(end for _, end in expected)


def test_standard_errors_that_are_not_known_change_nothing():
    one = with_errors()
    one.standard_errors = {7: dict.fromkeys(IDS, float("nan"))}
    for kind in plots.KINDS:
        files = [io.BytesIO(), io.BytesIO()]
        for explanation, file in zip((single(), one), files, strict=True):
            explanation.plot(kind=kind).savefig(file, format="png", dpi=50)
        assert files[0].getvalue() == files[1].getvalue()
    assert not one.plot(kind="overlay").axes[0].get_xlabel()
    assert one.plot(kind="bars").axes[0].get_xlabel() == "coefficient"


@pytest.mark.parametrize("num_features", [0, 1, 2, 5])
def test_bars_have_the_sign_and_the_size_of_the_strongest_coefficients(num_features):
    (ax,) = single().plot(kind="bars", num_features=num_features).axes
    expected = WEIGHTS[7][: min(num_features, 3)]  # the fourth is 0
    assert [bar.get_width() for bar in ax.patches] == [w for _, w in expected]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == [f"segment {i}" for i, _ in expected]
    colours = [shades.FOR if w > 0 else shades.AGAINST for _, w in expected]
    assert [bar.get_facecolor()[:3] for bar in ax.patches] == [to_rgb(colour) for colour in colours]
    middles = [bar.get_y() + bar.get_height() / 2 for bar in ax.patches]
    assert middles == sorted(middles)
    assert ax.yaxis_inverted()  # the strongest on top


def test_numbers_of_bars_do_not_touch_the_names_of_segments():
    figure = single().plot(kind="bars")
    figure.draw_without_rendering()
    (ax,) = figure.axes
    names = [tick.get_window_extent() for tick in ax.get_yticklabels()]
    numbers = [text.get_window_extent() for text in ax.texts]
    assert len(numbers) == 3
    assert max(box.x1 for box in names) < min(box.x0 for box in numbers)


def test_panels_are_the_four_of_limes_tutorials():
    one = single(c=3)
    figure = one.plot(label=7, kind="panels", num_features=2)
    assert [ax.get_title() for ax in figure.axes] == ["positive", "positive and negative", "image", "mask"]
    positive, both, image, mask = (ax.images[0].get_array() for ax in figure.axes)
    shown, _ = one.get_image_and_mask(7, positive_only=True, hide_rest=True, num_features=2)
    np.testing.assert_array_equal(positive, shown)
    painted, signs = one.get_image_and_mask(7, positive_only=False, num_features=2)
    np.testing.assert_array_equal(both, mark_boundaries(painted, signs))
    np.testing.assert_array_equal(image, one.image)
    np.testing.assert_array_equal(mask, signs)
    assert set(np.unique(mask)) == {-1, 0, 1}
    assert figure.axes[3].images[0].get_clim() == (-1, 1)
    assert figure.get_suptitle() == "class 7, 0.750, R² fitted 0.50"


def test_panels_of_gray_tell_for_from_against():
    both = single(c=1).plot(kind="panels").axes[1].images[0].get_array()
    inside = {9: both[12, 2], 1: both[2, 2]}  # for and against
    assert inside[9].argmax() == 1
    assert inside[1].argmax() == 0


@pytest.mark.parametrize("kind", plots.KINDS)
def test_ax_is_drawn_into(kind):
    figure = Figure()
    axes = figure.subplots(2, 2) if kind == "panels" else figure.subplots()
    before = len(figure.axes)
    assert single().plot(kind=kind, ax=axes) is figure
    assert len(figure.axes) == before
    assert all(ax.has_data() for ax in figure.axes)


def test_a_subfigure_leads_to_the_whole_figure():
    figure = Figure()
    left, _ = figure.subfigures(1, 2)
    assert single().plot(ax=left.subplots()) is figure


def test_a_batch_is_a_grid():
    batch = explanations(n=6)
    figure = batch.plot()
    assert [len(ax.images) for ax in figure.axes] == [2] * 6 + [0] * 2
    assert [ax.axison for ax in figure.axes[6:]] == [False] * 2
    assert len(batch.plot(most=3).axes) == 3
    assert len(batch.plot(kind="panels", most=2).axes) == 8
    np.testing.assert_array_equal(figure.axes[2].images[1].get_array(), batch.heatmaps()[2, 0])
    second = batch.plot(label=285).axes[2]
    np.testing.assert_array_equal(second.images[1].get_array(), batch.heatmaps()[2, 1])
    assert second.get_title().startswith("class 285, ")


def test_a_batch_draws_into_given_axes():
    figure = Figure()
    axes = figure.subplots(2, 2)
    assert explanations(n=3).plot(kind="bars", ax=axes) is figure
    assert [len(ax.patches) for ax in axes.flat] == [4, 5, 5, 0]  # image 0 has four segments


def test_names_are_not_taken_for_formulas(tmp_path):
    names = [f"$\\frac{{{i}" for i in range(8)]
    figure = single().plot(kind="panels", class_names=names)
    figure.savefig(tmp_path / "figure.png", dpi=20)
    assert figure.get_suptitle().startswith("$\\frac{7, ")
    assert single().plot(class_names=names[:7]).axes[0].get_title().startswith("class 7, ")


def test_an_explanation_brings_its_names():
    one = single()
    one.class_names = {7: "cat"}
    assert one.plot().axes[0].get_title().startswith("cat, ")
    assert one.plot(class_names={7: "dog"}).axes[0].get_title().startswith("dog, ")


def test_a_notebook_shows_the_figure():
    png = single().plot()._repr_png_()
    assert Image.open(io.BytesIO(png)).size > (300, 300)
    assert explanations().plot()._repr_png_().startswith(b"\x89PNG")


def test_a_notebook_that_has_a_printer_for_figures_shows_it_once():
    formatter = pytest.importorskip("IPython.core.formatters").DisplayFormatter()
    data, _ = formatter.format(single().plot())
    assert data["image/png"].startswith(b"\x89PNG")
    formatter.formatters["image/png"].for_type(Figure, lambda figure: b"inline")
    data, _ = formatter.format(single().plot())
    assert data["image/png"] == b"inline"
    assert set(data) == {"image/png", "text/plain"}


def test_names_may_be_a_mapping_that_lacks_some():
    assert single().plot(class_names={7: "cat"}).axes[0].get_title().startswith("cat, ")
    assert single().plot(class_names={3: "cat"}).axes[0].get_title().startswith("class 7, ")


@pytest.mark.parametrize("kind", plots.KINDS)
def test_what_is_not_finite_or_zero_has_no_colour(kind, tmp_path):
    one = single()
    one.local_exp = {7: [(9, float("nan")), (1, float("inf")), (4, 0.0)]}
    one.scores, one.predictions = {}, {}
    figure = one.plot(kind=kind)
    figure.savefig(tmp_path / "figure.png", dpi=20)
    if kind == "overlay":
        assert not figure.axes[0].images[1].get_array().any()
        assert figure.axes[0].get_title() == "class 7"
    if kind == "bars":
        assert not figure.axes[0].patches


@pytest.mark.parametrize("segments_dtype", [np.uint8, np.int32, np.uint64])
def test_segments_of_any_integers(segments_dtype):
    one = single(segments_dtype=segments_dtype)
    mask = one.plot(kind="panels", num_features=3).axes[3].images[0].get_array()
    assert set(np.unique(mask)) == {-1, 0, 1}


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: single().plot(kind="bar"), "kind must be one of 'overlay', 'bars', 'panels'; got 'bar' .did you mean 'bars'"),
        (lambda: single().plot(label=8), "label must be one of '7', '3'; got 8"),
        (lambda: single().plot(kind="panels", ax=Figure().subplots(1, 3)), "kind 'panels' draws into 4 axes, got 3"),
        (lambda: single().plot(ax=Figure().subplots(1, 2)), "kind 'overlay' draws into 1 axes, got 2"),
        (lambda: single().plot(ax=3), "ax must be matplotlib Axes, one or several; got int"),
        (lambda: single().plot(num_features=1.5), "num_features must be a whole number"),
        (lambda: explanations(n=3).plot(ax=Figure().subplots(1, 2)), "3 images as 'overlay' draw into 3 axes or more, got 2"),
        (lambda: explanations(n=3).plot(label=5), "image 0: label must be one of '281', '285'; got 5"),
        (lambda: explanations(n=3)[:0].plot(), "there are no explanations to plot"),
        (lambda: explanations(n=3).plot(most=0), "most must be at least 1"),
    ],
)
def test_a_mistake_is_named_with_what_would_be_right(draw, message):
    with pytest.raises(GpulimeError, match=message):
        draw()


def test_without_matplotlib_the_message_says_how_to_get_it(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    one = single()
    assert "<img" in one._repr_html_()
    with pytest.raises(GpulimeError, match=r'^plot needs matplotlib: pip install "gpulime\[plots\]"$'):
        one.plot()
