"""Explanations of texts and rows in a browser: in both themes and at two widths, with names that could break a page."""

from __future__ import annotations

import numpy as np
import pytest
from test_lime_explanation import classification, regression

from gpulime.explanations.explanation import ExplanationList
from gpulime.explanations.table import TableDomainMapper
from gpulime.explanations.text import TextDomainMapper

pytestmark = pytest.mark.long

EVIL = "</script><script>window.ran = true</script><img src=x onerror='window.ran = true'>"
HEBREW, EMOJI = "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd", "\N{FAMILY}\N{PARTY POPPER}"
HOST = '<!DOCTYPE html><meta charset="utf-8"><body style="margin:8px;{}">{}'
THEMES = {"light": "background:#ffffff;color:#000000", "dark": "background:#111111;color:#ffffff"}
# What reaches beyond the window, or beyond a box that would have to be scrolled sideways.
OVERFLOWING = """[...document.body.querySelectorAll('*')].filter((one) => {
    const { left, right } = one.getBoundingClientRect();
    const scrolled = getComputedStyle(one).overflowX === 'auto' && one.scrollWidth > one.clientWidth;
    return scrolled || left < -0.5 || right > innerWidth + 0.5;
}).map((one) => one.outerHTML.slice(0, 200))"""


def text(words):
    """An explanation of a text of these words, each with its weight."""
    spans, start = [], 0
    for word in words:
        spans.append([(start, start + len(word))])
        start += len(word) + 1
    one = classification(
        TextDomainMapper(words, " ".join(words), spans),
        {label: [(i, (-1) ** i * 0.5 / (1 + i)) for i in range(len(words))] for label in (2, 1)},
    )
    one.class_names = ["negative", HEBREW, EVIL]
    one.standard_errors[2][1] = 1.0  # its sign is not certain
    return one


def table(columns):
    names = [f"mean radius of cell {i}" for i in range(columns)]
    bins = [f"{i}.00 < {name} <= {i}.50" for i, name in enumerate(names)]
    mapper = TableDomainMapper(names, [f"{i}.25" for i in range(columns)], bins)
    one = classification(mapper, {label: [(i, (-1) ** i * 0.5 / (1 + i)) for i in range(columns)] for label in (2, 1)})
    one.standard_errors[2][1] = 1.0
    return one


SHOWN = {
    "a text": lambda: text([EMOJI, "good", EVIL, *HEBREW.split(), "x" * 300, "bad"]),
    "right to left": lambda: text([*HEBREW.split(), EMOJI, "left"]),
    "1,000 words": lambda: text([f"word{i}" for i in range(1000)]),
    "200 columns": lambda: table(200),
    "a value": lambda: regression(TableDomainMapper(["a", "b" * 200], ["1", EVIL])),
    "several": lambda: ExplanationList([text([EMOJI, "good", EVIL, *HEBREW.split()]), table(200), text(["x" * 300])]),
}


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("kind", SHOWN)
def test_all_fits_is_legible_and_runs_nothing(chromium, tmp_path, kind, theme, width):
    one = SHOWN[kind]()
    (tmp_path / "fragment.html").write_text(HOST.format(THEMES[theme], one._repr_html_()), "utf-8")
    if kind != "several":
        one.save_to_file(tmp_path / "page.html")
    chromium.size(width, 1000)
    chromium.theme(theme)
    for path in sorted(tmp_path.glob("*.html")):
        chromium.open(path.as_uri())
        assert chromium.js("document.documentElement.scrollWidth") <= width
        assert chromium.js(OVERFLOWING) == []
        assert chromium.js("[window.ran, document.scripts.length, document.images.length]") == [None, 0, 0]
        assert chromium.problems() == []
        shot = chromium.screenshot(path.with_suffix(".png")).mean(axis=2)
        ground, ink = np.median(shot), (shot.min() if theme == "light" else shot.max())
        assert ground > 230 if theme == "light" else ground < 30
        assert abs(ground - ink) > 180


def test_a_text_from_right_to_left_begins_on_the_right(chromium, tmp_path):
    (tmp_path / "page.html").write_text(SHOWN["right to left"]().as_html(), "utf-8")
    chromium.size(800, 600)
    chromium.open((tmp_path / "page.html").as_uri())
    places = chromium.js("[...document.querySelectorAll('mark')].map((mark) => mark.getBoundingClientRect().x)")
    assert places[0] > places[1] > places[-1]
