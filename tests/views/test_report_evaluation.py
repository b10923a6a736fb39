"""The evaluation in the report: curves and values on cards, sorts, and the page of all methods."""

from __future__ import annotations

import base64
import datetime
import io
import json
import re

import numpy as np
import pytest
from markup import Page
from PIL import Image
from test_report import HALVES, HOSTILE, explained, of

from gpulime.runs.evaluation import rows, summary
from gpulime.runs.evaluation.rows import EVALUATION, METRICS, Task, task_of
from gpulime.runs.store import store
from gpulime.runs.store.store import Store
from gpulime.views.report import evaluation_page, page

GRAY = np.full((96, 96, 3), 128, np.uint8)
GAPS = {"lime": [0.4, -0.1, 0.7, None], "random": [0.0, 0.1, -0.05, 0.02], "<b>ig": [0.2, 0.3, 0.1, 0.0]}
NAMES = ["one.jpg", HOSTILE[0], "three.jpg", "four.jpg"]
MINUS = "\N{MINUS SIGN}"


def measured(name, method, gap, fill="mean"):
    """The rows of an image, its class 1, whose curves have areas that differ by ``gap``; or that it was lost."""
    task = Task(1, method, "segments", fill, "curves")
    if gap is None:
        return stamped(rows.failed(name, [task], "changed", "it is <i>another</i>"))
    values = dict(zip(METRICS["curves"], (0.5 - gap / 2, 0.5 + gap / 2, gap, 0.25, 0.125), strict=True))
    found = [rows.row_of(name, task, metric) | {"value": value} for metric, value in values.items()]
    found[0] |= {"curve": [0.9, 0.4, 0.1], "area": [0.0, 0.5, 1.0], "map": np.arange(-512, 512).clip(-127, 127).astype(np.int8)}
    found[0]["map"] = found[0]["map"].tobytes()
    found[1] |= {"curve": [0.1, 0.6, 0.9], "area": [0.0, 0.5, 1.0]}
    return stamped(found)


def stamped(found):
    when = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    return [one | {"written_at": when, "config_hash": "0f" * 8} for one in found]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Four images, two a page, one of which was lost, and an evaluation of two fills."""
    folder = tmp_path_factory.mktemp("runs") / "judged"
    with store.Store(folder) as results:
        for name in NAMES:
            results.append(explained(name, HALVES, [0.5, -0.25, 0.1]))
    store.write_manifest(folder, {"model": "<tiny>", "config_hash": "0f" * 8})
    with Store(folder, of=EVALUATION, flush_rows=3) as results:
        for method, gaps in GAPS.items():
            for name, gap in zip(NAMES, gaps, strict=True):
                results.append({"image_id": name, "rows": measured(name, method, gap)})
        results.append({"image_id": NAMES[0], "rows": measured(NAMES[0], "lime", 0.9, "blur")})
        results.append({"image_id": NAMES[3], "rows": measured(NAMES[3], "lime", None)})  # again
    summary.write(folder, summary.of(folder, {"lrp": "no <b>rule</b>"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "MOST_CARDS", 2)
        page.write(folder, lambda row: of(GRAY), ["tench", "<tabby>", "lynx"])
    return folder


def test_cards_show_values_and_curves_beside_random(run):
    shown = Page(run / "report.html")
    cells = [" ".join(text.split()) for text in shown.texts("td")]
    assert {"0.300", "0.700", "0.400", "0.500", "0.000"} <= set(cells)
    assert not {"0.900", "0.050"} & set(cells)  # of the other fill
    assert "minimal deletion 0.125 · IROF 0.250" in shown.texts("p")
    lines = [line for line in shown.all("polyline") if line["points"].count(",") == 3]
    assert [line["class"] for line in lines] == ["random", "lime"] * 4  # two cards with two panels
    x, y = (float(value) for value in lines[1]["points"].split()[1].split(","))
    assert (x, y) == (60, pytest.approx(60 * (1 - 0.4 / 0.9), abs=0.05))
    last = (run / "report-2.html").read_text()
    assert "Not measured, changed: it is &lt;i&gt;another&lt;/i&gt;" in last
    [found] = [link for link in shown.all("a") if link["href"] == "evaluation.html"]
    assert found["text"] == "All methods in a table, and their maps"
    assert "Evaluated by segments, fill mean" in shown.source


def test_the_index_has_the_metrics_that_are_sorted_by(run):
    [script] = Page(run / "report.html").all("script", id="index")
    index = json.loads(script["text"])
    assert index["metrics"] == [["g", f"insertion {MINUS} deletion"], ["d", "deletion"], ["n", "insertion"]]
    assert [image[5:] for image in index["images"]] == [[0.4, 0.3, 0.7], [-0.1, 0.55, 0.45], [0.7, 0.15, 0.85], [None] * 3]
    options = {option["value"]: option["text"] for option in Page(run / "report.html").all("option")}
    assert options["g-"] == f"insertion {MINUS} deletion, highest first"


def test_the_page_of_methods_is_self_contained_and_escapes_names(run):
    shown = Page(run / "evaluation.html")
    assert not shown.all("script")
    assert not shown.all("b")
    assert not shown.all("i")
    assert all(image["src"].startswith("data:image/png;base64,") for image in shown.all("img"))
    assert {link["href"] for link in shown.all("a")} == {"report.html"}
    targets = re.findall(r"url\(([^)]*)\)", shown.source)
    assert targets
    assert all(target.startswith("data:image/jpeg;base64,") for target in targets)
    heads = shown.texts("th")
    assert heads.index("lime") < heads.index("random") < heads.index("<b>ig")
    assert shown.texts("h2")[0] == "Deletion and insertion by segments, fill blur"
    assert "not available: no <b>rule</b>" in shown.texts("dd")
    assert [text for text in shown.texts("figcaption") if text.startswith("lime")] == [
        "lime 0.400",
        f"lime {MINUS}0.100",
        "lime 0.700",
    ]
    assert shown.texts("h3") == [NAMES[0], NAMES[1], NAMES[2], NAMES[3]]
    assert 'class="maps" style="--columns: 4"' in shown.source


def test_a_map_is_blue_for_the_label_and_orange_against_it():
    values = np.zeros((rows.SIDE, rows.SIDE), np.int8)
    values[0, 0], values[0, 1] = 127, -64
    png = base64.b64decode(evaluation_page.map_uri(values).split(",")[1])
    pixels = np.asarray(Image.open(io.BytesIO(png)))
    assert pixels[0, 0].tolist() == [0x2B, 0x7F, 0xFF, 254]
    assert pixels[0, 1].tolist() == [0xFF, 0x7A, 0x1A, 128]
    assert pixels[1, 1, 3] == 0


@pytest.mark.parametrize(("tiles", "columns"), [(0, 1), (1, 1), (5, 5), (8, 8), (9, 5), (10, 5), (16, 8), (17, 6)])
def test_no_tile_stands_alone(tiles, columns):
    assert evaluation_page.even_columns(tiles) == columns


def test_the_same_maps_are_said(run, tmp_path):
    assert summary.of(run, {}).notes == {}
    ramp = measured("a", "gradient", 0.1)[0]["map"]
    for name, map_, expected in (
        ("ramp", ramp, {"guided_backprop": ["the stored maps, 32 x 32, are those of gradient"]}),
        ("constant", bytes(len(ramp)), {}),
    ):
        store.write_manifest(tmp_path / name, {"config_hash": "0f" * 8})
        with Store(tmp_path / name, of=EVALUATION) as results:
            for image_id in NAMES:
                for method in ("gradient", "guided_backprop"):
                    first, *others = measured(image_id, method, 0.1)
                    results.append({"image_id": image_id, "rows": [first | {"map": map_}, *others]})
        assert summary.of(tmp_path / name, {}).notes == expected


def test_a_row_counts_once_and_a_measured_one_before_a_failure(run):
    table = rows.read(run)
    keys = [tuple(row[name] for name in rows.KEY) for row in table.to_pylist()]
    assert len(keys) == len(set(keys))
    done, again = rows.done(run), rows.done(run, again=True)
    lost = Task(1, "lime", "segments", "mean", "curves")
    assert lost in done[NAMES[3]]
    assert lost not in again[NAMES[3]]
    copy = run.with_name("again")
    first, second = measured("a", "lime", 0.5), measured("a", "lime", None)
    store.write_manifest(copy, {"config_hash": "0f" * 8})
    for one in (first, second):
        with Store(copy, of=EVALUATION) as results:
            results.append({"image_id": "a", "rows": one})
    values = {row["metric"]: row["value"] for row in rows.read(copy).to_pylist()}
    assert values["gap"] == 0.5
    assert {task_of(row) for row in rows.read(copy).to_pylist()} == {lost}


def test_rows_of_another_program_do_not_break_the_pages(run, tmp_path):
    copy = tmp_path / "foreign"
    with store.Store(copy) as results:
        results.append(explained("a", HALVES, [0.5, -0.25, 0.1]))
    store.write_manifest(copy, {"config_hash": "0f" * 8})
    deletion, insertion, *others = measured("a", "lime", 0.5)
    odd = [{**deletion, "curve": [0.5, None, 0.1], "map": b"short"}, {**insertion, "area": [0.0]}, *others]
    with Store(copy, of=EVALUATION) as results:
        results.append({"image_id": "a", "rows": [*odd, {**deletion, "metric": "of a later version"}]})
        results.append({"image_id": "b", "rows": measured("b", "lime", 0.25)})  # of no image of the run
    page.write(copy, lambda row: None, None)
    shown = Page(copy / "report.html")
    assert f"{0.5:.3f}" in [" ".join(text.split()) for text in shown.texts("td")]
    assert not [line for line in shown.all("polyline") if line["points"].count(",") > 2]
    assert "of a later version" not in (copy / "evaluation.html").read_text()


@pytest.mark.long
def test_cards_and_the_table_of_the_run_are_sorted_by_a_metric(run, chromium):
    chromium.open((run / "report.html").as_uri())
    control = "document.querySelector('[name=sort]')"
    chromium.js(f"{control}.value = 'g-'; {control}.dispatchEvent(new Event('input', {{bubbles: true}}))")
    assert chromium.js("[...document.querySelectorAll('.card h3')].map((one) => one.textContent)") == NAMES[:2]
    lines = chromium.js(
        "[...document.querySelectorAll('.run tbody tr')].map((row) => [...row.cells].map((one) => one.textContent))"
    )
    assert [line[1] for line in lines] == [NAMES[2], NAMES[0], NAMES[1], NAMES[3]]
    assert [line[5:8] for line in lines] == [
        ["0.700", "0.150", "0.850"],
        ["0.400", "0.300", "0.700"],
        [f"{MINUS}0.100", "0.550", "0.450"],
        ["\N{EN DASH}"] * 3,
    ]
    heads = chromium.js("[...document.querySelectorAll('.run th')].map((one) => one.textContent)")
    assert heads[5:8] == [f"Insertion {MINUS} deletion", "Deletion", "Insertion"]
    assert chromium.problems() == []


@pytest.mark.long
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 420])
def test_nothing_is_wider_than_the_page(run, chromium, theme, width):
    chromium.size(width, 1000)
    chromium.theme(theme)
    for name in ("report.html", "evaluation.html"):
        chromium.open((run / name).as_uri())
        assert chromium.js("document.documentElement.scrollWidth") <= width
        assert chromium.problems() == []
