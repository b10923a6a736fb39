"""Two runs compared: numbers match their definitions, and the page shows both for any image names."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from markup import Page
from PIL import Image
from rows import HOSTILE, LABELS, at, explained, failed, picture, run
from scipy.stats import spearmanr

from gpulime.errors import GpulimeError
from gpulime.views.diff import compare, rank_correlation, top_overlap
from gpulime.views.report import diff_page

COEF = [0.5, -0.25, 0.125, 0.0]
REVERSED = [0.0, 0.125, -0.25, 0.5]


@pytest.mark.parametrize("k", [2, 3, 31, 257])
@pytest.mark.parametrize("ties", [False, True])
def test_the_rank_correlation_is_spearmans(k, ties):
    x, y = np.random.default_rng(k).normal(size=(2, k))
    if ties:
        x, y = (np.where(np.arange(k) > k // 2, 0, values) for values in (x, y))
    assert rank_correlation(x, y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)


def test_what_has_no_order_has_no_correlation():
    assert rank_correlation(np.zeros(4), np.arange(4)) is None
    assert rank_correlation(np.arange(4), np.full(4, 0.3)) is None
    assert rank_correlation(np.ones(1), np.ones(1)) is None
    assert rank_correlation(np.arange(4), -np.arange(4)) == pytest.approx(-1)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        ([9, -8, 7, 6, 5, 4, 3], [9, 8, -7, 6, 5, 4, 3], 1.0),
        ([9, 8, 7, 6, 5, 4, 3], [3, 4, 5, 6, 7, 8, 9], 3 / 7),
        ([1, 0, 0, 0, 0, 0, 0], [1, 2, 0, 0, 0, 0, 0], 1 / 2),  # zeros are no strong segments
        ([1, 0, 0], [0, 1, 0], 0.0),
        ([1, 0, 0], [0, 0, 0], 0.0),
        ([0, 0, 0], [0, 0, 0], None),
        ([0.5], [0.1], 1.0),
    ],
)
def test_the_overlap_is_of_the_strongest_by_size(x, y, expected):
    one_each = np.arange(len(x))[None]
    assert top_overlap(one_each, np.array(x), one_each, np.array(y)) == expected


def test_the_overlap_is_of_areas_whatever_the_segments_are():
    stripes, blocks = np.repeat([[0, 1, 2, 3]], 6, 0), np.repeat([[0], [1], [2]], 2, 0).repeat(4, 1)
    assert top_overlap(stripes, np.array([0, 0, 0.1, 0.2]), blocks, np.array([0, 0.5, 0])) == 4 / (12 + 8 - 4)
    assert top_overlap(stripes, np.array([3, 2, 1, 0]), stripes, np.array([0, 3, 2, 1]), top=2) == 6 / 18


def of(tmp_path, a, b, **settings):
    return compare(run(tmp_path / "a", *a, **settings), run(tmp_path / "b", *b, **settings))


def test_images_are_matched_by_id_whatever_their_order(tmp_path):
    a = [explained("x"), explained("y"), failed("z"), explained("only a"), explained("w")]
    b = [
        explained("w"),
        explained("only b"),
        explained("z"),
        explained("y", coef=[REVERSED, COEF]),
        explained("x"),
        failed("q"),
    ]
    found = of(tmp_path, a, b)
    assert (found.only_a, found.only_b, found.failed) == (1, 2, 1)
    assert {image.image_id for image in found.images} == {"x", "y", "w"}
    assert found.images[0].image_id == "y"
    facts = dict(found.summary)
    assert facts["images in both"] == "4 (only in A 1, only in B 2)"
    assert facts["explained by both"] == "3"


def test_labels_are_matched_by_class(tmp_path):
    b = explained("x", coef=[COEF, REVERSED], labels=[7, 1], pred_probs=[0.5, 0.25])
    (image,) = of(tmp_path, [explained("x")], [b]).images
    assert (image.top_a, image.top_b, image.changed) == ((1, 0.75), (7, 0.5), True)
    (label,) = image.labels
    assert (label.label, label.probability_a, label.probability_b) == (1, 0.75, 0.25)
    assert label.correlation == pytest.approx(spearmanr(COEF, REVERSED).statistic)
    assert label.overlap == 2 / 4  # quarters {0, 1, 2} and {1, 2, 3}


@pytest.mark.parametrize(
    "segments",
    [LABELS[::-1].copy(), LABELS[:, :-1].copy(), np.where(np.arange(20) > 17, 4, LABELS)],
    ids=["other", "shape", "count"],
)
def test_other_segments_are_said_and_have_no_correlation(tmp_path, segments):
    coef = [[0.1, 0.2, 0.3, 0.4, 0.5][: segments.max() + 1]] * 2
    found = of(tmp_path, [explained("x"), explained("y")], [explained("x", coef, segments), explained("y")])
    (other,) = (image for image in found.images if image.image_id == "x")
    assert not other.same_segments
    assert [label.correlation for label in other.labels] == [None] * 2
    assert [label.overlap is None for label in other.labels] == [segments.shape != LABELS.shape] * 2
    assert other.comparable == other.same_size == (segments.shape == LABELS.shape)
    assert found.images[0] is other
    assert dict(found.summary).get("not comparable", "").startswith("" if other.comparable else "1: other sizes")
    assert dict(found.summary)["same segments"] == "1 of 2; the others have no correlation"
    correlations = dict(found.spreads)["rank correlation"]
    assert correlations == pytest.approx([1.0] * 5)  # of y alone


def test_maps_are_compared_decoded(tmp_path):
    wide = explained("x", seg=LABELS.astype("<u2").tobytes(), seg_dtype="<u2")
    import zlib

    wide["seg"] = zlib.compress(wide["seg"], 1)
    (image,) = of(tmp_path, [explained("x")], [wide]).images
    assert image.same_segments


def test_the_noise_of_a_constant_model_is_not_compared(tmp_path):
    noise = np.random.default_rng(0).normal(scale=1e-16, size=(2, 2, 4))
    (image,) = of(tmp_path, [explained("x", noise[0])], [explained("x", noise[1])]).images
    assert [(label.correlation, label.overlap) for label in image.labels] == [(None, None)] * 2


def test_the_most_changed_come_first(tmp_path):
    weak = [0.4, -0.25, 0.5, 0.0]
    a = [explained(name) for name in ("same", "shift", "weak", "reversed", "cut", "other", "label", "size")]
    b = [
        explained("same"),
        explained("shift", pred_probs=[0.5, 0.125]),
        explained("weak", coef=[weak, COEF]),
        explained("reversed", coef=[REVERSED, COEF]),
        explained("cut", [[0.0, 1.0]] * 2, LABELS // 2),
        explained("other", labels=[7, 8]),
        explained("label", pred_probs=[0.1, 0.2]),
        explained("size", segments=LABELS[:, :-1].copy()),
    ]
    found = of(tmp_path, a, b)
    order = ["other", "size", "label", "cut", "reversed", "weak", "shift", "same"]
    assert [image.image_id for image in found.images] == order
    assert dict(found.summary)["top label changed"] == "2 of 8"
    assert dict(found.summary)["not comparable"].startswith("2: ")
    shifts = sorted([0.65, 0.075, 0.25] + [0.0] * 11)
    assert dict(found.spreads)["change of probability"] == pytest.approx(np.quantile(shifts, [0.05, 0.25, 0.5, 0.75, 0.95]))


def test_more_images_than_are_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("gpulime.views.diff.CHUNK", 3)
    ids = [f"{i:02}" for i in range(10)]
    found = of(tmp_path, map(explained, ids), map(explained, reversed(ids)))
    assert sorted(image.image_id for image in found.images) == ids
    assert all(label.correlation == pytest.approx(1) for image in found.images for label in image.labels)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda tmp: (tmp, tmp), "holds no run"),
        (lambda tmp: (run(tmp / "a", explained("x")), tmp / "b"), "b holds no run"),
        (lambda tmp: (run(tmp / "a", explained("x")), tmp / "a" / "." / ""), "A and B must be two runs; both are"),
        (
            lambda tmp: (run(tmp / "a", explained("x"), explained("z")), run(tmp / "b", explained("y"))),
            "no image is in both: .*a has 2, .*b has 1, by other ids",
        ),
    ],
    ids=["no run", "one", "same", "nothing shared"],
)
def test_what_cannot_be_compared_is_named(tmp_path, make, message):
    with pytest.raises(GpulimeError, match=message):
        compare(*make(tmp_path))


def test_the_table_has_settings_counts_and_the_most_changed(tmp_path):
    many = [explained(f"{i:02}" + "long" * 20) for i in range(12)]
    a = run(tmp_path / "a", *many, explained("x\ny"), fixed={"n": 3, "same": 1, "sha": "0a" * 32})
    changed = explained("x\ny", coef=[REVERSED] * 2)
    b = run(tmp_path / "b", *many, changed, fixed={"n": 4, "same": 1, "sha": "1b" * 32, "new": [1]})
    text = str(compare(a, b))
    lines = text.splitlines()
    assert re.search(r"^n +3 -> 4$", text, re.MULTILINE)
    assert re.search(r"^sha +0a0a0a0a0a0a\.\.\. -> 1b1b1b1b1b1b\.\.\.$", text, re.MULTILINE)
    assert re.search(r"^new +not set -> \[1\]$", text, re.MULTILINE)
    assert "same  " not in "".join(lines[:4])
    start = next(i for i, line in enumerate(lines) if line.startswith("most changed"))
    assert len(lines) == start + 1 + 10
    assert lines[start + 1].startswith("x\\ny  ")
    assert all(len(line) <= 130 for line in lines)
    assert re.search(r"^rank correlation +-?\d\.\d{3} ", text, re.MULTILINE)


def test_nothing_explained_by_both_is_a_table_and_a_page(tmp_path):
    found = of(tmp_path, [explained("x")], [failed("x")])
    text = str(found)
    assert "explained by both" in text
    assert dict(found.summary)["top label changed"] == "0 of 0"
    assert "No image is explained by both runs." in diff_page.write(found, tmp_path / "b").read_text()


def test_names_that_differ_are_said(tmp_path):
    a, b = run(tmp_path / "a", explained("x")), run(tmp_path / "b", explained("x"), names=("a", "b", "c"))
    assert dict(compare(a, b).summary)["class names"] == "differ between the runs; labels are compared by number"


def page(tmp_path, a, b):
    return Page(diff_page.write(of(tmp_path, a, b), tmp_path / "b"))


def pixels(image):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2])))).astype(int)


def test_both_sides_share_a_picture_a_label_and_a_scale(tmp_path):
    path, _ = picture(tmp_path)
    a, b = explained("x", **at(path)), explained("x", **at(path), coef=[np.divide(COEF, 2), COEF], pred_probs=[0.1, 0.2])
    shown = page(tmp_path, [a], [b])
    photo, left, right = shown.all("img")
    assert photo["alt"] == "x, as the model saw it"
    assert ["tabby" in side["alt"] for side in (left, right)] == [True, True]
    captions = shown.texts("figcaption")
    assert captions == ["Image deepest colour ±0.500", "A: tabby 0.750, R² fitted 0.50", "B: tabby 0.100, R² fitted 0.50"]
    assert "tabby → lynx" in shown.texts("span")
    h, w = int(left["height"]), int(left["width"])
    inside = (slice(h // 12, h // 3), slice(w // 12, w // 3))
    blueness = [np.subtract(*pixels(side)[inside][..., [2, 0]].mean((0, 1))) for side in (left, right)]
    assert blueness[0] == pytest.approx(2 * blueness[1], rel=0.1)  # half the coefficient, half the colour


def test_a_side_hatches_segments_of_uncertain_sign(tmp_path):
    path, _ = picture(tmp_path)
    plain = explained("x", **at(path))
    shown = page(tmp_path, [plain], [plain | {"coef_se": [[0.1, 0.2, 0.0, 0.0]] * 2}])
    _, left, right = shown.all("img")
    assert ["hatched" in side["alt"] for side in (left, right)] == [False, True]
    (guide,) = (text for text in shown.texts("p") if "Blue" in text)
    assert "hatched if the sign is not certain at 95 %" in guide
    changed = np.abs(pixels(left) - pixels(right)).max(-1) > 20
    h, w = changed.shape
    assert changed[: h // 3, w * 2 // 3 :].mean() > 0.2  # segment 1
    assert not changed[:, : w // 3].any()
    assert not changed[h * 2 // 3 :].any()


def test_each_side_shows_its_own_picture(tmp_path):
    """The file may have been replaced between the runs: B's colours then lie on what B's model saw."""
    paths = []
    for name, gray in (("dark.png", 40), ("light.png", 220)):
        Image.new("RGB", LABELS.shape[::-1], (gray,) * 3).save(tmp_path / name)
        paths.append(str(tmp_path / name).encode())
    shown = page(tmp_path, *([explained("x", [[1.0, 0, 0, 0]] * 2, **at(path))] for path in paths))
    corners = [pixels(image)[-20, -20].mean() for image in shown.all("img")]  # where no segment is coloured
    assert corners == pytest.approx([40, 40 + 0.2 * 215, 220 + 0.2 * 35], abs=4)


@pytest.mark.parametrize("files", [True, False], ids=["gone", "made from Python"])
def test_a_picture_that_is_not_at_hand_is_gray(tmp_path, files):
    a, b = ([explained("x", path=b"/nowhere.png")] for _ in "ab")
    shown = Page(diff_page.write(of(tmp_path, a, b, files=files), tmp_path / "b"))
    assert "no picture" in shown.texts("div")
    assert len(shown.all("img")) == 2


def test_other_segments_and_other_labels_can_be_shown(tmp_path):
    other = explained("x", [[1.0, 2.0]] * 2, (LABELS[:, :12] > 1).astype(int), labels=[5, 2], pred_probs=[0.9, 0.05])
    apart = explained("y", labels=[5, 6])
    shown = page(tmp_path, [explained("x"), explained("y")], [other, apart])
    captions = shown.texts("figcaption")
    assert captions[:3] == ["Image", "A: tabby 0.750, R² fitted 0.50", "B: class 5 0.750, R² fitted 0.50"]
    assert captions[3:] == ["Image the sizes differ", "A: lynx 0.125", "B: lynx 0.050"]
    assert "No label is explained by both." in shown.texts("p")


def test_the_page_needs_nothing_else_whatever_images_are_called(tmp_path):
    shown = page(tmp_path, map(explained, HOSTILE), map(explained, HOSTILE))
    assert len(shown.texts("h3")) == len(HOSTILE)
    assert "two\\nlines" in shown.texts("h3")
    assert "\\u202egpj.exe" in shown.texts("h3")
    assert "{{ 7 * 7 }}" in shown.texts("h3")
    assert not [element["tag"] for element in shown.elements if element["tag"] in ("script", "link", "iframe", "base", "b")]
    assert not [name for element in shown.elements for name in element if name.startswith("on") or name == "srcset"]
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in shown.all("img"))
    assert "url(" not in shown.source
    (policy,) = (meta for meta in shown.all("meta") if "http-equiv" in meta)
    assert policy["content"].startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")


def test_the_page_shows_the_fifty_most_changed(tmp_path):
    ids = [f"{i:03}" for i in range(53)]
    shown = page(tmp_path, map(explained, ids), map(explained, ids))
    assert len(shown.all("article")) == diff_page.MOST_CARDS == 50
    assert "3 more images, less changed, are counted above and not shown." in shown.texts("p")
    assert len(shown.source) < 50 * 25_000


def test_targets_alone_are_no_top_labels(tmp_path):
    """A run of an earlier version that explains targets does not know which class was the most probable."""
    one = {"r2": [0.5], "coef": [COEF], "intercept": [0.1]}
    a = run(tmp_path / "a", explained("x", labels=[2], pred_probs=[0.1], **one), fixed={"lime.labels": "target"})
    b = run(tmp_path / "b", explained("x", labels=[1], pred_probs=[0.9], **one), fixed={"lime.labels": "top"})
    found = compare(a, b)
    assert not found.images[0].changed
    assert dict(found.summary)["top label changed"] == "not known: a run of an earlier version explains targets alone"
    line = str(found).splitlines()[-1]
    assert "lynx 0.100" in line
    assert "tabby 0.900" in line
    assert "same" not in line


def test_predicted_classes_are_compared_whatever_is_explained(tmp_path):
    one = {"labels": [2], "pred_probs": [0.1], "r2": [0.5], "coef": [COEF], "intercept": [0.1]}
    a, b = (
        run(tmp_path / name, explained("x", prediction=label, predicted_prob=prob, **one), fixed={"lime.labels": "target"})
        for name, label, prob in (("a", 1, 0.75), ("b", 0, 0.5))
    )
    [image] = compare(a, b).images
    assert (image.top_a, image.top_b, image.changed) == ((1, 0.75), (0, 0.5), True)
    assert [label.label for label in image.labels] == [2]
    assert dict(compare(a, b).summary)["top label changed"] == "1 of 1"
