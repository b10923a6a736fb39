"""HTML for notebooks: complete, without scripts or requests, with the explanation's values."""

from __future__ import annotations

import base64
import dataclasses
import io
import re

import numpy as np
import pytest
from markup import Fragment
from PIL import Image
from test_explanation import explanations
from test_shades import IDS, single, with_errors

from gpulime.explanations import notebook, shades

TAGS = {"div", "p", "span", "img", "table", "thead", "tbody", "tr", "th", "td", "figure", "figcaption", "br"}


class Shown(Fragment):
    """A piece of HTML with plain signs, and its pictures."""

    def texts(self, tag):
        return [text.replace("\N{MINUS SIGN}", "-").replace("\N{EN DASH}", "-") for text in super().texts(tag)]

    def pictures(self):
        addresses = [element["src"] for element in self.elements if element["tag"] == "img"]
        assert all(address.startswith("data:image/jpeg;base64,") for address in addresses)
        data = [base64.b64decode(address.partition(",")[2], validate=True) for address in addresses]
        return [np.asarray(Image.open(io.BytesIO(file))) for file in data]


def test_one_image_is_its_pictures_and_a_table_of_its_labels():
    html = single()._repr_html_()
    page = Shown(html)
    assert page.texts("th") == ["label", "prediction", "R² left out", "R² fitted", "strongest segments"]
    cells = page.texts("td")
    assert cells[:5] == ["7", "0.750", "-", "0.50", "9 +0.500 1 -0.250 4 +0.125"]
    assert cells[5:] == ["3", "0.250", "-", "-", "1 +0.300 40 -0.100"]
    picture, overlay = page.pictures()
    assert picture.shape == overlay.shape == (160, 120, 3)
    blue, orange, none = overlay[100, 30], overlay[20, 30], overlay[120, 90]  # beside the ids
    assert int(blue[2]) - blue[0] > 60
    assert int(orange[0]) - orange[2] > 25
    assert np.ptp(none.astype(int)) < 25


def test_intervals_are_in_the_table_and_uncertain_segments_are_hatched():
    one = with_errors(h=160, w=120)
    html = one._repr_html_()
    assert html.count("Hatched: the sign is not certain at 95 %.") == 1
    page = Shown(html)
    assert page.texts("th")[-1] == "strongest segments, ± 95 % interval"
    assert page.texts("td")[4] == "9 +0.500 ±0.196 1 -0.250 ±0.392 4 +0.125 ±0.000"
    _, hatched = page.pictures()
    _, plain = Shown(single(h=160, w=120)._repr_html_()).pictures()
    changed = np.abs(hatched.astype(int) - plain).max(2) > 20
    assert changed[:70, :50].mean() > 0.2  # segment 1
    assert not changed[90:].any()
    many = notebook.many("", [one, single()], 0)
    assert many.count("Hatched: the sign is not certain at 95 %.") == 1


def test_standard_errors_that_are_not_known_change_nothing():
    one = with_errors()
    one.standard_errors = {label: dict.fromkeys(IDS, float("nan")) for label in one.local_exp}
    assert one._repr_html_() == single()._repr_html_()
    assert notebook.many("", [one], 0) == notebook.many("", [single()], 0)


def test_the_overlay_bears_the_ids_that_the_table_names():
    one = single(h=160, w=120)
    _, overlay = Shown(one._repr_html_()).pictures()
    one.local_exp = {7: [(segment, w) for segment, w in one.local_exp[7] if segment != 4]}
    _, without = Shown(one._repr_html_()).pictures()
    changed = np.abs(overlay.astype(int) - without).max(2) > 40
    down, across = shades.centre(one.segments, 4)[::-1]
    assert changed[int(down) - 4 : int(down) + 5, int(across) - 4 : int(across) + 5].any()
    ground = np.full((60, 80, 3), 255, np.uint8)
    segments = np.arange(80).repeat(60).reshape(80, 60).T // 20
    numbered = shades.numbered(ground, segments, [3, 0, 77, 3])
    assert numbered.min(2).min(0).tolist() != ground.min(2).min(0).tolist()
    dark = (numbered.max(2) < 200).any(0)
    assert [bool(dark[start : start + 20].any()) for start in (0, 20, 40, 60)] == [True, False, False, True]


def test_classes_have_their_names():
    one = single()
    one.class_names = {7: "<b>cat</b>"}
    page = Shown(one._repr_html_())
    assert page.texts("td")[::5] == ["<b>cat</b>", "3"]
    assert "Shown is <b>cat</b>, with" in page.texts("p")[-1]
    assert page.all("b") == []
    batch = dataclasses.replace(explanations(), class_names=["cat"] * 282)
    assert Shown(batch._repr_html_()).texts("figcaption")[0].startswith("0cat · ")


@pytest.mark.parametrize("html", [single()._repr_html_(), explanations()._repr_html_()], ids=["one", "batch"])
def test_nothing_is_run_loaded_or_painted_over(html):
    page = Shown(html)
    assert {element["tag"] for element in page.elements} <= TAGS
    assert not [name for element in page.elements for name in element if name.startswith("on")]
    assert "url(" not in html
    assert "http" not in html
    styles = [element.get("style", "") for element in page.elements]
    assert not [style for style in styles if re.search(r"(^|;)color:", style)]  # the notebook's theme keeps its own
    backgrounds = {colour for style in styles for colour in re.findall(r"background:([^;]+)", style)}
    assert backgrounds <= {"none", shades.FOR, shades.AGAINST}
    assert all(element["alt"] for element in page.elements if element["tag"] == "img")


@pytest.mark.parametrize(("n", "more"), [(1, None), (12, None), (13, "and 1 more image"), (40, "and 28 more images")])
def test_a_batch_shows_the_first_and_counts_the_rest(n, more):
    page = Shown(explanations(n=n)._repr_html_())
    assert len(page.pictures()) == min(n, notebook.MOST_IMAGES)
    assert page.texts("p")[1:] == ([more] if more else [])
    assert page.texts("p")[0].startswith(f"Explanations({n} images")
    one = explanations(n=n)[0]
    assert page.texts("figcaption")[0] == f"0class 281 · {one.predictions[281]:.3f} · R² left out {one.scores_loo[281]:.2f}"


def test_many_labels_are_cut_off():
    one = single()
    one.top_labels, one.local_exp = list(range(13)), {label: [(1, 0.1)] for label in range(13)}
    page = Shown(one._repr_html_())
    assert len(page.texts("tr")) == 1 + notebook.MOST_LABELS
    assert page.texts("p")[0] == "and 3 more labels"


def test_what_is_missing_or_not_finite_is_a_dash():
    one = single()
    one.local_exp = {7: [(9, float("nan"))], 3: []}
    one.scores, one.predictions = {7: float("inf")}, {}
    assert Shown(one._repr_html_()).texts("td") == ["7", "-", "-", "-", "none", "3", "-", "-", "-", "none"]
    one.local_exp, one.top_labels = {}, []
    assert Shown(one._repr_html_()).pictures() == []


def test_an_empty_batch_and_a_large_image_are_small():
    assert Shown(explanations()[:0]._repr_html_()).pictures() == []
    page = Shown(single(h=1200, w=600)._repr_html_())
    assert page.pictures()[0].shape == (notebook.SIDES[1], notebook.SIDES[1] // 2, 3)


def test_text_is_escaped():
    assert "&lt;script&gt;" in notebook.many("<script>", [], 0)
