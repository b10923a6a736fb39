"""gpulime, lime, captum and shap in one run: wrong peers get no time, missing peers are named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import models, rows, table
from benchmarks.peers import __main__ as peers
from benchmarks.peers import compare, field
from benchmarks.peers.captum import captum_lime
from benchmarks.peers.compare import Row
from benchmarks.peers.field import Comparison, Peer
from benchmarks.setups import Setup
from benchmarks.sides import Side, definition, engine, segment_means

SETUP = Setup("few pixels", n=2, s=200, b=50, sampler="lime")
PACKAGES = {"lime": "lime", "captum Lime": "captum", "captum KernelShap": "captum", "shap Partition": "shap"}


def here(peer):
    """The same in this process."""
    return replace(peer, side=replace(peer.side, process=None))


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """Keep rows outside the repository, and start no processes; return the function that reads the rows."""
    monkeypatch.setitem(models.MODELS, "few pixels", models.Model(models.Pixels, 56))
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    monkeypatch.setattr(compare, "GPULIME", here(field.GPULIME))
    monkeypatch.setattr(compare, "DEFINITION", Side("definition", definition))
    compare.definition.cache_clear()
    return lambda: {row.side: row for path in (tmp_path / "peers").iterdir() for row in rows.read(path, Row)}


def run(*others, **changes):
    comparison = Comparison("pixels", SETUP, repeats=1, peers=others)
    return peers.main(["--save"], {"cpu": [replace(comparison, **changes)]})


def other(name, make, unlike="", kind=""):
    return Peer(Side(name, make), "numpy", kind or name, unlike)


@pytest.mark.filterwarnings("ignore")  # shap's and numba's own
@pytest.mark.parametrize("peer", field.PEERS, ids=lambda peer: peer.kind)
@pytest.mark.parametrize("segments", [False, True])
def test_a_peer_explains_the_same_problem(peer, segments, kept):
    pytest.importorskip(PACKAGES[peer.kind])
    assert run(here(peer), setup=replace(SETUP, segments=segments)) == 0
    ours, theirs = kept()["gpulime"], kept()[peer.side.name]
    assert theirs.ok == "yes"
    assert float(theirs.q20) <= float(theirs.s) <= float(theirs.q80)
    assert float(theirs.images_s) == pytest.approx(2 / float(theirs.s), rel=1e-2)
    assert float(theirs.ratio) == pytest.approx(float(theirs.s) / float(ours.s), rel=1e-2)
    assert float(theirs.spearman) > (0.2 if peer.kind == "shap Partition" else 0.6)
    problem = (theirs.segmentation, theirs.n, theirs.samples, theirs.batch)
    assert problem == ("each its own" if segments else "given", "2", "200", "50")
    assert theirs.version
    assert bool(theirs.unlike) == (peer.kind != "lime") == (not theirs.error)
    assert float(ours.error) < 1e-5


def wrong(setup):
    forward = engine(setup)
    return lambda: forward() * 1.001


def chance(setup):
    return lambda: np.random.RandomState(0).randn(*engine(setup)().shape)


def missing(setup):
    raise ModuleNotFoundError("No module named 'shap'")


def test_wrong_peers_get_no_time(kept):
    """With the same masks coefficients must be the same, with others they must agree better than chance."""
    assert run(other("wrong", wrong), other("chance", chance, unlike="all")) == 1
    assert [(kept()[name].s, kept()[name].ratio, kept()[name].ok) for name in ("wrong", "chance")] == [("", "", "no")] * 2
    assert float(kept()["wrong"].error) == pytest.approx(1e-3, rel=0.1)


@pytest.mark.parametrize("make", [lambda setup: lambda: engine(setup)() + 1, missing], ids=["wrong", "missing"])
def test_without_gpulime_others_have_times_and_no_ratios(make, kept, monkeypatch):
    monkeypatch.setattr(compare, "GPULIME", Peer(Side("gpulime", make), "gpulime", "gpulime"))
    assert run(other("right", engine)) == 1
    assert (kept()["right"].ok, bool(kept()["right"].s), kept()["right"].ratio) == ("yes", True, "")
    assert "gpulime" not in kept() or not kept()["gpulime"].s


def test_a_missing_peer_is_left_out_and_named_with_the_bounds_that_were_not_checked(kept, capsys):
    assert run(other("shap", missing, kind="kin"), other("right", engine), least=(("kin", 3.0),)) == 0
    printed = capsys.readouterr().out
    assert "shap: left out, No module named 'shap' (pip install -e '.[peers]')" in printed
    assert "kin: at least 3 was not checked, none has a time beside ours" in printed
    assert list(kept()) == ["gpulime", "right"]
    assert run(other("shap", missing)) == 1
    assert "nothing was compared: FAILED" in capsys.readouterr().out


@pytest.mark.parametrize("calls", [0, 1], ids=["at its first call", "inside the clock"])
def test_a_peer_that_fails_ends_no_other(calls, kept, capsys):
    def breaks(setup):
        forward, done = engine(setup), []

        def some_times():
            if len(done) == calls:
                raise torch.OutOfMemoryError("no memory\nfor anything")
            done.append(1)
            return forward()

        return some_times

    assert run(other("breaks", breaks), other("right", engine)) == 1
    broken, right = kept()["breaks"], kept()["right"]
    assert (broken.s, broken.ok, bool(broken.error)) == ("", "no", bool(calls))
    assert broken.reason == "OutOfMemoryError: no memory for anything"
    assert "FAILED OutOfMemoryError: no memory" in capsys.readouterr().out
    assert (right.ok, bool(right.ratio), bool(kept()["gpulime"].s)) == ("yes", True, True)


def test_rows_of_a_trial_are_kept_apart(tmp_path):
    comparison = Comparison("pixels", SETUP, peers=(other("right", engine),))
    assert peers.main(["--save", "--tiny"], {"cpu": [comparison]}) == 0
    (path,) = tmp_path.rglob("*.csv")
    assert path.parent == tmp_path / "tiny" / "peers"
    assert [row.samples for row in rows.read(path, Row)] == ["100", "100"]


@pytest.mark.parametrize(("least", "code"), [(1e-6, 0), (1e6, 1)])
def test_a_bound_is_for_the_fastest_of_a_kind(least, code, kept):
    def slow(setup):
        forward = engine(setup)
        return lambda: sum(forward() for _ in range(8)) / 8

    assert run(other("fast", engine, kind="kin"), other("slow", slow, kind="kin"), least=(("kin", least),)) == code
    assert (kept()["fast"].bound, kept()["fast"].ok) == (f"at least {least:g}", "no" if code else "yes")
    assert (kept()["slow"].bound, kept()["slow"].ok) == ("", "yes")


def test_captum_is_given_lime_s_kernel_and_ridge():
    """With many masks of its own it finds the coefficients of lime's definition."""
    pytest.importorskip("captum")
    setup = replace(SETUP, n=1, s=3000)
    found, expected = (Side("", make).run(setup).coefficients for make in (captum_lime, definition))
    assert np.abs(found - expected).max() < 0.2 * np.abs(expected).max()


@pytest.mark.filterwarnings("ignore")  # shap's and numba's own
@pytest.mark.parametrize("peer", [field.KERNEL_SHAP, field.PARTITION], ids=lambda peer: peer.kind)
def test_shapley_values_add_up_to_the_difference_between_the_image_and_its_fill(peer):
    """Image, fill and class are the right ones."""
    pytest.importorskip(PACKAGES[peer.kind])
    found = here(peer).side.run(SETUP).coefficients
    fills = torch.stack([segment_means(*pair) for pair in zip(SETUP.normalised, SETUP.label_maps, strict=True)])
    whole, hidden = (SETUP.model(images).softmax(1)[range(SETUP.n), SETUP.targets] for images in (SETUP.normalised, fills))
    np.testing.assert_allclose(found.sum(1), whole - hidden, atol=1e-4)


def test_each_peer_has_a_process_and_a_name_of_its_own():
    processes = [peer.side.process.name for peer in (field.GPULIME, *field.PEERS)]
    assert len(set(processes)) == len(processes)
    for comparisons in field.COMPARISONS.values():
        assert len({one.name for one in comparisons}) == len(comparisons)
        assert {one.setup.segments for one in comparisons} == {False, True}
        for one in comparisons:
            assert len({peer.side.name for peer in one.peers}) == len(one.peers)
            assert {kind for kind, _ in one.least} <= {peer.kind for peer in one.peers}


def test_the_table_shows_times_and_the_differences_that_remain():
    name = field.EFFICIENTNET.name
    measured = [
        Row(name, "slow", "1.0", "other kernel", "9", "8", "10", "0.2", "9.000", spearman="0.5", top5="0.60"),
        Row(name, "gpulime", "0.1", "", "1", "0.9", "1.1", "2", "1.000", error="3e-06", spearman="0.9", top5="1.00"),
        Row(name, "wrong", "2.0", error="0.3", spearman="0.1", top5="0.00"),
        Row(name, "broken", "2.0", reason="MemoryError: 3 GB"),
        Row("forgotten", "gpulime"),
    ]
    text = table.of_peers(measured)
    assert [line.split(" | ")[0] for line in text.splitlines() if line.startswith(f"| {name}")] == [
        f"| {name}: {side}" for side in ("gpulime", "slow", "wrong", "broken")
    ]
    assert f"| {name}: broken | none: MemoryError: 3 GB |  |  |  |  |  |" in text
    assert f"| {name}: gpulime | 1 (0.9 to 1.1) | 2 | **1.000** | 3e-06 | 0.9 | 1.00 |" in text
    assert "none: its coefficients are wrong" in text
    assert "- slow 1.0: other kernel.\n" in text
    assert "forgotten" not in text
