"""HTML of explanations of texts and rows: complete, small, without scripts, escaped, to be read on every theme."""

from __future__ import annotations

import inspect
import re
import sys
import types
from html import escape

import numpy as np
import pytest
import torch
from markup import Fragment
from test_lime_explanation import NAMES, SPANS, TEXT, WORDS, batch, classification, regression, text_mapper

from gpulime.errors import GpulimeError
from gpulime.explanations import html, markup, shades
from gpulime.explanations.explanation import DomainMapper, Explanation, ExplanationList
from gpulime.explanations.rows import ExplainedRows
from gpulime.explanations.table import TableDomainMapper
from gpulime.explanations.text import TextDomainMapper
from gpulime.explanations.texts import ExplainedTexts

TAGS = {"br", "div", "p", "span", "b", "small", "bdi", "mark", "table", "caption", "thead", "tbody", "tr", "th", "td"}
DRAWN = {"svg", "rect", "path", "circle"}
EVIL = "</script><script>alert('x')</script>\"&"
COLUMNS, VALUES, BINS = ["width", EVIL, "age"], ["2.8", "True", "<nan>"], ["width <= 3.00", None, "age is missing"]
THEMES = {  # text and ground
    "page, light": ("#000000", "#ffffff"),
    "page, dark": ("#ffffff", "#121212"),
    "JupyterLab, dark": ("#ffffff", "#111111"),
    "VS Code, dark": ("#cccccc", "#1f1f1f"),
    "report, light": ("#1d1d1b", "#ffffff"),
    "report, dark": ("#ececea", "#1c1c1e"),
}


class Shown(Fragment):
    def texts(self, tag, **attributes):
        return [text.replace("\N{MINUS SIGN}", "-") for text in super().texts(tag, **attributes)]

    def tables(self):
        """Caption -> rows of cells, headings included."""
        pieces = re.findall(r"<table.*?</table>", self.source, re.DOTALL)
        found = {}
        for piece in map(Shown, pieces):
            rows = [Shown(row) for row in re.findall(r"<tr.*?</tr>", piece.source, re.DOTALL)]
            found[piece.texts("caption")[0]] = [row.texts("th") + row.texts("td") for row in rows]
        return found


def table_mapper(**changes):
    return TableDomainMapper(COLUMNS, VALUES, BINS, **changes)


def test_arguments_are_limes():
    theirs = pytest.importorskip("lime.explanation").Explanation
    for name in ("as_html", "save_to_file", "show_in_notebook"):
        expected, ours = (
            [(p.name, p.default) for p in inspect.signature(getattr(kind, name)).parameters.values()]
            for kind in (theirs, Explanation)
        )
        assert ours == expected


def test_a_classification_is_its_probabilities_its_weights_and_its_text():
    one = classification()
    page = Shown(one._repr_html_())
    tables = page.tables()
    assert tables["Prediction probabilities"] == [
        ["positive", "", "0.625"],
        ["neutral", "", "0.250"],
        ["negative", "", "0.125"],
    ]
    assert tables["positive R² left out 0.70 · intercept 0.2 · local prediction 0.6"] == [
        ["bad", "", "+0.500 ±0.098"],
        ["good", "", "-0.250 ±0.049"],
    ]
    assert tables["neutral R² left out 0.60 · intercept 0.1 · local prediction 0.3"][0] == ["good", "", "+0.125 ±0.025"]
    assert page.texts("mark") == ["good", "bad", "good"]
    assert [("solid" in mark["style"], mark["title"]) for mark in page.all("mark")] == [
        (False, "\N{MINUS SIGN}0.250"),
        (True, "+0.500"),
        (False, "\N{MINUS SIGN}0.250"),
    ]
    (text,) = page.all("div", dir="auto")
    assert text["text"] == TEXT
    assert "pre-wrap" in text["style"]


def test_labels_and_pieces_are_chosen_as_in_lime():
    one = classification()
    page = Shown(one.as_html(labels=["neutral"], predict_proba=False, text=False))
    assert [caption.split()[0] for caption in page.tables()] == ["neutral"]
    assert page.all("mark") == []
    assert Shown(one.as_html(labels=[1])).texts("mark") == ["good", "not", "good"]  # the text is that of the first label
    assert one.as_html(labels=1) == one.as_html(labels=[1]) == one.as_html(labels=np.array([1]))
    flat = {mark["style"] for mark in Shown(one.as_html(labels=[1], opacity=False)).all("mark")}
    assert len(flat) == 2
    with pytest.raises(GpulimeError, match="label must be one of those explained"):
        one.as_html(labels=[0])
    with pytest.raises(TypeError, match="show_tabel"):
        one.as_html(show_tabel=True)


def test_of_more_than_five_classes_four_and_the_rest_are_shown():
    one = Explanation(DomainMapper(), class_names=list("abcdefg"))
    one.local_exp = {0: [(0, 1.0)]}
    one.predict_proba = np.array([0.05, 0.3, 0.1, 0.25, 0.2, 0.06, 0.04])
    rows = Shown(one._repr_html_()).tables()["Prediction probabilities"]
    assert [(name, value) for name, _, value in rows] == [
        ("b", "0.300"),
        ("d", "0.250"),
        ("e", "0.200"),
        ("c", "0.100"),
        ("Other", "0.150"),
    ]
    one.predict_proba = one.predict_proba[:5]
    assert len(Shown(one._repr_html_()).tables()["Prediction probabilities"]) == 5
    one.predict_proba, one.predictions = None, {0: 12.0}
    assert Shown(one._repr_html_()).tables()["Predictions"] == [["a", "", "12.000"]]


def test_a_regression_has_its_value_between_the_least_and_the_largest():
    one = regression(TableDomainMapper(["a", "b"], ["1", "2"]))
    tables = Shown(one.as_html(labels=[17])).tables()  # labels are ignored, as in lime
    assert tables["Predicted value: 150, between the samples' least and largest"] == [["25 346"]]
    assert tables["Weights R² fitted 0.50"] == [["b", "", "+30.0 ±2.0"], ["a", "", "-20.0 ±29.4"]]
    assert tables["Values and weights"][1:] == [["b", "2", "+30.0"], ["a", "1", "-20.0"]]
    assert not any(caption.startswith("Predicted") for caption in Shown(one.as_html(show_predicted_value=False)).tables())
    one.min_value = one.max_value = np.nan
    assert Shown(one.as_html()).tables()["Predicted value"] == [["150"]]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[EVIL, "True", "+0.500"], ["width", "2.8", "-0.250"]]),
        ({"show_all": True}, [["width", "2.8", "-0.250"], [EVIL, "True", "+0.500"], ["age", "<nan>", "\N{EN DASH}"]]),
    ],
)
def test_a_row_is_a_table_of_values(options, expected):
    tables = Shown(classification(table_mapper()).as_html(**options)).tables()
    rows = tables["Values and weights for and against positive"]
    assert rows == [["column", "value", "weight"], *expected]
    assert (
        "Values and weights for and against positive"
        not in Shown(classification(table_mapper()).as_html(show_table=False)).tables()
    )


def test_a_sparse_row_has_the_columns_with_a_value():
    mapper = TableDomainMapper(list("abcd"), ["1.5", "2.5"], feature_indexes=[0, 3])
    one = classification(mapper, {2: [(3, 0.5), (1, 0.25)]})
    rows = {options: Shown(one.as_html(show_all=options)).tables() for options in (False, True)}
    title = "Values and weights for and against positive"
    assert rows[False][title][1:] == [["d", "2.5", "+0.500"], ["b", "0", "+0.250"]]
    assert rows[True][title][1:] == [["a", "1.5", "\N{EN DASH}"], ["d", "2.5", "+0.500"]]


def test_bars_begin_at_zero_and_hold_their_intervals_on_one_scale():
    one = classification(weights={2: [(1, 0.5), (0, -0.25)], 1: [(2, 0.125)]})
    one.standard_errors[2][0] = 0.2
    source = one.as_html(predict_proba=False)
    page = Shown(source)
    bars = page.all("rect")
    widths = [float(bar["width"]) for bar in bars]
    zeros = {float(re.match(r"M([\d.]+) 0", line["d"])[1]) for line in page.all("path")[:2]}
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.01)
    assert len(zeros) == 1
    zero = zeros.pop()
    assert float(bars[0]["x"]) == zero
    assert float(bars[1]["x"]) + widths[1] == pytest.approx(zero, abs=0.2)
    assert [bar["fill"] for bar in bars] == [shades.FOR, shades.AGAINST, shades.FOR]
    assert ["stroke-dasharray" in bar for bar in bars] == [False, True, False]  # the interval of part 0 holds 0
    assert page.source.count("faded: the sign is not certain at 95 %") == 1
    one.standard_errors = {}
    assert "±" not in one.as_html()
    assert "faded" not in one.as_html()


def test_nothing_is_executed_requested_or_leaked():
    one = Explanation(TextDomainMapper([EVIL, "b"], f"{EVIL} b <style>", [[(0, len(EVIL))], []]), class_names=[EVIL, "<b>"])
    one.local_exp, one.predict_proba = {0: [(0, 0.5), (1, -0.5)]}, np.array([0.5, 0.5])
    row = classification(TableDomainMapper([EVIL] * 3, [EVIL] * 3))
    for fragment in (one._repr_html_(), row._repr_html_(), ExplanationList([one, row])._repr_html_()):
        page = Shown(fragment)
        assert {element["tag"] for element in page.elements} <= TAGS | DRAWN
        attributes = {name for element in page.elements for name in element} - {"tag", "text"}
        assert not [name for name in attributes if name.startswith("on") or name in ("id", "class", "src", "href")]
        assert "url(" not in fragment
        assert escape(EVIL) in fragment
    document = one.as_html()
    assert document.startswith('<!DOCTYPE html><html lang="en" style="color-scheme:light dark"><head><meta charset="utf-8">')
    assert "<style" not in document
    assert "<script" not in document
    assert one._repr_html_() in document


def test_a_usual_explanation_is_small():
    words = [f"word{i}" for i in range(200)]
    text = " ".join(words)
    starts = np.cumsum([0, *(len(word) + 1 for word in words)])
    mapper = TextDomainMapper(words, text, [[(a, a + len(word))] for a, word in zip(starts[:-1], words, strict=True)])
    one = classification(mapper, {label: [(i, 0.1 * (-1) ** i / (i + 1)) for i in range(10)] for label in (2, 1)})
    assert len(one.as_html().encode()) < 15_000
    wide = TableDomainMapper([f"column_{i}" for i in range(200)], ["1.25"] * 200)
    row = classification(wide, {2: [(i, 0.1 / (i + 1)) for i in range(10)]})
    assert len(row.as_html().encode()) < 10_000
    five = {label: [(i, 0.1 / (i + 1)) for i in range(12)] for label in range(5)}
    several = classification(mapper, five)
    several.top_labels = None
    assert len(several._repr_html_().encode()) < 15_000
    assert several._repr_html_().count("and 7 more parts") == 5
    assert several.as_html().count("and 7 more parts") == 5


def weights_of_all(count, labels):
    """Weights of all parts for some labels, with standard errors."""
    return {label: [(i, 0.1 * (-1) ** i / (i + 1)) for i in range(count)] for label in range(labels)}


@pytest.mark.parametrize("labels", [1, 2, 3])
@pytest.mark.parametrize("columns", [10, 200])
def test_a_page_of_many_columns_is_small_and_counts_the_rest(labels, columns):
    names = [f"column_{i}" for i in range(columns)]
    mapper = TableDomainMapper(names, ["1.25"] * columns, [f"1.00 < {name} <= 2.50" for name in names])
    one = classification(mapper, weights_of_all(columns, labels))
    one.top_labels, one.standard_errors = None, {label: dict.fromkeys(range(columns), 0.01) for label in range(labels)}
    page = one.as_html()
    assert len(page.encode()) < 15_000
    if columns == 10:
        assert "more" not in page
        return
    assert page.count(f"and {200 - 20 // labels} more parts") == labels
    rows = {options: Shown(one.as_html(show_all=options)).tables() for options in (False, True)}
    (few,), (every,) = ([t for c, t in rows[o].items() if c.startswith("Values and weights")] for o in rows)
    assert [row[0] for row in few[1:]] == names[:30]
    assert [row[0] for row in every[1:]] == names
    assert "and 170 more columns" in page
    assert "more columns" not in one.as_html(show_all=True)


@pytest.mark.parametrize("labels", [1, 2, 3, 5])
@pytest.mark.parametrize("name", ["mean radius of cell {}", "a rather long column name number {}", "{} & <b>" + 120 * "\u00fc"])
@pytest.mark.parametrize("columns", [10, 30, 200])
def test_a_page_of_long_names_is_small_and_counts_the_rest(labels, name, columns):
    names = [name.format(i) for i in range(columns)]
    mapper = TableDomainMapper(names, ["1.25"] * columns, [f"1.00 < {name} <= 2.50" for name in names])
    one = classification(mapper, weights_of_all(columns, labels))
    one.top_labels, one.standard_errors = None, {label: dict.fromkeys(range(columns), 0.01) for label in range(labels)}
    for page in (one.as_html(), one._repr_html_()):
        assert len(page.encode()) < 15_000
        for caption, rows in list(Shown(page).tables().items())[1:]:
            here = len(rows) - caption.startswith("Values")  # its first row is the heading
            assert here >= 1
            assert here == columns or f"and {columns - here} more" in page
    assert len(Shown(one.as_html(show_all=True)).all("svg")) > labels  # all columns of the table cost no bar


def test_a_page_of_a_thousand_words_is_small_beside_its_text():
    words = [f"word{i}" for i in range(1000)]
    text = " ".join(words)
    starts = np.cumsum([0, *(len(word) + 1 for word in words)])
    mapper = TextDomainMapper(words, text, [[(a, a + len(word))] for a, word in zip(starts[:-1], words, strict=True)])
    one = classification(mapper, weights_of_all(1000, 3))
    one.top_labels, one.standard_errors = None, {label: dict.fromkeys(range(1000), 0.01) for label in range(3)}
    assert len(one.as_html().encode()) < 15_000 + len(text)
    assert one.as_html().count("and 994 more parts") == 3


def test_long_names_are_broken_into_lines_and_shortened():
    name, shown = "a" * 100 + "b" * 100, f"{'a' * 50}\N{HORIZONTAL ELLIPSIS}{'b' * 49}"
    one = classification(TableDomainMapper([name, "b", "c"], [name, "1", "2"]))
    one.class_names = ["a", "b", name]
    several = ExplanationList([one])
    for fragment in (one._repr_html_(), several._repr_html_()):
        broken = Shown(fragment).all("bdi", text=shown)
        assert broken
        assert len(broken) == fragment.count(shown)
        assert name not in fragment
        assert all("overflow-wrap:anywhere" in element["style"] for element in broken)
        assert any("max-width:24em" in element["style"] for element in broken)  # in cells


@pytest.mark.parametrize("theme", THEMES)
def test_text_has_a_contrast_of_at_least_four_and_a_half(theme):
    text, ground = (rgb(colour) for colour in THEMES[theme])
    assert contrast(text, ground) >= 4.5
    assert contrast(mixed(text, ground, float(re.search(r"opacity:([\d.]+)", markup.QUIET)[1])), ground) >= 4.5
    for sign in (1, -1):
        colour = markup.tint(sign, 1.0, False)
        assert contrast(text, mixed(rgb(colour), ground, int(colour[7:], 16) / 255)) >= 4.5


def test_the_contrast_is_that_of_the_guidelines():
    assert contrast(rgb("#000000"), rgb("#ffffff")) == pytest.approx(21)
    assert contrast(rgb("#767676"), rgb("#ffffff")) == pytest.approx(4.54, abs=0.01)
    assert contrast(rgb("#ffffff"), rgb("#ff7f0e")) < 2.6  # lime's white on orange


def rgb(colour):
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], dtype=float)


def mixed(over, under, opacity):
    return opacity * over + (1 - opacity) * under


def contrast(one, other):
    """WCAG 2.1's ratio of relative luminances, 1 to 21."""
    light = []
    for colour in (one, other):
        part = colour / 255
        linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
        light.append(float(linear @ [0.2126, 0.7152, 0.0722]))
    return (max(light) + 0.05) / (min(light) + 0.05)


def test_weights_that_are_missing_or_not_finite_break_nothing():
    one = classification(weights={2: [(1, np.nan), (0, 0.0)], 1: []})
    page = Shown(one._repr_html_())
    assert page.all("mark") == []
    assert len(page.all("table")) == 3
    assert Explanation(DomainMapper())._repr_html_() == "<p>an explanation without labels</p>"


def test_overlapping_and_absent_words_are_marked_once_or_not_at_all():
    mapper = TextDomainMapper(["abc", "bc", "d"], "abcd", [[(0, 3)], [(1, 3)], []])
    page = Shown(classification(mapper, {2: [(0, 0.5), (1, 0.4), (2, 0.3)]}).as_html(labels=[2]))
    assert page.texts("mark") == ["abc"]
    assert page.texts("div", dir="auto") == ["abcd"]


def test_only_the_strongest_words_are_marked():
    letters = [chr(0x4E00 + i) for i in range(60)]
    mapper = TextDomainMapper(letters, "".join(letters), [[(i, i + 1)] for i in range(60)])
    page = Shown(classification(mapper, {2: [(i, 1 - i / 100) for i in range(60)]}).as_html(labels=[2]))
    assert page.texts("mark") == letters[:40]
    assert "solid lines of its 40 strongest words are for positive" in page.source
    few = Shown(classification(mapper, {2: [(0, 1.0), (1, 0.5), (2, -0.01)]}).as_html(labels=[2]))
    assert few.texts("mark") == letters[:2]


def test_words_that_the_model_never_sees_are_counted():
    seen, unseen = (TextDomainMapper(WORDS, TEXT, SPANS, unseen) for unseen in ([], [1, 2]))
    assert "does not see" not in classification(seen).as_html()
    page = classification(unseen).as_html(labels=[2])
    assert "The model does not see 2 of 3 words, such as bad; their weights are noise, and not shown." in page
    assert Shown(page).texts("mark") == ["good", "good"]
    assert [row[0] for row in list(Shown(page).tables().values())[1]] == ["good"]
    assert "bad" not in ExplanationList([classification(unseen)])._repr_html_()


def test_negative_numbers_have_one_sign():
    one = classification(table_mapper())
    one.scores_loo, one.predictions, one.predict_proba = {2: -0.36, 1: -0.5}, {2: 0.625, 1: -0.25}, None
    one.intercept, one.local_preds = {2: -0.2}, {2: -0.6}
    for source in (one._repr_html_(), ExplanationList([one])._repr_html_()):
        said = " ".join(element["text"] for element in Fragment(source).elements)
        assert "\N{MINUS SIGN}0.250" in said
        assert not re.search(r"-\d", said)
    assert "R2 left out -0.36" in repr(one)  # on a terminal


def test_several_are_a_table_with_the_strongest_parts():
    several = ExplanationList([classification(), regression(table_mapper()), *[classification()] * 20])
    page = Shown(several._repr_html_())
    (rows,) = page.tables().values()
    assert rows[:3] == [
        ["input", "label", "prediction", "strongest parts"],
        ["0", "positive", "0.625", "bad +0.500 good -0.250"],
        ["1", "value", "150.000", f"{EVIL} +30.0 width <= 3.00 -20.0"],
    ]
    assert len(rows) == 1 + html.MOST_INPUTS
    assert page.texts("p") == ["and 10 more inputs"]


def test_batches_of_texts_and_rows_are_tables_too():
    values = batch()
    texts = {"texts": [TEXT] * 2, "words": [WORDS] * 2, "spans": [SPANS] * 2, "unseen": torch.zeros(2, 3, dtype=torch.bool)}
    rows = {"names": [BINS] * 2, "features": [COLUMNS] * 2, "values": [VALUES] * 2, "columns": torch.arange(3).expand(2, 3)}
    rows |= {"bounds": torch.full((2, 2), torch.nan)}
    for kind, more in ((ExplainedTexts, texts), (ExplainedRows, rows)):
        page = Shown(kind(**vars(values), **more)._repr_html_())
        (found,) = page.tables().values()
        assert [row[:2] for row in found[1:]] == [["0", "positive"], ["1", "positive"]]


def test_a_file_is_the_page_in_utf8(tmp_path):
    one = classification()
    one.save_to_file(tmp_path / "one.html", labels=[2], text=True)
    one.save_to_file(str(tmp_path / "two.html"), [2])
    saved = (tmp_path / "one.html").read_bytes().decode("utf-8")
    assert saved == one.as_html(labels=[2])
    assert (tmp_path / "two.html").read_text(encoding="utf-8") == saved
    assert "\N{PARTY POPPER}" in saved
    one.class_names = ["a", "b", "cut off \ud83c"]
    one.save_to_file(tmp_path / "three.html")
    assert "cut off \\ud83c" in (tmp_path / "three.html").read_text(encoding="utf-8")


def test_a_notebook_gets_the_fragment_through_the_public_module(monkeypatch):
    shown = []
    module = types.ModuleType("IPython.display")
    module.HTML, module.display = (lambda data: ("HTML", data)), shown.append
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    one = classification()
    assert one.show_in_notebook(text=True) is None
    assert shown == [("HTML", one._repr_html_())]
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    with pytest.raises(GpulimeError, match="show_in_notebook needs IPython: pip install ipython"):
        one.show_in_notebook()


def test_ipython_itself_shows_it(monkeypatch):
    display, shown = pytest.importorskip("IPython.display"), []
    monkeypatch.setattr(display, "display", shown.append)
    one = classification()
    one.show_in_notebook(text=True)
    assert [type(what) for what in shown] == [display.HTML]
    assert shown[0].data == one._repr_html_()


def test_drawing_takes_nothing_from_the_random_state():
    state = np.random.RandomState(0)
    one = Explanation(text_mapper(), class_names=NAMES, random_state=state)
    one.local_exp, one.predict_proba = {1: [(0, 0.5)]}, np.array([0.5, 0.25, 0.25])
    assert one.as_html() == one.as_html()
    assert state.randint(1000) == np.random.RandomState(0).randint(1000)
