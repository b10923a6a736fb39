"""gpulime beside lime, captum and shap in one run: who is wrong gets no time, who is missing is named."""

from __future__ import annotations

import gc
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))  # benchmarks/ is part of the checkout, not of the package

from benchmarks import markdown, models, rows
from benchmarks.peers import __main__ as peers
from benchmarks.peers import compare, field
from benchmarks.peers import table as peers_table
from benchmarks.peers.captum import captum_lime
from benchmarks.peers.compare import Row
from benchmarks.peers.field import Comparison, Peer
from benchmarks.setups import Setup
from benchmarks.sides import definition, engine, segment_means
from benchmarks.timer import Side

SETUP = Setup("few pixels", n=2, s=200, b=50, sampler="lime")
PACKAGES = {"lime": "lime", "captum Lime": "captum", "captum KernelShap": "captum", "shap Partition": "shap"}


@pytest.fixture(autouse=True, scope="module")
def _no_garbage_of_others():
    """The clock collects garbage before each run, and what all tests have loaded is a lot to look through."""
    gc.freeze()
    yield
    gc.unfreeze()


def here(peer):
    """The same in this process."""
    return replace(peer, side=replace(peer.side, process=None))


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """Where --save keeps rows, and no processes: their start is most of a small comparison."""
    monkeypatch.setitem(models.MODELS, "few pixels", models.Model(models.Pixels, 56))
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    monkeypatch.setattr(markdown, "RESULTS", tmp_path)
    monkeypatch.setattr(compare, "GPULIME", here(field.GPULIME))
    monkeypatch.setattr(compare, "DEFINITION", Side("definition", definition))
    compare.definition.cache_clear()
    return lambda: [row for path in (tmp_path / "peers").iterdir() for row in rows.read(path, Row)]


def run(*others, **changes):
    comparison = Comparison("pixels", SETUP, repeats=1, peers=others)
    return peers.main(["--save"], {"cpu": [replace(comparison, **changes)]})


def other(name, make, unlike="", kind=""):
    return Peer(Side(name, make), "numpy", kind or name, unlike)


@pytest.mark.filterwarnings("ignore")  # shap's and numba's own
@pytest.mark.parametrize("peer", field.PEERS, ids=lambda peer: peer.kind)
@pytest.mark.parametrize("segments", [False, True])
def test_a_peer_is_called_as_it_should_be(peer, segments, kept):
    pytest.importorskip(PACKAGES[peer.kind])
    assert run(here(peer), setup=replace(SETUP, segments=segments)) == 0
    ours, theirs = sorted(kept(), key=lambda row: row.side != "gpulime")
    assert (theirs.side, theirs.ok) == (peer.side.name, "yes")
    assert float(theirs.q20) <= float(theirs.s) <= float(theirs.q80)
    assert float(theirs.images_s) == pytest.approx(2 / float(theirs.s), rel=1e-2)
    assert float(theirs.ratio) == pytest.approx(float(theirs.s) / float(ours.s), rel=1e-2)
    assert float(theirs.spearman) > (0.2 if peer.kind == "shap Partition" else 0.6)
    assert (theirs.segmentation, theirs.n, theirs.samples, theirs.batch) == (
        "each its own" if segments else "given",
        "2",
        "200",
        "50",
    )
    assert theirs.version
    assert bool(theirs.unlike) == (peer.kind != "lime")
    assert bool(theirs.error) == (not theirs.unlike)
    assert float(ours.error) < 1e-5


def test_who_has_the_same_masks_and_other_coefficients_gets_no_time(kept):
    def wrong(setup):
        forward = engine(setup)
        return lambda: forward() * 1.001

    assert run(other("wrong", wrong)) == 1
    row = next(row for row in kept() if row.side == "wrong")
    assert (row.s, row.ratio, row.ok) == ("", "", "no")
    assert float(row.error) == pytest.approx(1e-3, rel=0.1)


def test_who_agrees_no_better_than_chance_gets_no_time(kept):
    def chance(setup):
        return lambda: np.random.RandomState(0).randn(*engine(setup)().shape)

    assert run(other("chance", chance, unlike="all")) == 1
    assert next(row for row in kept() if row.side == "chance").s == ""


def test_where_gpulime_is_wrong_others_have_times_and_no_ratios(kept, monkeypatch):
    ours = Peer(Side("gpulime", lambda setup: lambda: engine(setup)() + 1), "gpulime", "gpulime")
    monkeypatch.setattr(compare, "GPULIME", ours)
    assert run(other("right", engine)) == 1
    found = {row.side: (row.ok, bool(row.s), row.ratio) for row in kept()}
    assert found == {"gpulime": ("no", False, ""), "right": ("yes", True, "")}


def missing(setup):
    raise ModuleNotFoundError("No module named 'shap'")


def test_who_is_not_installed_is_left_out_and_named(kept, capsys):
    assert run(other("shap", missing), other("right", engine)) == 0
    assert "shap: left out, No module named 'shap' (pip install -e '.[peers]')" in capsys.readouterr().out
    assert [row.side for row in kept()] == ["gpulime", "right"]


def test_where_nobody_is_compared_it_is_a_failure(kept, capsys):
    assert run(other("shap", missing)) == 1
    assert "nothing was compared: FAILED" in capsys.readouterr().out
    assert [(row.side, row.ok) for row in kept()] == [("gpulime", "yes")]


def test_a_bound_of_those_who_are_left_out_is_said(capsys):
    assert run(other("shap", missing, kind="kin"), other("right", engine), least=(("kin", 3.0),)) == 0
    assert "kin: at least 3 was not looked at, none has a time beside ours" in capsys.readouterr().out


@pytest.mark.parametrize("calls", [0, 1])
def test_one_that_ends_with_an_error_ends_nothing_else(calls, kept, capsys):
    """As it is first called, and inside the clock."""

    def breaks(setup):
        forward, done = engine(setup), []

        def some_times():
            if len(done) == calls:
                raise torch.OutOfMemoryError("no memory\nfor anything")
            done.append(1)
            return forward()

        return some_times

    assert run(other("breaks", breaks), other("right", engine)) == 1
    found = {row.side: row for row in kept()}
    assert (found["breaks"].s, found["breaks"].ok, bool(found["breaks"].error)) == ("", "no", bool(calls))
    assert found["breaks"].reason == "OutOfMemoryError: no memory"
    assert "FAILED OutOfMemoryError: no memory" in capsys.readouterr().out
    assert (found["right"].ok, bool(found["right"].ratio), bool(found["gpulime"].s)) == ("yes", True, True)


def test_where_gpulime_is_left_out_nobody_is_taken_for_it(kept, monkeypatch):
    monkeypatch.setattr(compare, "GPULIME", Peer(Side("gpulime", missing), "gpulime", "gpulime"))
    assert run(other("right", engine)) == 1
    (row,) = kept()
    assert (row.side, row.ok, bool(row.s), row.ratio) == ("right", "yes", True, "")


def test_rows_of_a_trial_lie_apart(tmp_path):
    comparison = Comparison("pixels", SETUP, peers=(other("right", engine),))
    assert peers.main(["--save", "--tiny"], {"cpu": [comparison]}) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    (path,) = (tmp_path / "tiny" / "peers").iterdir()
    assert [row.samples for row in rows.read(path, Row)] == ["100", "100"]


def test_on_a_gpu_an_error_may_be_what_its_precision_brings(monkeypatch):
    found = {"float32": np.array([[1.0, 0.5]]), "bfloat16": np.array([[1.0, 0.2]])}
    monkeypatch.setattr(compare, "definition", lambda setup: found[setup.precision])
    comparison = Comparison("pixels", field.on_a_gpu(SETUP), tolerance=0.1)
    assert compare.limit(comparison) == pytest.approx(0.6)
    assert compare.limit(replace(comparison, setup=SETUP)) == 0.1


@pytest.mark.parametrize(("least", "code"), [(1e-6, 0), (1e6, 1)])
def test_a_bound_is_for_the_fastest_of_a_kind(least, code, kept):
    def slow(setup):
        forward = engine(setup)
        return lambda: sum(forward() for _ in range(8)) / 8

    assert run(other("fast", engine, kind="kin"), other("slow", slow, kind="kin"), least=(("kin", least),)) == code
    found = {row.side: (row.bound, row.ok) for row in kept()}
    assert found["fast"] == (f"at least {least:g}", "no" if code else "yes")
    assert found["slow"] == ("", "yes")


def test_captum_is_given_lime_s_kernel_and_ridge():
    """With very many masks of its own it finds what lime's definition finds."""
    pytest.importorskip("captum")
    setup = replace(SETUP, n=1, s=3000)
    found, expected = (Side("", make).run(setup).coefficients for make in (captum_lime, definition))
    assert np.abs(found - expected).max() < 0.2 * np.abs(expected).max()


@pytest.mark.filterwarnings("ignore")  # shap's and numba's own
@pytest.mark.parametrize("peer", [field.KERNEL_SHAP, field.PARTITION], ids=lambda peer: peer.kind)
def test_shapley_values_add_up_to_what_the_image_brings_over_its_fill(peer):
    """Whoever is given the right image, fill and class finds values whose sum is the change of the output."""
    pytest.importorskip(PACKAGES[peer.kind])
    found = here(peer).side.run(SETUP).coefficients
    fills = torch.stack([segment_means(*pair) for pair in zip(SETUP.normalised, SETUP.label_maps, strict=True)])
    whole, hidden = (SETUP.model(images).softmax(1)[range(SETUP.n), SETUP.targets] for images in (SETUP.normalised, fills))
    np.testing.assert_allclose(found.sum(1), whole - hidden, atol=1e-4)


def test_a_process_of_its_own_for_each_peer_and_names_of_their_own():
    processes = [peer.side.process.name for peer in (field.GPULIME, *field.PEERS)]
    assert len(set(processes)) == len(processes)
    for comparisons in field.COMPARISONS.values():
        assert len({one.name for one in comparisons}) == len(comparisons)
        assert {one.setup.segments for one in comparisons} == {False, True}
        for one in comparisons:
            assert len({peer.side.name for peer in one.peers}) == len(one.peers)
            assert {kind for kind, _ in one.least} <= {peer.kind for peer in one.peers}


def test_the_table_shows_times_and_what_is_not_the_same(tmp_path):
    assert peers_table.render(peers_table.re.compile("")) == "Not measured yet.\n"
    place = {"device": "a device", "torch": "2", "python": "3", "commit": "abc", "date": "today"}
    name = field.EFFICIENTNET.name
    good = {"ok": "yes", **place}
    measured = [
        Row(name, "slow", "1.0", "other kernel", "9", "8", "10", "0.2", "9.000", spearman="0.5", top5="0.60", **good),
        Row(name, "gpulime", "0.1", "", "1", "0.9", "1.1", "2", "1.000", error="3e-06", spearman="0.9", top5="1.00", **good),
        Row(name, "wrong", "2.0", error="0.3", spearman="0.1", top5="0.00", ok="no", **place),
        Row(name, "broken", "2.0", reason="MemoryError: 3 GB", ok="no", **place),
        Row("forgotten", "gpulime", ok="yes", **place),
    ]
    rows.write(tmp_path / "peers" / "a-device.csv", measured, Row)
    text = peers_table.render(peers_table.re.compile(""))
    assert text.startswith("a device; torch 2, Python 3; today, commit abc\n\n| ")
    assert [line.split(" | ")[0] for line in text.splitlines() if line.startswith(f"| {name}")] == [
        f"| {name}: {side}" for side in ("gpulime", "slow", "wrong", "broken")
    ]
    assert f"| {name}: broken | none: MemoryError: 3 GB |  |  |  |  |  |" in text
    assert f"| {name}: gpulime | 1 (0.9 to 1.1) | 2 | **1.000** | 3e-06 | 0.9 | 1.00 |" in text
    assert "none: its coefficients are wrong" in text
    assert "- slow 1.0: other kernel.\n" in text
    assert "forgotten" not in text
