"""The page of a run: self-contained, for any names of images, with colours that match the numbers."""

from __future__ import annotations

import base64
import datetime
import hashlib
import io
import itertools
import json
import re

import numpy as np
import pytest
from markup import Page
from PIL import Image, ImageColor
from skimage import data, segmentation

from gpulime.explanations import shades
from gpulime.runs.reading.pixels import Shown
from gpulime.runs.store import store
from gpulime.views.report import overlay, page
from gpulime.views.report.template import visible

HOSTILE = ["</script><b>x", "../x", "two\nlines", "\u202egpj.exe", "\"'><img src=http://a.b onerror=x>", "{{ 7 * 7 }}"]
PHOTOS = {name: np.ascontiguousarray(getattr(data, name)()[:224, :224]) for name in ("chelsea", "coffee", "astronaut")}
BLUE, ORANGE = ImageColor.getrgb(shades.FOR), ImageColor.getrgb(shades.AGAINST)


def row(image_id, **changes):
    common = {"image_id": image_id, "path": b"", "attempt": 1, "n_samples": 1000, "seed": 0, "config_hash": "0f" * 8}
    return common | {"written_at": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)} | changes


# Of a row whose target alone is explained.
TARGET_ALONE = {
    "labels": [1],
    "pred_probs": [0.1],
    "r2": [0.5],
    "r2_loo": None,
    "intercept": [0.1],
    "coef": [[1, 0, 0]],
    "target": 1,
}


def explained(image_id, labels, coef, **changes):
    seg, seg_dtype = store.encode_segments(labels)
    h, w = labels.shape
    sizes = {"h": h, "w": w, "n_segments": int(labels.max()) + 1, "seg": seg, "seg_dtype": seg_dtype}
    facts = {
        "labels": [1, 2],
        "pred_probs": [0.75, 0.125],
        "r2": [0.6, None],
        "r2_loo": [0.5, None],
        "intercept": [0.1, 0.2],
        "segmenter": "slic",
    }
    facts |= changes
    predicted_prob, prediction = max(zip(facts["pred_probs"], facts["labels"], strict=True))
    predicted = {"prediction": prediction, "predicted_prob": predicted_prob}
    return row(image_id, status="ok", coef=[coef, coef], **(sizes | predicted | facts))


def failed(image_id, **changes):
    return row(image_id, status="error", error_type="decode", error=f"cannot read {image_id}", **changes)


def of(pixels):
    return pixels if pixels is None or isinstance(pixels, Shown) else Shown(pixels)


def show(run, *rows, picture=lambda row: PHOTOS.get(row["image_id"]), class_names=("tench", "tabby", "lynx"), **manifest):
    with store.Store(run) as results:
        for one in rows:
            results.append(one)
    store.write_manifest(run, {"model": "efficientnet-lite0", "config_hash": "0f" * 8, **manifest})
    assert page.write(run, lambda row: of(picture(row)), class_names) == run / "report.html"
    return Page(run / "report.html")


HALVES = np.repeat([[0, 1, 2]], 12, axis=0).repeat(4, axis=1)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Three photographs with plausible explanations, and failures with every kind of name."""
    random = np.random.default_rng(0)
    rows = []
    for name, photo in PHOTOS.items():
        labels = segmentation.slic(photo, n_segments=60, start_label=0)
        rows.append(explained(name, labels, random.normal(size=labels.max() + 1)))
    return show(tmp_path_factory.mktemp("runs") / "night", *rows, *map(failed, HOSTILE))


def test_the_page_needs_nothing_else(shown):
    assert not [element["tag"] for element in shown.elements if element["tag"] in ("link", "iframe", "base")]
    assert [script.get("type") for script in shown.all("script")] == ["application/json", None]
    assert not [element["tag"] for element in shown.elements if "src" in element and element["tag"] != "img"]
    assert not [name for element in shown.elements for name in element if name.startswith("on") or name == "srcset"]
    assert all(link["href"].startswith("#") for link in shown.all("a"))
    assert all(image["src"].startswith("data:image/png;base64,") for image in shown.all("img"))
    styles = [element.get("style") or "" for element in shown.elements] + [style["text"] for style in shown.all("style")]
    targets = re.findall(r"url\(([^)]*)\)", "".join(styles))
    assert targets
    assert all(target.startswith("data:image/jpeg;base64,") for target in targets)
    assert "@import" not in shown.source


def test_a_policy_forbids_everything_but_its_own_pictures_and_styles(shown):
    (policy,) = shown.all("meta", **{"http-equiv": "Content-Security-Policy"})
    script = shown.all("script")[-1]["text"]
    rules = dict(rule.split(maxsplit=1) for rule in policy["content"].split("; "))
    assert rules == {
        "default-src": "'none'",
        "img-src": "data: blob:",
        "script-src": f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'",
        "style-src": "'unsafe-inline'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    # A policy holds only for what follows it.
    assert [element["tag"] for element in shown.elements[:4]] == ["html", "head", "meta", "meta"]


def test_one_card_per_image_with_texts_for_its_pictures(shown):
    assert len(shown.all("article")) == len(PHOTOS)
    assert shown.texts("h3") == list(PHOTOS)
    for name, plain, coloured in zip(PHOTOS, shown.all("div", role="img"), shown.all("img"), strict=True):
        assert plain["aria-label"] == f"{name}, as the model saw it"
        assert coloured["alt"] == f"{name} with the segments that speak for tabby in blue and against it in orange"


def test_headings_form_an_outline(shown):
    levels = [element["tag"] for element in shown.elements if re.fullmatch("h[1-6]", element["tag"])]
    assert levels == ["h1", "h2", "h3", "h3", "h3", "h2"]
    assert shown.texts("h1") == ["night"]
    assert shown.texts("title")[:1] == ["night · efficientnet-lite0, 2026-01-02 · LIME explanations"]
    assert shown.all("html")[0]["lang"] == "en"


def test_one_segment_and_a_large_output(tmp_path):
    whole = explained("x", np.zeros((36, 36), int), [0.5], pred_probs=[1e30, -20000.0])
    damaged = explained("y", HALVES, [0.5, 0.1, 0.2], n_segments=5)
    shown = show(tmp_path / "run", whole, damaged)
    assert any(text.endswith("1 segment") for text in shown.texts("small"))
    assert {"1e+30", "\N{MINUS SIGN}2e+04"} <= set(shown.texts("td"))
    assert "1, slic" in shown.texts("dd")  # the damaged row is not counted


def test_the_head_sums_up_the_run(shown):
    summary = dict(zip(shown.texts("dt"), shown.texts("dd"), strict=True))
    assert re.fullmatch(r"\d+ to \d+, slic", summary.pop("Segments per image"))
    assert summary == {
        "Images": "9",
        "Explained": "3",
        "Failed": "6",
        "Samples per image": "1,000",
    }


def test_failures_are_listed_and_their_names_are_text(shown):
    cells = shown.texts("code")[: len(HOSTILE)]
    assert cells == ["</script><b>x", "../x", "two\\nlines", "\\u202egpj.exe", HOSTILE[4], "{{ 7 * 7 }}"]
    assert "cannot read two\\nlines" in shown.texts("td")
    assert not shown.all("b")
    assert len(shown.all("img")) == len(PHOTOS)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_stays_text_in_a_card(tmp_path, name):
    shown = show(tmp_path, explained(name, HALVES, [1, 0, -1]), class_names=["", name], picture=lambda row: PHOTOS["coffee"])
    text = visible(name)
    assert shown.all("h3")[0]["text"] == text
    assert text in [cell["text"] for cell in shown.all("td")]
    assert shown.all("img")[0]["alt"].startswith(f"{text} with the segments that speak for {text}")
    assert [len(shown.all(tag)) for tag in ("b", "script", "img")] == [0, 2, 1]
    assert [entry[0] for entry in index(shown)["images"]] == [text]


def test_an_image_costs_29_kb_and_its_pictures_are_there_once(tmp_path):
    """With style, script and index, in a run of a hundred; photographs of ImageNet take as much as these."""
    random = np.random.default_rng(0)
    maps = {name: segmentation.slic(photo, n_segments=60, start_label=0) for name, photo in PHOTOS.items()}
    rows = []
    for i, name in zip(range(100), itertools.cycle(PHOTOS)):
        coef = random.normal(size=(5, maps[name].max() + 1))
        facts = {
            "labels": range(5),
            "pred_probs": [0.2] * 5,
            "r2": [0.5] * 5,
            "r2_loo": [0.4] * 5,
            "intercept": [0.1] * 5,
            "coef": list(coef),
            "coef_se": list(random.random(coef.shape)),  # a third of the signs are not certain
        }
        rows.append(explained(f"{i}/{name}", maps[name], []) | facts)
    shown = show(tmp_path, *rows, picture=lambda row: PHOTOS[row["image_id"].partition("/")[2]])
    assert shown.source.count("data:image/jpeg") == len(rows)
    assert shown.source.count("data:image/png") == 2 * len(rows)  # the map, and the mask of the hatching
    assert len(shown.source) < 29_000 * len(rows)
    assert "\n " not in shown.source.partition("<main>")[2].partition("<script")[0]  # the template's indentation is not there


def test_the_top_label_is_explained_first(tmp_path):
    facts = {
        "coef": [[0.5, 0, 0], [-0.25, 0.03, 0.125]],
        "pred_probs": [0.25, 0.5],
        "prediction": 2,
        "predicted_prob": 0.5,
        "r2": [1, float("nan")],
        "target": 0,
        "r2_loo": [-0.25, None],
    }
    shown = show(tmp_path, explained("chelsea", HALVES, [1, 0, 0]) | facts)
    cells = shown.texts("td")
    assert cells == ["lynx", "0.500", "\N{EN DASH}", "\N{EN DASH}", "tabby", "0.250", "\N{MINUS SIGN}0.25", "1.00"]
    assert shown.texts("small") == ["wrong · target tench · 3 segments"]
    assert shown.texts("li") == ["#0 \N{MINUS SIGN}0.250", "#2 +0.125", "#1 +0.030"]
    assert shown.texts("p", **{"class": "scale"}) == ["\N{MINUS SIGN}0.250+0.250"]
    assert "for lynx" in shown.all("img")[0]["alt"]
    widths = [element["style"] for element in shown.elements if (element.get("class") or "").startswith("bar")]
    assert widths == ["width: 100.0%", "width: 50.0%", "width: 12.0%"]


def test_labels_without_names_are_numbers(tmp_path):
    for names in (None, ["tench"]):
        assert show(tmp_path, explained("chelsea", HALVES, [1, 0, 0]), class_names=names).texts("td")[0] == "class 1"


@pytest.mark.parametrize("noise", [0, 1e-16, 4e-13])
def test_a_constant_model_has_no_strongest_segment_and_no_colour(tmp_path, noise):
    shown = show(tmp_path, explained("chelsea", HALVES, [noise, -noise, 0], r2=[None, None]))
    assert not shown.all("li")
    assert set(np.unique(pixels(shown.all("img")[0]["src"])[..., 3])) == {0, overlay.OUTLINE[3]}
    assert "hidden" in shown.all("p", **{"class": "scale"})[0]
    assert "None: the prediction does not change when segments are hidden." in shown.texts("p")


def test_the_title_says_which_model_and_when(tmp_path, monkeypatch):
    then = datetime.datetime(2026, 1, 4, tzinfo=datetime.UTC)
    one, other = explained("a", HALVES, [1, 0, 0]), explained("b", HALVES, [1, 0, 0], written_at=then)
    assert show(tmp_path / "run", one).texts("title")[0] == "run · efficientnet-lite0, 2026-01-02 · LIME explanations"
    monkeypatch.setattr(page, "MOST_CARDS", 1)
    shown = show(tmp_path / "run", other)
    title = "run · efficientnet-lite0, 2026-01-02 to 2026-01-04 · page 1 of 2 · LIME explanations"
    assert (shown.texts("title")[0], shown.texts("h1")) == (title, ["run"])
    assert shown.texts("p")[1] == "efficientnet-lite0, 2026-01-02 to 2026-01-04"


def test_a_picture_that_cannot_be_had_leaves_a_plain_ground(tmp_path):
    shown = show(tmp_path, explained("gone", HALVES, [1, 0, 0]))
    assert shown.source.count("data:image/jpeg") == 0
    assert "no picture" in shown.all("article")[0]["text"]


def index(shown):
    return json.loads(shown.all("script", id="index")[0]["text"])


def test_a_long_run_has_pages_that_know_of_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST_CARDS", 2)
    monkeypatch.setattr(page, "MOST_FAILURES", 3)
    ours = "<meta charset=utf-8><title>night · page {} of 9 · LIME explanations</title>"
    for number in (4, 9):
        (tmp_path / f"report-{number}.html").write_text(ours.format(number), encoding="utf-8")
    kept = {"report-20261128.html": ours.format(1), "report-7.html": "about the report", "report-mine.html": ours.format(2)}
    for name, text in kept.items():  # a copy of a page, another program's, another name
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "report-8.html").mkdir()
    rows = [explained(f"{i}", HALVES, [1, 0, 0], target=i % 2) for i in range(5)] + [failed(f"bad {i}") for i in range(4)]
    first = show(tmp_path, *rows)
    assert sorted(path.name for path in tmp_path.glob("*.html")) == [
        "report-2.html",
        "report-20261128.html",
        "report-3.html",
        "report-7.html",
        "report-8.html",
        "report-mine.html",
        "report.html",
    ]
    pages = [first, Page(tmp_path / "report-2.html"), Page(tmp_path / "report-3.html")]
    assert [one.texts("h3") for one in pages] == [["0", "1"], ["2", "3"], ["4"]]
    turns = [dict.fromkeys((link["href"], link["rel"]) for link in one.all("a") if "rel" in link) for one in pages]
    assert [list(turn) for turn in turns] == [
        [("report-2.html", "next")],
        [("report.html", "prev"), ("report-3.html", "next")],
        [("report-2.html", "prev")],
    ]
    for number, one in enumerate(pages):
        assert (index(one)["first"], index(one)["start"]) == (0, 2 * number)
        assert [entry[0] for entry in index(one)["images"]] == list("01234")
        assert [entry[4] for entry in index(one)["images"]] == [0, 1, 0, 1, 0]
        assert one.texts("h2") == ["Explained", "Failed"][: 2 if number == 0 else 1]
        facts = dict(zip(one.texts("dt"), one.texts("dd"), strict=True))
        assert facts["Accuracy"] == "40.0 % (2 of 5)"
    assert [text for text in first.texts("p") if "more are in" in text] == ["1 more are in the results."]


def test_pages_of_a_very_long_run_know_their_own_images(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST_CARDS", 2)
    monkeypatch.setattr(page, "MOST_INDEXED", 3)
    show(tmp_path, *[explained(f"{i}", HALVES, [1, 0, 0]) for i in range(5)])
    facts = index(Page(tmp_path / "report-2.html"))
    assert (facts["first"], facts["start"], facts["whole"], facts["total"], facts["targets"]) == (2, 2, False, 5, False)
    assert [entry[0] for entry in facts["images"]] == ["2", "3"]
    assert [entry[0] for entry in index(Page(tmp_path / "report.html"))["images"]] == list("01234")  # the first knows all ...
    monkeypatch.setattr(page, "MOST_INDEXED_FIRST", 4)  # ... but not without end
    assert [entry[0] for entry in index(show(tmp_path))["images"]] == ["0", "1"]


def test_right_and_wrong_are_those_of_the_predictions_if_targets_alone_are_explained(tmp_path):
    rows = [explained(str(label), HALVES, [1, 0, 0], prediction=label, predicted_prob=0.9) | TARGET_ALONE for label in (0, 1)]
    shown = show(tmp_path, *rows, fixed={"lime.labels": "target"})
    assert "50.0 % (1 of 2)" in shown.texts("dd")
    assert {"wrong · target tabby · 3 segments", "right · target tabby · 3 segments"} <= set(shown.texts("small"))


def test_nothing_is_said_of_right_and_wrong_where_only_targets_are_explained(tmp_path):
    facts = TARGET_ALONE | dict.fromkeys(["prediction", "predicted_prob"])  # a row of an earlier version
    shown = show(
        tmp_path,
        explained("a", HALVES, [1, 0, 0]) | facts,
        fixed={"lime.labels": "target", "lime.activation": None},
        versions={"torch": "2.6"},
    )
    assert "Accuracy" not in shown.texts("dt")
    assert shown.texts("small")[0] == "target tabby · 3 segments"
    assert shown.texts("th")[:3] == ["lime.labels", "lime.activation", "torch"]
    assert shown.texts("th", **{"class": "number"}) == ["Output", "R² left out", "fitted"]


def test_the_settings_and_versions_of_the_run_are_listed(tmp_path):
    fixed = {"lime.n_samples": 1000, "lime.segments": {"slic": {"n_segments": 60}}, "lime.kernel": None, "lime.fill": "mean"}
    shown = show(tmp_path, explained("a", HALVES, [1, 0, 0]), fixed=fixed, versions={"torch": "2.6", "gpulime": "1.0"})
    settings = [element["text"].split() for element in shown.all("tr") if "scope" not in element]
    assert [" ".join(words) for words in settings][:6] == [
        "lime.n_samples1000",
        'lime.segments{"slic": {"n_segments": 60}}',
        "lime.kernelnone",
        "lime.fillmean",
        "torch2.6",
        "gpulime1.0",
    ]


def test_scores_are_counted_in_bins_and_those_below_zero_apart(tmp_path):
    values = [-3.0, 0.0, 0.52, 0.549, 1.0, None]
    scores = [{"r2": [0.9, None], "r2_loo": [value, None]} for value in values]
    shown = show(tmp_path, *[explained(f"{i}", HALVES, [1, 0, 0], **one) for i, one in enumerate(scores)])
    bins = [title["text"] for title in shown.all("rect") if not title["text"].endswith(": 0")]
    assert bins == [
        "R² left out below 0: 1",
        "R² left out 0.00 to 0.05: 1",
        "R² left out 0.50 to 0.55: 2",
        "R² left out 0.95 to 1.00: 1",
    ]
    assert shown.texts("figcaption") == ["R² left out of the top label, median 0.52; R² fitted 0.90"]
    assert [entry[3] for entry in index(shown)["images"]] == values


def test_a_run_without_scores_left_out_shows_those_fitted(tmp_path):
    shown = show(tmp_path, explained("a", HALVES, [1, 0, 0], r2_loo=None))
    assert shown.texts("figcaption") == ["R² fitted of the top label, median 0.60"]
    assert shown.texts("legend") == ["Probability", "R² fitted"]
    assert shown.texts("td")[:4] == ["tabby", "0.750", "\N{EN DASH}", "0.60"]
    assert [entry[3] for entry in index(shown)["images"]] == [0.6]


def test_how_far_a_score_is_below_zero_is_not_told_without_end(tmp_path):
    shown = show(tmp_path, explained("a", HALVES, [1, 0, 0], r2_loo=[-1e60, None]))
    assert shown.texts("td")[2] == "< \N{MINUS SIGN}10"
    assert shown.texts("figcaption") == ["R² left out of the top label, median < \N{MINUS SIGN}10; R² fitted 0.60"]


def test_a_card_tells_what_to_know_before_believing_it(tmp_path):
    """Few samples, and an output that hardly moves, whose colours are faint."""
    still = "this output hardly moves: ..."
    rows = [
        explained("few", HALVES, [1, 0, 0], n_samples=5, note=[None, still]),
        explained("still", HALVES, [1, 0, 0], note=[still, None]),
    ]
    few, faint = (shown := show(tmp_path, *rows)).all("article")
    notes = [element for element in shown.all("p") if (element.get("class") or "").startswith("note")]
    assert [(one["text"], "hidden" in one) for one in notes if one["class"] != "nothing"] == [
        (
            "n_samples (5) is below twice the number of segments (2 x 3): coefficients are uncertain.",
            False,
        ),
        ("", True),
        (still, False),
    ]
    assert (few["class"], faint["class"]) == ("card", "card faint")
    assert [one.get("data-note") for one in shown.all("tr") if "data-coefficients" in one] == [None, still, still, None]


def test_a_card_has_the_coefficients_of_every_label_once(tmp_path):
    coef = [[0.5, -0.25, 0.001], [0.03, 0.0, -0.06]]
    shown = show(tmp_path, explained("a/b.png", HALVES, coef[0], target=2) | {"coef": coef})
    rows = [element for element in shown.all("tr") if "data-coefficients" in element]
    values = [[int(v) / 10 ** int(one["data-decimals"]) for v in one["data-coefficients"].split()] for one in rows]
    assert values == coef
    assert ["data-target" in one for one in rows] == [False, True]
    (card,) = shown.all("article")
    assert [int(part) for part in card["data-spots"].split()] == [0, 125, 458, 1, 458, 458, 2, 792, 458]
    assert shown.texts("span", **{"class": "folder"}) == ["a/"]


COEF = [[0.5, -0.25, 0.01], [-0.04, 0.01, 0.02]]
ERRORS = [[0.1, 0.2, 0.0], [0.01, 0.002, 0.1]]  # not certain are the signs of segment 1, and for the second label of segment 2


def test_a_card_has_intervals_and_hatches_segments_of_uncertain_sign(tmp_path):
    shown = show(tmp_path, explained("a.png", HALVES, []) | {"coef": COEF, "coef_se": ERRORS})
    rows = [element for element in shown.all("tr") if "data-coefficients" in element]
    assert [row["data-unsure"] for row in rows] == ["1", "2"]
    assert [row["data-halves"] for row in rows] == ["196.0 392.0 0.0", "196.0 1960.0 39.2"]
    assert "Strongest segments for tabby, with 95 % intervals" in shown.texts("p", **{"class": "quiet"})
    intervals = ["95 % interval +0.304 to +0.696", "95 % interval \N{MINUS SIGN}0.642 to +0.142, the sign is not certain"]
    intervals.append("95 % interval +0.010 to +0.010")
    assert [item["title"] for item in shown.all("li")] == intervals
    numbers = ["+0.500", "\N{MINUS SIGN}0.250", "+0.010"]
    said = [f"#{i} {number}, {interval}" for i, (number, interval) in enumerate(zip(numbers, intervals, strict=True))]
    assert shown.texts("li") == said
    bars = [element for element in shown.all("span") if element.get("class", "").startswith("bar")]
    assert [bar["class"] for bar in bars] == ["bar for", "bar against unsure", "bar for"]
    assert [bar["style"] for bar in bars] == ["width: 71.8%", "width: 35.9%", "width: 1.4%"]  # of 0.5 + 0.196
    lines = [element["style"] for element in shown.all("span", **{"class": "interval"})]
    assert lines == ["left: 43.7%; width: 56.3%", "left: 0.0%; width: 92.2%", "left: 1.4%; width: 0.0%"]
    (legend,) = shown.all("p", **{"class": "quiet hatched"})
    assert (legend["text"], "hidden" in legend) == ("Hatched: the sign is not certain at 95\xa0%", False)
    (image,) = shown.all("img")
    assert image["alt"].endswith(" against it in orange, hatched if the sign is not certain")
    coloured = pixels(image["src"])
    assert [coloured[200, x, 3] for x in (50, 150)] == [255, 64]  # a half of a half
    mask = pixels(re.search(r"url\((.*)\)", shown.all("div", **{"class": "hatch"})[0]["style"])[1])
    assert np.unique(np.flatnonzero(mask[..., 3].any(0))).tolist() == list(range(54, 107))
    assert set(np.unique(mask[..., 3])) == {0, 255}


def test_a_card_whose_signs_are_certain_is_not_hatched(tmp_path):
    shown = show(tmp_path, explained("a.png", HALVES, []) | {"coef": COEF, "coef_se": [[0.0] * 3, ERRORS[1]]})
    (legend,) = shown.all("p", **{"class": "quiet hatched"})
    assert "hidden" in legend
    assert "hatched" not in shown.all("img")[0]["alt"]
    assert not pixels(re.search(r"url\((.*)\)", shown.all("div", **{"class": "hatch"})[0]["style"])[1]).any()


@pytest.mark.parametrize("unknown", [None, [[None] * 3] * 2, [[float("nan"), 0.1, 0.1]] * 2])
def test_a_card_without_standard_errors_has_no_intervals(tmp_path, unknown):
    shown = show(tmp_path, explained("a.png", HALVES, []) | {"coef": COEF, "coef_se": unknown})
    assert shown.texts("li") == ["#0 +0.500", "#1 \N{MINUS SIGN}0.250", "#2 +0.010"]
    bars = [element for element in shown.all("span") if element.get("class", "").startswith("bar")]
    assert [bar["style"] for bar in bars] == ["width: 100.0%", "width: 50.0%", "width: 2.0%"]
    article = shown.source[shown.source.index("<article") : shown.source.index("</article>")]
    assert not re.search("hatch|unsure|interval|data-halves|title", article)


def test_kinds_of_failures_are_counted_and_paths_are_shown(tmp_path):
    rows = [failed("a", path=b"/data/a.jpg"), failed("b") | {"error_type": None}, failed("c", path=b"/data/\xff")]
    shown = show(tmp_path, *rows)
    assert "decode: 2, unknown: 1" in shown.texts("p")
    assert shown.texts("small", **{"class": "path"}) == ["/data/a.jpg", "/data/\\xff"]


def test_an_empty_run_still_has_a_page(tmp_path):
    shown = show(tmp_path)
    assert shown.texts("dd")[:3] == ["0", "0", "0"]
    assert not shown.all("h2")


def test_a_page_takes_the_place_of_the_last_one(tmp_path):
    show(tmp_path, failed("a"))
    assert len(show(tmp_path, failed("b")).all("code")) == 3
    assert [path.name for path in (tmp_path / "_staging").iterdir()] == []


def pixels(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))).convert("RGBA")).astype(int)


def png(labels, coefficients):
    coefficients = np.asarray(coefficients, float)
    ids = overlay.kept(coefficients[None])
    return overlay.overlay_uri(labels, ids, coefficients[ids])


def entries(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))))


def test_hue_tells_the_sign_and_opacity_the_size():
    coloured = pixels(png(HALVES, [0.2, -0.1, 0.0]))
    assert coloured.shape == (320, 320, 4)
    left, middle, right = coloured[200, 50], coloured[200, 150], coloured[200, 300]
    assert tuple(left[:3]) == BLUE
    assert tuple(middle[:3]) == ORANGE
    assert (left[3], middle[3], right[3]) == (255, 128, 0)
    lines = np.flatnonzero((coloured[200] == overlay.OUTLINE).all(axis=1))
    assert lines.tolist() == [106, 213]


def test_a_pixel_says_which_segment_it_shows():
    shown = entries(png(HALVES, [0.2, -0.1, 0.0]))
    assert set(np.unique(shown)) == {0, 1, 2, 4}  # 3 is for segments without an entry: here are none
    assert [shown[200, x] for x in (50, 150, 300)] == [0, 1, 2]


def test_of_many_segments_each_labels_strongest_keep_their_entry():
    labels = np.arange(300).reshape(15, 20).repeat(21, axis=0).repeat(16, axis=1)[:310]
    coefficients = np.stack([np.linspace(100, 200, 300), np.linspace(0.2, 0.1, 300)])  # a loud label and a quiet one
    ids = overlay.kept(coefficients)
    assert ids.tolist() == [*range(127), *range(173, 300)]
    shown = entries(overlay.overlay_uri(labels, ids, coefficients[0, ids]))
    assert shown[10, 10] == 0
    assert shown[300, 310] == 253
    assert shown[150, 150] == 254  # among the rest, which has no colour
    assert pixels(overlay.overlay_uri(labels, ids, coefficients[0, ids]))[150, 150, 3] == 0
    assert overlay.kept(np.ones((2, 254))).tolist() == list(range(254))


def test_many_segments_have_the_ids_of_the_results(tmp_path):
    labels = np.arange(300).reshape(15, 20)
    coef = np.zeros(300)
    coef[[7, 299]] = -1, 2
    (card,) = (shown := show(tmp_path, explained("a", labels, coef))).all("article")
    ids = [int(i) for i in card["data-ids"].split()]
    assert {7, 299} < set(ids)
    assert len(ids) == overlay.MOST_SEGMENTS
    assert shown.texts("small") == ["300 segments, the 254 strongest coloured"]
    assert shown.texts("li") == ["#299 +2.00", "#7 \N{MINUS SIGN}1.00"]


def test_no_coefficient_gives_no_colour():
    coloured = pixels(png(HALVES, np.zeros(3)))
    assert set(np.unique(coloured[..., 3])) == {0, overlay.OUTLINE[3]}


@pytest.mark.parametrize(
    ("shape", "size"),
    [((224, 224), (224, 224)), ((28, 28), (320, 320)), ((1, 1), (320, 320)), ((600, 900), (213, 320)), ((1, 5000), (1, 320))],
)
def test_sizes_of_pictures(shape, size):
    assert pixels(overlay.picture_uri(np.zeros((*shape, 3), np.uint8))).shape[:2] == size
    labels = np.zeros(shape, int)
    h, w, _ = pixels(png(labels, np.ones(1))).shape
    assert max(h, w) == overlay.OVERLAY_SIDE
    assert h / w == pytest.approx(shape[0] / shape[1], rel=0.02, abs=1 / overlay.OVERLAY_SIDE)


def test_a_segments_number_stands_on_the_segment():
    ring = np.zeros((9, 11), int)
    ring[1:8, 1:10] = 1
    ring[3:6, 3:8] = 2
    for segment in range(3):
        across, down = overlay.centre(ring, segment)
        assert ring[int(down * 9), int(across * 11)] == segment
    assert overlay.centre(ring, 2) == (0.5, 0.5)


def test_a_regression_has_a_value_and_neither_classes_nor_targets(tmp_path):
    facts = {"labels": [0], "pred_probs": [150.0], "r2": [0.9], "r2_loo": [0.8], "intercept": [100.0], "n_segments": 2}
    facts |= {"prediction": None, "predicted_prob": None, "parts": ["bmi <= 2", "age"], "values": ["1", "60"], "target": 1}
    rows = [row(name, status="ok", kind="row", coef=[[30.0, -20.0]], **facts) for name in ("a", "b")]
    shown = show(tmp_path / "value", *rows, class_names=None, mode="regression", kind="row")
    assert shown.texts("legend") == ["Value", "R² left out"]
    assert ["hidden" in label for label in shown.all("label") if label["text"].startswith("Class")] == [True]
    assert "class" not in shown.texts("option")
    assert "value, lowest first" in shown.texts("option")
    article = shown.all("article")[0]["text"]
    assert "Predicted value150" in article
    assert not re.search("target|class|right|wrong", article)
    assert not index(shown)["targets"]
    assert "raise the value" in shown.texts("p", **{"class": "guide"})[0]
    classes = show(tmp_path / "classes", *rows, class_names=None, mode="classification", kind="row")
    assert classes.texts("legend")[0] == "Probability"
    assert "target class 1" in " ".join(classes.all("article")[0]["text"].split())
