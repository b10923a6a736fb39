"""The report in a browser: mouse and keys, both themes, also without scripts."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re

import numpy as np
import pytest
from PIL import Image
from test_report import COEF, ERRORS, HALVES, PHOTOS, explained, failed, pixels, show

from gpulime.runs.store import store
from gpulime.views import diff
from gpulime.views.report import diff_page, overlay, page

pytestmark = pytest.mark.long

GRAY = np.full((96, 96, 3), 128, np.uint8)
MINUS = "\N{MINUS SIGN}"
COEFFICIENTS = [[0.5, -0.25, 0.01], [-0.04, 0.01, 0.02]]

# name, the two labels' probabilities, R2, target; classes are "tench", "tabby" and "lynx", and the labels 1 and 2
IMAGES = [
    ("cats/one.jpg", [0.9, 0.05], 0.8, 1),
    ("cats/two.jpg", [0.3, 0.6], 0.4, 1),
    ("dogs/<b>ten</b>.jpg", [0.5, 0.3], None, None),
    ("dogs/three.jpg", [0.7, 0.2], -0.1, 1),
    ("dogs/five.jpg", [0.4, 0.35], 0.9, 0),
    ("dogs/six.jpg", [0.1, 0.8], 0.7, 1),
]
ON_A_PAGE = 4


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Six images on two pages, and a failure."""
    folder = tmp_path_factory.mktemp("runs") / "night"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "MOST_CARDS", ON_A_PAGE)
        rows = [
            explained(name, HALVES, [], pred_probs=probabilities, r2=[r2, r2], r2_loo=[r2, r2], target=target)
            | {"coef": COEFFICIENTS}
            for name, probabilities, r2, target in IMAGES
        ]
        show(folder, *rows, failed("</script><b>x"), picture=lambda row: GRAY)
    return folder


@pytest.fixture
def opened(chromium, run):
    chromium.size(1280, 1000)
    chromium.theme("light")
    chromium.open((run / "report.html").as_uri())
    yield chromium
    assert chromium.problems() == []


def choose(chromium, **controls):
    """Give controls of the form their values, as a reader does."""
    for name, value in controls.items():
        control = f"document.querySelector('[name=\"{name}\"]')"
        chromium.js(
            f"{control}.value = {json.dumps(str(value))}; {control}.dispatchEvent(new Event('input', {{bubbles: true}}))"
        )
        assert chromium.js(f"{control}.value") == str(value)


def names(chromium):
    """The visible cards' names, in their order."""
    return chromium.js("[...document.querySelectorAll('.card:not([hidden]) h3')].map((heading) => heading.textContent)")


def count(chromium):
    return chromium.js("document.querySelector('output').textContent")


def view(chromium, card=0):
    """The overlay of a card as it stands on the screen, (h, w, 3), and then its left, middle and right segment's colour."""
    find = f"document.querySelectorAll('.view')[{card}]"
    chromium.js(f"{find}.scrollIntoView({{block: 'center'}})")
    chromium.wait(f"{find}.querySelector('img').complete")
    shot = chromium.screenshot()
    x, y, w, h = (
        round(v) for v in chromium.js(f"(({{x, y, width, height}}) => [x, y, width, height])({find}.getBoundingClientRect())")
    )
    shown = shot[y : y + h, x : x + w].astype(int)
    return [shown[h // 4, w * sixth // 6] for sixth in (1, 3, 5)]


def blueness(colour):
    return int(colour[2] - colour[0])


def test_another_label_is_another_palette_of_the_same_map(opened):
    left, middle, right = view(opened)
    assert blueness(left) > 90
    assert blueness(middle) < -30
    assert abs(blueness(right)) < 10
    opened.click(".card tbody tr:nth-child(2) button")
    left, middle, right = view(opened)
    assert blueness(left) < -90
    assert blueness(middle) > 15
    assert blueness(right) > blueness(middle) + 15
    card = "document.querySelector('.card')"
    assert opened.js(f"[...{card}.querySelectorAll('.scale span')].map((s) => s.textContent)") == [
        f"{MINUS}0.0400",
        "",
        "+0.0400",
    ]
    assert opened.js(f"[...{card}.querySelectorAll('li')].map((s) => s.textContent)") == [
        f"#0{MINUS}0.0400",
        "#2+0.0200",
        "#1+0.0100",
    ]
    assert opened.js(f"[...{card}.querySelectorAll('.marks span')].map((s) => s.textContent)") == ["0", "2", "1"]
    assert opened.js(f"[...{card}.querySelectorAll('.labels button')].map((s) => s.ariaPressed)") == ["false", "true"]
    assert "speak for lynx" in opened.js(f"{card}.querySelector('img').alt")
    opened.click(".card tbody tr:nth-child(1) button")
    assert blueness(view(opened)[0]) > 90


def test_the_scripts_palette_is_the_engines(chromium, tmp_path):
    random = np.random.default_rng(0)
    labels = np.arange(300).reshape(15, 20).repeat(8, axis=0).repeat(6, axis=1)
    coef = random.normal(size=(2, 300)) * [[1.0], [1e-3]]
    show(tmp_path, explained("a", labels, []) | {"coef": coef.tolist()}, picture=lambda row: GRAY)
    chromium.open((tmp_path / "report.html").as_uri())
    chromium.click(".card tbody tr:nth-child(2) button")
    chromium.wait("document.querySelector('.view img').src.startsWith('blob:') && document.querySelector('.view img').complete")
    shape, shown = chromium.js(
        """(() => {
          const image = document.querySelector(".view img");
          const canvas = document.createElement("canvas");
          [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
          const pen = canvas.getContext("2d");
          pen.drawImage(image, 0, 0);
          return [[canvas.height, canvas.width, 4], [...pen.getImageData(0, 0, canvas.width, canvas.height).data]];
        })()"""
    )
    shown = np.reshape(shown, shape)
    ids = overlay.kept(coef)
    expected = pixels(overlay.overlay_uri(labels, ids, coef[1, ids]))
    assert np.abs(shown[..., 3] - expected[..., 3]).max() <= 1
    deep = expected[..., 3] > 100  # a canvas keeps the colours of faint pixels roughly
    assert np.abs(shown - expected)[deep].max() <= 3


def test_intervals_and_hatching_follow_the_label(chromium, tmp_path):
    show(tmp_path, explained("a", HALVES, []) | {"coef": COEF, "coef_se": ERRORS}, picture=lambda row: GRAY)
    chromium.size(1280, 1000)
    chromium.theme("light")
    chromium.open((tmp_path / "report.html").as_uri())

    def listed():
        return chromium.js(
            """[...document.querySelectorAll('.strongest li')].map((item) => [
              item.title, item.textContent.replace(/\\s+/g, ""),
              ...[...item.querySelectorAll('.bar, .interval')].map((one) => one.className),
              ...[...item.querySelectorAll('.bar, .interval')].map((one) => Math.round(one.getBoundingClientRect().width)),
            ])"""
        )

    def striped():
        """The contrast within the left, middle and right segment, above their numbers."""
        view(chromium)
        shot = chromium.screenshot().astype(int)
        box = "(({x, y, width, height}) => [x, y, width, height])(document.querySelector('.view').getBoundingClientRect())"
        x, y, w, h = map(round, chromium.js(box))
        parts = (shot[y + h // 8 : y + h // 3, x + w * i // 3 + 8 : x + w * (i + 1) // 3 - 8] for i in range(3))
        return [int(np.ptp(part.mean(-1))) for part in parts]

    before = listed()  # by the engine
    left, middle, right = striped()
    assert left < 10
    assert middle > 40
    assert right < 10
    chromium.click(".card tbody tr:nth-child(2) button")
    assert [one[0] for one in listed()] == [
        f"95 % interval {MINUS}0.0596 to {MINUS}0.0204",
        f"95 % interval {MINUS}0.1760 to +0.2160, the sign is not certain",
        "95 % interval +0.0061 to +0.0139",
    ]
    left, middle, right = striped()
    assert left < 10
    assert right > 40
    assert middle < 10
    chromium.click(".card tbody tr:nth-child(1) button")
    assert listed() == before
    choose(chromium, top=1)
    assert max(striped()) < 10
    choose(chromium, top="")
    chromium.scripts(False)
    try:
        chromium.call("Page.navigate", url=(tmp_path / "report.html").as_uri())
        chromium.wait("document.readyState === 'complete' && document.querySelectorAll('.card').length === 1")
        left, middle, right = striped()
        assert left < 10
        assert middle > 40
    finally:
        chromium.scripts(True)
    assert chromium.problems() == []


def test_fewer_segments_and_less_colour(opened):
    choose(opened, top=1)
    left, middle, _ = view(opened)
    assert blueness(left) > 90
    assert abs(blueness(middle)) < 10
    choose(opened, strength=0)
    assert abs(blueness(view(opened)[0])) < 10
    opened.click("[type=reset]")
    assert blueness(view(opened)[1]) < -30


def test_one_scale_for_all_labels_of_an_image(opened):
    opened.click(".card tbody tr:nth-child(2) button")
    choose(opened, scale="image")
    assert -25 < blueness(view(opened)[0]) < 0
    assert opened.js("document.querySelector('.scale').textContent") == f"{MINUS}0.5000+0.5000"


def test_filters_tell_what_fits_here_and_on_other_pages(opened):
    first = [name for name, *_ in IMAGES[:ON_A_PAGE]]
    assert names(opened) == first
    assert count(opened) == "4 images on this page of 6"
    opened.click("[name=id]")
    opened.type("dogs")
    assert names(opened) == first[2:]
    assert count(opened) == "2 of 4 images on this page, 4 of 6 in the run"
    choose(opened, id="", **{"class": 2})
    assert names(opened) == ["cats/two.jpg"]
    choose(opened, **{"class": ""}, right=1)
    assert names(opened) == ["cats/one.jpg", "dogs/three.jpg"]
    assert count(opened) == "2 of 4 images on this page, 2 of 6 in the run"
    choose(opened, right="", pmin=0.5, pmax=0.7)
    assert names(opened) == ["cats/two.jpg", "dogs/<b>ten</b>.jpg", "dogs/three.jpg"]
    choose(opened, pmin="", pmax="", rmax=0.5)
    assert names(opened) == ["cats/two.jpg", "dogs/three.jpg"]
    choose(opened, id="nothing is called so")
    assert names(opened) == []
    assert opened.js("document.querySelector('.nothing').checkVisibility()")
    opened.click("[type=reset]")
    assert names(opened) == first
    assert opened.js("location.hash") == ""


def test_cards_are_sorted_and_those_without_a_value_come_last(opened):
    one, two, ten, three = (name for name, *_ in IMAGES[:ON_A_PAGE])
    orders = {
        "p+": [ten, two, three, one],
        "p-": [one, three, two, ten],
        "r+": [three, two, one, ten],
        "r-": [one, two, three, ten],
        "t+": [two, one, three, ten],
        "c+": [two, one, ten, three],
        "i+": [one, two, ten, three],
        "": [one, two, ten, three],
    }
    for order, expected in orders.items():
        choose(opened, sort=order)
        assert names(opened) == expected, order


def test_the_cards_to_start_with_come_first(chromium, tmp_path):
    """Of images on one grid; also cards of texts and rows, whose script does nothing else, are sorted by it."""
    shown = [
        (0.1, 0.0, 0.0),
        (0.0, 0.9, 0.3),
        (0.2, 0.0, 0.0),
        (0.0, 0.0, 0.8),
        (0.9, 0.0, 0.0),
        (0.0, 0.1, 0.0),
        (0.1, 0.1, 0.0),
    ]
    rows = [
        explained(f"{i}", HALVES, [], segmenter="torch grid(rows=1, columns=3)") | {"coef": [one] * 2}
        for i, one in enumerate(shown)
    ]
    show(tmp_path, *rows, picture=lambda row: GRAY)
    chromium.size(1280, 1000)
    chromium.open((tmp_path / "report.html").as_uri())
    links = chromium.js("[...document.querySelectorAll('#start a')].map((link) => link.textContent)")
    assert len(links) == 5
    assert names(chromium)[:5] == links != list("01234")
    assert chromium.js("location.hash") == ""
    chromium.click("#start a:nth-of-type(2)")
    assert chromium.js("document.querySelector(':target').textContent") == links[1]
    choose(chromium, sort="")
    assert names(chromium) == list("0123456")
    choose(chromium, sort="p-")
    assert names(chromium) == list("0123456")  # all have the same
    chromium.click("[type=reset]")
    assert names(chromium)[:5] == links
    choose(chromium, id="3")
    assert names(chromium) == ["3"]
    assert chromium.problems() == []


def table(chromium):
    """The lines of the table of the whole run, as texts of their cells; none while it is hidden."""
    lines = "[...document.querySelectorAll('.run:not([hidden]) tbody tr')]"
    return chromium.js(f"{lines}.map((line) => [...line.cells].map((cell) => cell.textContent))")


def test_the_whole_run_is_sorted_and_filtered_in_a_table(opened):
    one, two, ten, three, five, six = (name for name, *_ in IMAGES)
    assert table(opened) == []
    orders = {
        "p+": [five, ten, two, three, six, one],
        "r-": [five, one, six, two, three, ten],
        "t+": [two, five, six, one, three, ten],
        "c+": [two, six, one, ten, three, five],
        "i+": [one, two, ten, five, six, three],
    }
    for order, expected in orders.items():
        choose(opened, sort=order)
        assert [line[1] for line in table(opened)] == expected, order
        assert [line[0] for line in table(opened)] == list("123456")
    choose(opened, sort="r-")
    assert opened.js("document.querySelector('#run').textContent") == "6 images of the whole run, by R² left out, highest first"
    assert table(opened)[0] == ["1", five, "tabby", "0.400", "0.90", "wrong", "2"]
    assert table(opened)[-1] == ["6", ten, "tabby", "0.500", "\N{EN DASH}", "", "1"]
    choose(opened, right=0)
    assert [line[1] for line in table(opened)] == [five, six, two]
    assert names(opened) == [two]
    heading = "3 images of the whole run fit, by R² left out, highest first"
    assert opened.js("document.querySelector('#run').textContent") == heading
    choose(opened, id="no such image")
    assert table(opened) == []
    assert opened.js("document.querySelector('[name=sort]').closest('label').textContent").startswith("Sort by")


def test_the_table_leads_to_an_image_on_its_page(opened):
    focused = "document.activeElement.closest('.card')?.querySelector('h3').textContent"
    choose(opened, sort="r-", label=1)
    opened.click(".run tbody tr:nth-child(2) a")
    opened.wait(f"{focused} === 'cats/one.jpg'")
    opened.click("h1")
    assert opened.js(focused) is None
    opened.click(".run tbody tr:nth-child(2) a")  # again
    opened.wait(f"{focused} === 'cats/one.jpg'")
    opened.click(".run tbody tr:nth-child(3) a")
    opened.wait("location.pathname.endsWith('report-2.html') && document.querySelector('.scripted') !== null")
    opened.wait(f"{focused} === 'dogs/six.jpg'")
    assert opened.js("(({top, bottom}) => top >= 0 && bottom <= innerHeight)(document.activeElement.getBoundingClientRect())")
    assert names(opened) == ["dogs/five.jpg", "dogs/six.jpg"]
    assert opened.js("document.querySelector('[name=label]').value") == "1"
    assert len(table(opened)) == len(IMAGES)
    choose(opened, top=1)  # changes the view, not the table
    assert "top=1" in opened.js("document.querySelector('.run a').href")
    assert "image=" not in opened.js("location.hash")


def test_a_long_table_is_lengthened(chromium, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST_CARDS", 2)
    show(tmp_path, *[explained(f"{i}", HALVES, [1.0, -0.5, 0.1], pred_probs=[i / 1000, 0]) for i in range(250)])
    chromium.open((tmp_path / "report-7.html").as_uri())
    choose(chromium, sort="p-")
    button = "document.querySelector('.run button')"
    assert [line[1] for line in table(chromium)] == [str(249 - i) for i in range(100)]
    assert chromium.js(f"{button}.textContent") == "Show 100 of 150 more"
    chromium.click(".run button")
    assert chromium.js(f"{button}.textContent") == "Show 50 of 50 more"
    chromium.click(".run button")
    assert [line[1] for line in table(chromium)] == [str(249 - i) for i in range(250)]
    assert not chromium.js(f"{button}.checkVisibility()")
    assert chromium.problems() == []


def test_pages_of_a_very_long_run_lead_to_the_one_that_sorts_it(chromium, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MOST_CARDS", 2)
    monkeypatch.setattr(page, "MOST_INDEXED", 3)
    show(tmp_path, *[explained(f"{i}", HALVES, [1.0, -0.5, 0.1], pred_probs=[i / 10, 0]) for i in range(5)])
    chromium.open((tmp_path / "report-2.html").as_uri())
    choose(chromium, sort="p-")
    assert names(chromium) == ["3", "2"]
    assert table(chromium) == []
    assert chromium.js("document.querySelector('[name=sort]').closest('label').textContent").startswith("Sort this page by")
    assert count(chromium) == "2 images on this page of 5; sort and filter the whole run"
    chromium.click("output a")
    chromium.wait("location.pathname.endsWith('report.html') && document.querySelector('.scripted') !== null")
    assert [line[1] for line in table(chromium)] == list("43210")
    assert chromium.problems() == []


def test_the_way_to_the_failures_keeps_the_view(opened, run):
    choose(opened, id="cats")
    opened.click("dd a")
    assert opened.js("location.hash") == "#failed"
    opened.wait("document.getElementById('failed').getBoundingClientRect().top < innerHeight")
    assert names(opened) == ["cats/one.jpg", "cats/two.jpg"]
    opened.open((run / "report-2.html").as_uri())
    opened.click("dd a")
    opened.wait("location.pathname.endsWith('report.html') && document.querySelector('.scripted') !== null")
    assert opened.js("location.hash") == "#failed"
    opened.wait("document.getElementById('failed').getBoundingClientRect().top < innerHeight")


def test_another_page_shows_the_same_view(opened):
    choose(opened, id="dogs", sort="p+", label="target")
    opened.click("[rel=next]")
    opened.wait("location.pathname.endsWith('report-2.html') && document.querySelector('.scripted') !== null")
    assert names(opened) == ["dogs/five.jpg", "dogs/six.jpg"]
    assert count(opened) == "2 images on this page, 4 of 6 in the run"
    assert blueness(view(opened, 1)[0]) > 90  # the target of the last is its second label, the first row of the store
    opened.click("[rel=prev]")
    opened.wait("location.pathname.endsWith('report.html') && document.querySelector('.scripted') !== null")
    assert names(opened) == ["dogs/<b>ten</b>.jpg", "dogs/three.jpg"]


def test_everything_is_at_hand_on_the_keyboard(opened):
    focused = "document.activeElement.querySelector?.('h3')?.textContent"
    opened.type("j")
    assert opened.js(focused) == "cats/one.jpg"
    opened.type("jjjj")
    assert opened.js(focused) == "dogs/three.jpg"
    opened.type("k")
    assert opened.js(focused) == "dogs/<b>ten</b>.jpg"
    opened.type("2")
    assert opened.js("document.activeElement.querySelector('.chosen').textContent") == "lynx"
    opened.type("9")
    assert opened.js("document.activeElement.querySelector('.chosen').textContent") == "lynx"
    opened.type("/")
    assert opened.js("document.activeElement.name") == "id"
    opened.type("j")
    assert names(opened) == [name for name, *_ in IMAGES[:ON_A_PAGE] if "j" in name]
    unnamed = (
        "[...document.querySelectorAll('input, select')].filter((c) => !c.labels?.length && !c.ariaLabel).map((c) => c.name)"
    )
    assert opened.js(unnamed) == []


LARGE = "document.querySelector('.large')"


def press(chromium, key, code):
    for kind in ("keyDown", "keyUp"):
        text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
        chromium.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)


def large(chromium):
    """The name above the large pictures, their width in parts of the window's, and the scale; None while there are none."""
    if not chromium.js(f"{LARGE}.open"):
        return None
    chromium.wait(f"{LARGE}.querySelector('.view img').complete")
    width = f"{LARGE}.querySelector('.view').getBoundingClientRect().width / innerWidth"
    return chromium.js(f"[{LARGE}.querySelector('h3').textContent, {width}, {LARGE}.querySelector('.scale').textContent]")


def test_a_picture_that_is_clicked_is_enlarged(opened):
    for selector in (".card:nth-child(2) .picture", ".card:nth-child(2) .view"):
        opened.click(selector)
        name, width, scale = large(opened)
        assert (name, scale) == ("cats/two.jpg, lynx", f"{MINUS}0.0400+0.0400")
        assert width > 0.35
        opened.click(".large")
        assert large(opened) is None
    opened.wait("document.activeElement.querySelector('h3')?.textContent === 'cats/two.jpg'")


def test_the_keyboard_enlarges_too(opened):
    opened.type("j")
    press(opened, "Enter", 13)
    assert large(opened)[0] == "cats/one.jpg, tabby"
    opened.type("2")
    assert large(opened)[::2] == ["cats/one.jpg, lynx", f"{MINUS}0.0400+0.0400"]
    opened.type("jj")
    assert large(opened)[0] == "dogs/<b>ten</b>.jpg, tabby"
    press(opened, "Escape", 27)
    assert large(opened) is None
    opened.wait("document.activeElement.querySelector?.('h3')?.textContent === 'dogs/<b>ten</b>.jpg'")
    press(opened, "Tab", 9)
    assert opened.js("document.activeElement.ariaLabel") == "Enlarge dogs/<b>ten</b>.jpg"
    press(opened, "Enter", 13)
    assert large(opened)[0] == "dogs/<b>ten</b>.jpg, tabby"
    opened.size(400, 800)
    assert large(opened)[1] > 0.7


@pytest.fixture
def longer(chromium, tmp_path):
    """Two dozen images on a page, of which the window shows four."""
    rows = [explained(f"{i}", HALVES, []) | {"coef": COEFFICIENTS} for i in range(24)]
    show(tmp_path, *rows, picture=lambda row: GRAY)
    chromium.size(1280, 1000)
    chromium.open((tmp_path / "report.html").as_uri())
    return chromium


def test_a_picture_of_the_whole_page_has_the_last_card(longer):
    choose(longer, label=1)
    longer.wait("[...document.images].every((image) => image.complete)")
    last = "[...document.querySelectorAll('.view')].at(-1).getBoundingClientRect()"
    x, y, w, h = longer.js(f"(({{x, y, width, height}}) => [x, y + scrollY, width, height])({last})")
    assert y > 3000
    clip = {"x": x, "y": y, "width": w, "height": h, "scale": 1}
    data = longer.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"]
    shot = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)
    height, width = shot.shape[:2]
    left, middle, right = (shot[height // 4, width * sixth // 6] for sixth in (1, 3, 5))
    assert blueness(left) < -90
    assert blueness(right) > blueness(middle) + 15 > 15


def test_a_print_keeps_its_colours_and_several_cards_are_on_a_page(longer):
    for name in (".bar", ".ramp", ".swatch", ".view", ".marks span"):
        assert longer.js(f"getComputedStyle(document.querySelector('{name}')).printColorAdjust") == "exact", name
    pdf = base64.b64decode(longer.call("Page.printToPDF")["data"])
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 6  # four at least on each
    longer.call("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    try:
        assert longer.js("getComputedStyle(document.querySelector('.card')).breakInside") == "avoid"
        assert longer.js("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not longer.js("document.querySelector('.tools').checkVisibility()")
    finally:
        longer.call("Emulation.setEmulatedMedia", media="")


def test_a_label_of_common_length_stands_in_one_line(chromium, tmp_path):
    show(
        tmp_path,
        explained("a", HALVES, []) | {"coef": COEFFICIENTS},
        picture=lambda row: GRAY,
        class_names=("x", "brambling", "y"),
    )
    for width in (1280, 1700, 600):
        chromium.size(width, 1000)
        chromium.open((tmp_path / "report.html").as_uri())
        label = "document.querySelector('.labels button')"
        assert chromium.js(f"{label}.offsetHeight < 1.7 * parseFloat(getComputedStyle({label}).fontSize)"), width


def test_without_scripts_the_top_labels_are_shown(opened, run):
    opened.scripts(False)
    try:
        opened.call("Page.navigate", url=(run / "report.html").as_uri())
        opened.wait("document.readyState === 'complete' && document.querySelectorAll('.card').length === 4")
        assert blueness(view(opened)[0]) > 90
        assert not opened.js("document.querySelector('.tools').checkVisibility()")
        assert opened.js("[...document.querySelectorAll('.labels button')].every((button) => button.disabled)")
    finally:
        opened.scripts(True)


@pytest.mark.parametrize("width", [400, 1280])
def test_both_themes_are_legible_at_every_width(opened, width):
    choose(opened, sort="i+")  # with the table of the run
    for theme, light in (("light", True), ("dark", False)):
        opened.size(width, 1000)
        opened.theme(theme)
        shot = opened.screenshot().mean(axis=2)
        ground, ink = (np.median(shot), (shot.min() if light else shot.max()))
        assert ground > 230 if light else ground < 30
        assert abs(ground - ink) > 180
        assert opened.js("document.documentElement.scrollWidth") == width
        styles = "['.quiet', 'body'].map((one) => getComputedStyle(document.querySelector(one)))"
        colours = f"(([one, other]) => [one.color, other.backgroundColor])({styles})"
        quiet, behind = (np.array([int(v) for v in colour[4:-1].split(",")]) for colour in opened.js(colours))
        assert contrast(quiet, behind) > 4.5  # WCAG's AA


@pytest.mark.parametrize("width", [400, 1280])
def test_two_runs_side_by_side_are_legible_at_every_width(chromium, tmp_path, width):
    rows = [explained(name, HALVES, [0.5, -0.25, 0.01]) for name in ("cats/one.jpg", "a_long_name" * 5)]
    for side, coef in (("a", COEFFICIENTS), ("b", COEFFICIENTS[::-1])):
        with store.Store(tmp_path / side) as results:
            for one in rows:
                results.append(one | {"coef": coef})
        store.write_manifest(tmp_path / side, {"class_names": ["tench", "tabby", "lynx"], "fixed": {"lime.seed": len(coef)}})
    path = diff_page.write(diff.compare(tmp_path / "a", tmp_path / "b"), tmp_path)
    for theme, light in (("light", True), ("dark", False)):
        chromium.size(width, 1000)
        chromium.theme(theme)
        chromium.open(path.as_uri())
        ground = np.median(chromium.screenshot().mean(axis=2))
        assert ground > 230 if light else ground < 30
        assert chromium.js("document.documentElement.scrollWidth") == width
    heads = chromium.js("[...document.querySelectorAll('.views')].map((one) => one.querySelectorAll('img, .missing').length)")
    assert heads == [3, 3]


def test_a_number_at_the_edge_of_a_picture_stays_on_one_line(chromium, tmp_path):
    columns = np.arange(96).reshape(1, 96).repeat(96, axis=0)  # the strongest, 95, is the last
    for folder in ("a", "b"):
        show(tmp_path / folder, explained("x", columns, []) | {"coef": [[0.1, *[0.0] * 94, 0.5]] * 2})
    chromium.size(1280, 1000)
    chromium.open(diff_page.write(diff.compare(tmp_path / "a", tmp_path / "b"), tmp_path).as_uri())
    heights = chromium.js("[...document.querySelectorAll('.spot')].map((spot) => spot.offsetHeight)")
    assert len(set(heights)) == 1


@pytest.mark.parametrize("width", [400, 1280])
def test_numbers_of_segments_do_not_lie_on_those_of_stronger_ones(chromium, tmp_path, width):
    crowd = np.arange(225).reshape(15, 15).repeat(8, axis=0).repeat(8, axis=1)
    strongest = [112, 113, 128, 127, 30]  # neighbours, but for the last
    coef = np.zeros(225)
    coef[strongest] = [5, 4, 3, 2, 1]
    show(tmp_path, explained("a", crowd, []) | {"coef": [coef, coef[::-1]]}, picture=lambda row: GRAY)
    find = "[...document.querySelectorAll('.marks span')].filter((one) => one.checkVisibility({visibilityProperty: true}))"
    box = "(({x, y, width, height}) => [x, y, width, height])(one.getBoundingClientRect())"
    marks = f"{find}.map((one) => [+one.textContent, ...{box}])"

    def shown():
        chromium.screenshot()
        found = chromium.js(marks)
        for (_, x, y, w, h), (_, left, top, wide, high) in itertools.combinations(found, 2):
            assert x + w <= left or left + wide <= x or y + h <= top or top + high <= y
        return {number for number, *_ in found}

    chromium.size(2 * 1280 - width, 1000)
    chromium.open((tmp_path / "report.html").as_uri())
    before = shown()
    chromium.size(width, 1000)  # a window that changes is looked at again
    after = shown()
    for numbers in (before, after):
        assert {112, 30} <= numbers < set(strongest)
    chromium.type("j2")
    assert {112, 194} <= shown() < {224 - number for number in strongest}
    assert chromium.problems() == []


def contrast(one, other):
    """https://www.w3.org/TR/WCAG21/#dfn-contrast-ratio"""

    def luminance(colour):
        unit = colour / 255
        return np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

    dark, light = sorted([luminance(one), luminance(other)])
    return (light + 0.05) / (dark + 0.05)


def test_five_hundred_cards_open_and_filter_quickly(chromium, tmp_path):
    rows = [explained(f"{i}", HALVES, [1.0, -0.5, 0.1], pred_probs=[0.5 + i / 1000, 0.1]) for i in range(500)]
    show(tmp_path, *rows, picture=lambda row: PHOTOS["chelsea"])
    assert (tmp_path / "report.html").stat().st_size < 500 * 25_000
    assert chromium.open((tmp_path / "report.html").as_uri()) < 10
    started, drawn = chromium.js("performance.now()"), "document.querySelectorAll('img[src^=blob]').length"
    choose(chromium, sort="p-", top=1, pmin=0.9)
    assert chromium.js("performance.now()") - started < 3000
    assert names(chromium)[0] == "499"
    assert 0 < chromium.js(drawn) < 60  # only what the reader is near
    assert chromium.problems() == []


def test_an_r2_from_a_bound_on(opened):
    choose(opened, rmin=0.75)
    assert names(opened) == ["cats/one.jpg"]
    choose(opened, rmin=-0.5)
    assert names(opened) == ["cats/one.jpg", "cats/two.jpg", "dogs/three.jpg"]


def test_an_id_is_found_whatever_its_case(opened):
    choose(opened, id="CATS/T")
    assert names(opened) == ["cats/two.jpg"]


def test_the_strength_grows_with_the_slider(opened):
    strengths = []
    for strength in (0, 25, 50, 75, 100):
        choose(opened, strength=strength)
        strengths.append(blueness(view(opened)[0]))
    assert abs(strengths[0]) < 5
    assert all(later > earlier + 20 for earlier, later in itertools.pairwise(strengths))


def test_one_scale_for_the_page_leaves_weak_labels_pale(opened):
    choose(opened, scale="page")
    opened.click(".card tbody tr:nth-child(2) button")
    left, _, _ = view(opened)
    assert -40 < blueness(left) < 0
    assert opened.js("document.querySelector('.card .scale span').textContent") == f"{MINUS}0.5000"
