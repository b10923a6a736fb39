"""Benchmarks: an error beside every time, no time for a wrong answer, and a README that shows what was measured."""

from __future__ import annotations

import gc
import math
import re
import sys
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))  # benchmarks/ is part of the checkout, not of the package

from benchmarks import markdown, models, noise, rows, run, setups, table, timer
from benchmarks.bounds import AtLeast, AtMost
from benchmarks.entries import ENTRIES
from benchmarks.entries.engine import EFFICIENCY
from benchmarks.entries.entry import Entry
from benchmarks.op_compiled import op_inside, op_outside
from benchmarks.peers import compare
from benchmarks.peers.drop_in import drop_in_many
from benchmarks.peers.lime import lime_best
from benchmarks.pictures import synthetic
from benchmarks.rows import Row
from benchmarks.setups import Setup
from benchmarks.sides import defined, definition, engine
from benchmarks.timer import Process, Run, Side, Timing, interleaved

COMMITTED = rows.RESULTS
SETUP = Setup("pixels", n=1, s=80, sampler="lime")
ENTRY = Entry(
    name="pixels",
    about="over itself",
    setup=SETUP,
    theirs=(Side("itself", engine),),
    bound=AtMost(1e6),
    reference=Side("definition", definition),
    tolerance=1e-5,
    ours=Side("gpulime", engine),
    repeats=2,
)


@pytest.fixture(autouse=True, scope="module")
def _no_garbage_of_others():
    """The clock collects garbage before each run, and what all tests have loaded is a lot to look through."""
    gc.freeze()
    yield
    gc.unfreeze()


def wrong(setup):
    """An engine whose coefficients are a ten-thousandth too large."""
    forward = engine(setup)
    return lambda: forward() * 1.0001


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """Where --save keeps rows: not in the repository."""
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    return lambda: [row for path in tmp_path.iterdir() for row in rows.read(path)]


# With these weights of chance even a hundred forwards take long; run.py looks at their errors before it starts a clock.
SLOW = {"ResNet-18", "ResNet-50", "ViT-B/16", "ConvNeXt-Tiny"}


COMPILED = (op_inside, op_outside)


def marks(side, model=""):
    """Compiling and a real model take their time."""
    compiled = [pytest.mark.long, pytest.mark.filterwarnings("ignore")] * (side in COMPILED)
    return compiled or [pytest.mark.long] * (model == "EfficientNet-Lite0")


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(entry, marks=marks(entry.ours.make, entry.setup.model_name), id=entry.name)
        for entry in ENTRIES
        if entry.setup.model_name not in SLOW
    ],
)
def test_the_error_of_every_entry_is_within_its_tolerance(entry, request):
    if entry.ours.make in COMPILED:
        request.getfixturevalue("inductor")
    if entry.reference.name == "lime":
        pytest.importorskip("lime")
    if entry.setup.model_name == "EfficientNet-Lite0":
        pytest.importorskip("efficientnet_lite_pytorch")
    setup = entry.tiny().setup
    reference = run.expected(replace(entry.reference, process=None), replace(setup, b=10, precision="float32"))
    error, top5 = run.difference(replace(entry.ours, process=None).run(setup).coefficients, reference)
    assert error <= entry.tolerance
    assert top5 >= (1.0 if setup.precision == "float32" else 0.6)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_one_graph_of_rows_and_model_finds_the_same_in_its_precision(inductor):
    pytest.importorskip("efficientnet_lite_pytorch")
    entry = next(entry for entry in ENTRIES if entry.name == "op_compiled_bfloat16").tiny()
    reference = run.expected(replace(entry.reference, process=None), replace(entry.setup, precision="float32"))
    for side in (entry.ours, *entry.theirs):
        found = replace(side, process=None).run(entry.setup).coefficients
        assert run.difference(found, reference)[0] <= entry.tolerance


SIDES = {(side.make, side.b) for entry in ENTRIES for side in (entry.ours, *entry.theirs)}


@pytest.mark.parametrize(
    ("make", "b"), [pytest.param(make, b, marks=marks(make), id=f"{make.__name__}-{b}") for make, b in SIDES]
)
def test_every_side_runs_and_explains_the_same(make, b, request):
    """On the smallest problem, in this process: the others' time is that of the same work, or at least of work."""
    if make in COMPILED:
        request.getfixturevalue("inductor")
    pytest.importorskip({"captum": "captum"}.get(make.__name__, "lime" if "lime" in make.__name__ else "numpy"))
    coefficients = Side("", make, b=b).run(SETUP).coefficients
    if make.__name__ not in ("bare", "captum"):
        expected = Side("", definition).run(replace(SETUP, b=10)).coefficients
        assert run.difference(coefficients, expected)[0] < (
            1e-4 if make.__name__ in ("drop_in_module", "drop_in_many") else 1e-5
        )


def test_many_images_in_one_queue_are_those_of_lime_s_loop():
    pytest.importorskip("lime")
    setup = replace(SETUP, n=3)
    many, loop = (Side("", make).run(setup).coefficients for make in (drop_in_many, lime_best))
    assert many.shape[0] == 3
    assert run.difference(many, loop)[0] < 1e-4


@pytest.mark.parametrize("name", [entry.name for entry in ENTRIES])
def test_the_bound_was_kept_where_it_was_measured(name):
    """The committed results."""
    measured = [row for path in COMMITTED.glob("*.csv") for row in rows.read(path) if row.entry == name and row.ok]
    if not measured:
        pytest.skip("not measured yet")
    assert [row.device for row in measured if row.ok == "no"] == []


LARGE = {"ViT-B/16", "ConvNeXt-Tiny"}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.long] * (name in LARGE)) for name in models.MODELS])
def test_a_model_tells_pictures_apart_and_is_the_same_every_time(name):
    if name == "EfficientNet-Lite0":
        pytest.importorskip("efficientnet_lite_pytorch")
    side = models.MODELS[name].side
    pictures = (synthetic(2, side, side) - models.MEAN) / models.STD
    with torch.no_grad():
        first, again = (models.MODELS[name].make()(pictures) for _ in range(2))
    assert torch.equal(first, again)
    probabilities = first.softmax(1)
    assert first.shape[1] >= 10
    assert (probabilities[0] - probabilities[1]).abs().max() > 1e-3


def test_making_a_model_draws_no_numbers_of_the_caller_s():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    models.cnn28()
    assert torch.equal(torch.rand(1), expected)


def test_every_model_has_its_efficiency():
    assert {one.model_name for one in EFFICIENCY} == set(models.MODELS) - {"pixels"}
    asked = {(one.model_name, one.precision): one.least for one in EFFICIENCY if one.least}
    assert asked == {("EfficientNet-Lite0", "float32"): 0.96, ("EfficientNet-Lite0", "bfloat16"): 0.94}
    assert all(one.entry().setup.s == 1000 for one in EFFICIENCY if one.model_name != "ViT-B/16")


def test_segments_found_inside_the_clock_are_those_given(monkeypatch):
    """gpulime's segmenter and the others' find the same, so coefficients are the same."""
    given, own = (Side("", engine).run(replace(SETUP, segments=segments)).coefficients for segments in (False, True))
    assert run.difference(own, given)[0] == 0
    searched, search = [], setups.segmented
    monkeypatch.setattr(setups, "segmented", lambda image: searched.append(image) or search(image))
    maps = [replace(SETUP, segments=segments).label_map(0) for segments in (False, True, True)]
    assert torch.equal(maps[0], maps[1])
    assert len(searched) == 2


def test_a_side_may_have_its_own_batch_and_precision():
    seen = []
    side = Side("", lambda setup: seen.append((setup.b, setup.precision)) or (lambda: None), b=3, precision="float32")
    side.run(replace(SETUP, precision="bfloat16"))
    assert seen == [(3, "float32")]


@pytest.mark.parametrize(("bound", "worse", "better"), [(AtMost(2), 1.06, 1.04), (AtLeast(0.1), 0.94, 0.96)])
def test_a_regression_is_more_than_five_percent(bound, worse, better):
    entry, before = replace(ENTRY, bound=bound), {"pixels": Row("pixels", "gpulime", ratio="1.0")}
    assert run.regressed(Row("pixels", "gpulime", ratio=str(worse)), before, entry)
    assert not run.regressed(Row("pixels", "gpulime", ratio=str(better)), before, entry)
    assert not run.regressed(Row("pixels", "gpulime", ratio=str(worse)), {}, entry)


def test_what_asks_for_nothing_says_so():
    assert str(AtLeast()) == "whatever it is"
    assert AtLeast().holds(0.01)


def test_a_row_says_where_what_and_when(kept):
    run.main(["--save", "--repeats", "1"], [ENTRY])
    for row in kept():
        assert all((row.device, row.torch, row.python, row.commit, row.date, row.cpu_s))


def test_entries_are_data_with_names_of_their_own():
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)
    assert {entry.setup.precision for entry in ENTRIES if entry.name.endswith("bfloat16")} == {"bfloat16"}
    assert all(hash(entry) for entry in ENTRIES)


def test_time_and_error_are_kept_together(kept, capsys):
    assert run.main(["--save"], [ENTRY]) == 0
    ours, theirs = kept()
    assert [ours.side, theirs.side] == ["gpulime", "itself"]
    assert ours.ok == "yes"
    assert 0 <= float(ours.error) <= 1e-5
    assert float(ours.q20) <= float(ours.cpu_s) <= float(ours.q80)
    assert math.isclose(float(ours.ratio), float(ours.cpu_s) / float(theirs.cpu_s), rel_tol=0.1)
    assert (ours.rows, ours.repeats, ours.top5) == ("80", "2", "1.00")
    assert "ok" in capsys.readouterr().out


def test_a_wrong_side_gets_no_time_and_fails(kept, capsys):
    assert run.main(["--save"], [replace(ENTRY, ours=Side("gpulime", wrong))]) == 1
    (row,) = kept()
    assert (row.cpu_s, row.wall_s, row.ratio, row.ok) == ("", "", "", "no")
    assert float(row.error) == pytest.approx(1e-4, rel=0.1)
    assert "no time" in capsys.readouterr().out


def test_an_answer_that_is_not_a_number_fails():
    nan = replace(ENTRY, ours=Side("gpulime", lambda setup: lambda: engine(setup)() * math.nan))
    assert run.main([], [nan]) == 1


@pytest.mark.parametrize("bound", [AtMost(1e-6), AtLeast(1e6)])
def test_a_missed_bound_fails(bound, kept):
    assert run.main(["--save"], [replace(ENTRY, bound=bound)]) == 1
    assert (kept()[0].ok, kept()[0].bound) == ("no", str(bound))


def test_save_replaces_the_rows_of_what_ran(kept):
    entries = [replace(ENTRY, name=name) for name in ("first", "second", "third")]
    run.main(["--save", "--repeats", "1"], entries)
    before = kept()
    rows.write(rows.results_file(before[0].device), [*before, Row("forgotten", "gpulime")])  # by another version
    run.main(["--save", "--repeats", "1", "--only", "second"], entries)
    after = kept()
    assert [row.entry for row in after] == [row.entry for row in before]
    assert [row for row in after if row.entry != "second"] == [row for row in before if row.entry != "second"]


@pytest.mark.parametrize(("bound", "faster"), [(AtMost(1e6), 0.01), (AtLeast(1e-6), 100)])
def test_against_fails_where_a_ratio_was_better(bound, faster, tmp_path, capsys):
    entry = replace(ENTRY, bound=bound)
    file = tmp_path / "earlier.csv"
    rows.write(file, [Row("pixels", "gpulime", ratio=str(1 / faster)), Row("pixels", "itself", ratio="7")])
    assert run.main(["--against", str(file)], [entry]) == 0
    rows.write(file, [Row("pixels", "gpulime", ratio=str(faster)), Row("pixels", "itself", ratio="7")])
    assert run.main(["--against", str(file)], [entry]) == 1
    assert "slower than before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "there is no file"), ("", "has no rows"), ("entry,side\n", "has no rows"), ("axis,value\ns,40\n", "other columns")],
)
def test_against_what_is_no_file_of_results_is_refused(content, reason, tmp_path, capsys):
    file = tmp_path / "earlier.csv"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SystemExit) as stopped:
        run.main(["--against", str(file)], [ENTRY])
    assert stopped.value.code == 2
    assert reason in capsys.readouterr().err


def test_against_names_what_it_does_not_compare(tmp_path, capsys):
    def missing(setup):
        raise ModuleNotFoundError("No module named 'lime'")

    file = tmp_path / "earlier.csv"
    earlier = [Row(name, "gpulime", ratio="100") for name in ("pixels", "not installed")]
    rows.write(file, [*earlier, Row("without a time", "gpulime", ok="no")])
    entries = [replace(ENTRY, name=name, repeats=1) for name in ("new", "pixels", "without a time")]
    skipped = replace(ENTRY, name="not installed", theirs=(Side("lime", missing),))
    assert run.main(["--against", str(file)], [*entries, skipped]) == 0
    named, entry = set(), ""
    for line in capsys.readouterr().out.splitlines():
        if line.startswith("    not compared with"):
            named.add(entry)
        elif not line.startswith(" "):
            entry = line.partition(":")[0]
    assert named == {"new", "without a time", "not installed"}


def test_against_without_anything_to_compare_is_a_failure(tmp_path, capsys):
    file = tmp_path / "earlier.csv"
    rows.write(file, [Row("another", "gpulime", ratio="1")])
    arguments = ["--repeats", "1", "--against", str(file)]
    assert run.main(arguments, [ENTRY]) == 1
    assert f"nothing was compared with {file}: FAILED" in capsys.readouterr().out
    rows.write(file, [Row("pixels", "gpulime", ratio="100")])
    assert run.main(arguments, [ENTRY]) == 0


def test_a_peer_that_is_not_installed_is_skipped_with_its_reason(kept, capsys):
    def missing(setup):
        raise ModuleNotFoundError("No module named 'lime'")

    assert run.main(["--save"], [replace(ENTRY, theirs=(Side("lime", missing),))]) == 0
    assert "skipped, No module named 'lime'" in capsys.readouterr().out
    assert kept() == []


def test_an_unknown_entry_is_refused(capsys):
    with pytest.raises(SystemExit):
        run.main(["--only", "pixel"], [ENTRY])
    assert "pixels" in capsys.readouterr().err


def test_the_definition_takes_its_setup_s_precision():
    setup = Setup("28x28 CNN", n=2, s=120)
    exact, rounded = (definition(replace(setup, precision=precision))() for precision in ("float32", "bfloat16"))
    assert 1e-4 < run.difference(rounded, exact)[0] < 0.2


def test_the_definition_s_convolutions_are_not_rounded_to_tf32():
    cudnn, seen = torch.backends.cudnn, []

    def convolutions():
        return cudnn.conv.fp32_precision if hasattr(cudnn, "conv") else cudnn.allow_tf32

    before = convolutions()

    def classify(rows):
        seen.append(convolutions())
        return rows.flatten(1)[:, :3]

    labels = torch.arange(64).view(8, 8) // 16
    found = defined(classify, torch.rand(3, 8, 8), labels, 0, torch.rand(40, 4) < 0.5, 20)
    assert found.shape == (4,)
    assert seen in (["ieee", "ieee"], [False, False])
    assert convolutions() == before


@pytest.mark.parametrize(("found", "most"), [(0.0, 0.2), (0.09, 0.2), (0.3, 0.6), (5.0, 0.9)])
def test_an_error_may_be_what_rounding_brings_and_never_that_of_nothing_found(found, most):
    assert noise.in_bfloat16(found) == pytest.approx(most)
    assert noise.in_tf32(found) == pytest.approx(most / 8)


def test_sides_take_turns_and_their_preparation_is_not_timed():
    turns = []

    def of(name):
        def make(setup):
            turns.append(f"{name} made")
            return lambda: turns.append(name)

        return Side(name, make)

    timings = interleaved([of("a"), of("b")], SETUP, 3)
    assert turns == ["a made", "a", "b made", "b", "b", "a", "a", "b"]
    assert all(timing.spread[0] <= timing.cpu <= timing.spread[1] for timing in timings)


def test_a_paired_ratio_is_that_of_neighbouring_runs():
    """A machine that becomes four times as slow between two repeats changes no ratio."""
    ours, theirs = (Timing(tuple(Run(None, cpu, cpu) for cpu in times)) for times in ((1, 4, 4.1), (2, 8, 8)))
    assert ours.paired(theirs, AtMost(1).ratio) == 0.5
    assert ours.paired(theirs, AtLeast(1).ratio) == 2
    assert ours.cpu == 4


def keeps_memory(setup):
    """Whether this process was started to keep memory, as a coefficient."""
    import os

    import numpy as np

    return lambda: np.array([[float("MALLOC_MMAP_MAX_" in os.environ), os.getpid()]])


def dies(setup):
    """Ends its process."""
    import os

    os._exit(1)


@pytest.mark.long
def test_a_process_that_dies_is_replaced():
    process = Process("dies")
    with pytest.raises(timer.BrokenProcessPool):
        Side("", dies, process).run(SETUP)
    assert Side("", keeps_memory, process).run(SETUP).coefficients[0, 0] == 0


@pytest.mark.long
def test_sides_have_processes_of_their_own():
    kept, again, plain = (
        Side("", keeps_memory, process).run(SETUP).coefficients[0]
        for process in (Process("kept", keeps_memory=True), Process("kept", keeps_memory=True), Process("plain"))
    )
    assert (kept[0], plain[0]) == (1, 0)
    assert kept[1] == again[1] != plain[1]
    assert len({kept[1], plain[1], keeps_memory(SETUP)()[0, 1]}) == 3
    new = Side("", keeps_memory, Process("new", fresh=True))
    assert len({new.run(SETUP).coefficients[0, 1] for _ in range(2)}) == 2


@pytest.mark.parametrize(("page", "blocks"), table.PAGES.items(), ids=lambda value: getattr(value, "name", ""))
def test_pages_show_the_results(page, blocks, monkeypatch):
    monkeypatch.setattr(markdown, "RESULTS", COMMITTED)
    text = page.read_text(encoding="utf-8")
    assert table.written(text, blocks) == text, "python -m benchmarks.table --write"


def test_a_block_without_results_says_so(tmp_path, monkeypatch):
    """Where no file is, and where files are of other things."""
    for module in (markdown, table):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    blocks = [block for of_page in table.PAGES.values() for block in of_page.values()]
    assert {block() for block in blocks} == {"Not measured yet.\n"}
    rows.write(tmp_path / "device.csv", [Row("forgotten", "gpulime", cpu_s="1", ratio="1")])
    rows.write(tmp_path / "peers" / "device.csv", [compare.Row("forgotten", "gpulime", ok="yes")], compare.Row)
    assert {block() for block in blocks} == {"Not measured yet.\n"}


def test_a_cell_may_have_any_text():
    assert markdown.lines(["a", "b"], [["1 | 2", "3"]]).splitlines()[-1] == r"| 1 \| 2 | 3 |"


def test_rows_of_a_trial_lie_apart_and_git_ignores_them(tmp_path):
    assert rows.results_file("A device", "growth") == tmp_path / "growth" / "a-device.csv"
    assert rows.results_file("A device", "growth", tiny=True) == tmp_path / "tiny" / "growth" / "a-device.csv"
    assert rows.results_file("A device") == tmp_path / "a-device.csv"
    ignored = (Path(__file__).parent.parent / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "/benchmarks/results/tiny/" in ignored


def test_a_page_without_markers_is_refused(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("nothing\n")
    with pytest.raises(SystemExit):
        table.main(["--write"], {page: {"peers": lambda: ""}})
    assert "has no <!-- peers --> and <!-- /peers -->" in capsys.readouterr().err


def test_the_table_has_a_row_per_entry(tmp_path, monkeypatch):
    entry = ENTRIES[-1]
    place = {field.name: field.name for field in fields(Row) if field.name in rows.where()}
    times = [("gpulime", "1.0", "7.0"), ("slow", "9.0", "9.0"), ("fast", "7.0", "7.0")]
    measured = [
        Row(entry.name, side, cpu_s=cpu, ratio=ratio, bound="at least 6", ok="yes", error="3e-07", top5="1.00", **place)
        for side, cpu, ratio in times
    ]
    failed = Row(ENTRIES[0].name, "gpulime", ok="no", error="0.3", **place)
    rows.write(tmp_path / "device.csv", [failed, *measured])
    monkeypatch.setattr(table, "RESULTS", tmp_path)
    everything = {"benchmarks": partial(table.render, re.compile(""))}
    text = everything["benchmarks"]()
    (line,) = [line for line in text.splitlines() if entry.about in line]
    assert all(part in line for part in ("**7.0**", "at least 6", "1.00 s", "7.00 s, fast", "3e-07"))
    assert ENTRIES[0].about not in text
    assert "device; torch torch, Python python; date, commit commit" in text

    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- benchmarks -->\nold\n<!-- /benchmarks -->\nafter\n")
    table.main(["--write"], {readme: everything})
    assert readme.read_text() == f"before\n<!-- benchmarks -->\n{text}<!-- /benchmarks -->\nafter\n"
    table.main(["--write"], {readme: everything})
    assert readme.read_text().count("before") == 1
