"""One bad image fails alone; a fault of the model, the device or the disk ends the run with a message."""

import contextlib
import errno
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch import nn

import gpulime
from gpulime import config
from gpulime.engine import engine
from gpulime.runs import isolation
from gpulime.runs.isolation import UNPROVEN_IMAGES
from gpulime.runs.progress import heartbeat
from gpulime.runs.progress.exits import DeviceLostError, FailuresInARowError, ModelFailsError, NotWritableError
from gpulime.runs.progress.signals import Stopped
from gpulime.runs.reading import images
from gpulime.runs.store import store
from gpulime.segments import Grid

SMALL = {"n_samples": 20, "segments": Grid(3, 3), "batch_size": 16, "report": False}
pytestmark = pytest.mark.usefixtures("counted")

SIXTEENTH = 1 / 16  # a mark that survives the mean of a segment exactly


class Marked:
    """Noise in two channels, and in the third the image's number."""

    def __init__(self, n=12):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        image = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(i))
        image[2] = (i + 1) % 16 * SIXTEENTH
        return image


class Model(nn.Module):
    """Four classes; raises ``error`` where a row of the images ``bad`` is among those given, and otherwise notes how many."""

    def __init__(self, bad=(), error=None):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12, 4, generator=torch.Generator().manual_seed(0)))
        self.bad, self.error, self.sizes, self.refused = bad, error, [], []

    def forward(self, x):
        numbers = (x[:, 2, 0, 0] / SIXTEENTH).round().long() - 1
        if any(int(number) in self.bad for number in numbers):
            self.refused.append(len(x))
            raise self.error
        self.sizes.append(len(x))
        return nn.functional.adaptive_avg_pool2d(x, 2).flatten(1) @ self.weight


def explain(model, out, dataset=None, **settings):
    return gpulime.runs.explain(model, dataset or Marked(), out, **{**SMALL, **settings})


def flush_rows(monkeypatch, rows):
    settings = config.StoreConfig(flush_rows=rows)
    monkeypatch.setattr(config, "StoreConfig", lambda: settings)


def rows_of(out):
    return {row["image_id"]: row for row in store.read(out).to_pylist()}


def assert_same_explanations(out, clean, ids):
    here, there = rows_of(out), rows_of(clean)
    assert ids
    for name in ids:
        assert (here[name]["status"], here[name]["labels"]) == ("ok", there[name]["labels"])
        largest = np.abs(there[name]["coef"]).max()
        np.testing.assert_allclose(here[name]["coef"], there[name]["coef"], rtol=0, atol=1e-5 * largest)


@pytest.fixture(params=[0, 1], ids=["at once", "one ahead"], autouse=True)
def ahead(request, monkeypatch):
    """Explanations come at once, as on a CPU, or one flight of a few images later, as on a GPU."""
    monkeypatch.setattr(isolation, "AHEAD", {"cpu": request.param, "cuda": request.param})
    monkeypatch.setitem(engine.FLIGHT_ROWS, "cpu", 60 if request.param else engine.FLIGHT_ROWS["cpu"])
    return request.param


# Tests of what does not depend on it.
at_once = pytest.mark.parametrize("ahead", [0], ids=["at once"], indirect=True)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """The run of a model that does not fail."""
    out = tmp_path_factory.mktemp("clean")
    explain(Model(), out)
    return out


@pytest.mark.parametrize(
    ("b", "bad"), [(7, (0,)), (64, (0,)), (16, (5,)), (16, (11,)), (7, (3, 4, 9)), (64, (3, 4, 9))], ids=str
)
def test_a_model_that_raises_for_some_images_costs_these_and_no_other(bad, b, clean, tmp_path):
    outcome = explain(Model(bad, ValueError("cannot be classified")), tmp_path, batch_size=b)
    assert (outcome.ok, outcome.failed) == (12 - len(bad), len(bad))
    rows = rows_of(tmp_path)
    assert list(rows) == [str(i) for i in range(12)]
    for i in bad:
        assert rows[str(i)]["error_type"] == "model"
        assert rows[str(i)]["error"] == "ValueError: cannot be classified"
    assert_same_explanations(tmp_path, clean, [str(i) for i in range(12) if i not in bad])


@pytest.mark.filterwarnings("ignore:out of memory")
@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA"), MemoryError("CuPy"), RuntimeError("can't allocate memory")])
def test_no_memory_for_one_image_costs_it_and_the_others_keep_their_batches(error, clean, tmp_path):
    model = Model((5,), error)
    explain(model, tmp_path)
    assert rows_of(tmp_path)["5"]["error_type"] == "out_of_memory"
    assert_same_explanations(tmp_path, clean, [str(i) for i in range(12) if i != 5])
    assert model.refused[-5:] == [16, 8, 4, 2, 1]
    assert model.sizes[-3:] == [16, 16, 8] or model.sizes[-2:] == [16, 4]  # its trouble is not the others'


def test_out_of_memory_is_said_once_in_a_run(tmp_path):
    with pytest.warns(UserWarning, match="out of memory with 16 rows: going on with fewer") as said:
        explain(Model((2, 8), torch.OutOfMemoryError("CUDA")), tmp_path)
    assert len(said) == 1


def test_a_model_that_writes_into_its_rows_is_given_fewer_too(tmp_path):
    """The failed call has overwritten its rows: they are made again, for a single image."""

    class Writes(Model):
        def forward(self, x):
            x.sub_(0.5)
            if len(x) > 3:
                raise torch.OutOfMemoryError("CUDA")
            return super().forward(x)

    assert explain(Writes(), tmp_path).failed == 0
    assert rows_of(tmp_path).keys() == {str(i) for i in range(12)}


@at_once
@pytest.mark.filterwarnings("ignore:out of memory")
def test_no_memory_for_any_image_ends_the_run_after_a_hundred(tmp_path):
    with pytest.raises(
        FailuresInARowError, match=r"^100 images in a row failed \(max_failures_in_a_row\), the last, '99', for"
    ) as end:
        explain(Model(range(-1, 16), torch.OutOfMemoryError("CUDA")), tmp_path, Marked(130))
    assert end.value.code == 71
    assert [row["error_type"] for row in rows_of(tmp_path).values()] == ["out_of_memory"] * 100


class Unreadable(Marked):
    def __getitem__(self, i):
        if i != 3:
            raise OSError("no such file")
        return super().__getitem__(i)


@pytest.mark.parametrize(("most", "rows"), [(3, 3), (4, 8), (8, 12), (9, 12), (None, 12)])
def test_failures_of_every_kind_count_until_an_image_is_explained(most, rows, tmp_path):
    ends = rows < 12 or most == 8
    with pytest.raises(FailuresInARowError, match="no such file") if ends else contextlib.nullcontext():
        explain(Model(), tmp_path, Unreadable(), max_failures_in_a_row=most)
    assert len(rows_of(tmp_path)) == rows


def test_failures_count_behind_an_image_that_waits_for_others(tmp_path):
    """Its rows do not fill a model batch, and all images after it are unreadable: the network is down."""
    seen = []

    class Down(Unreadable):
        def __getitem__(self, i):
            seen.append(i)
            return super().__getitem__(i)

    with pytest.raises(FailuresInARowError, match="the last, '103'"):
        explain(Model(), tmp_path, Down(1000), batch_size=512)
    assert len(rows_of(tmp_path)) == 104
    assert len(seen) < 200


@at_once
@pytest.mark.parametrize("most", [0, 2.5])
def test_a_run_cannot_end_after_no_failures(most, tmp_path):
    with pytest.raises(gpulime.GpulimeError, match="max_failures_in_a_row must be"):
        explain(Model(), tmp_path, max_failures_in_a_row=most)


@pytest.mark.parametrize("error", [KeyError("logits"), OSError("no such file"), SystemExit(0)], ids=repr)
@pytest.mark.parametrize("n", [1, 3, 40])
def test_a_model_that_fails_for_all_images_ends_the_run_at_once_in_one_line(n, error, tmp_path):
    model = Model(range(16), error)
    images = "each image" if n < UNPROVEN_IMAGES else f"each of the first {UNPROVEN_IMAGES} images"
    said = r"the model called sys.exit\(0\)$" if isinstance(error, SystemExit) else rf"{type(error).__name__}: \S"
    with pytest.raises(ModelFailsError, match=f"^the model fails for {images}, also alone: {said}") as end:
        explain(model, tmp_path, Marked(n))
    assert end.value.code == 2
    assert error in (end.value.__cause__, end.value.__cause__.__cause__)
    assert len(model.refused) == 1 + min(n, UNPROVEN_IMAGES)
    assert rows_of(tmp_path) == {}


def test_settings_that_fail_for_all_images_are_not_the_models_fault(tmp_path):
    """The samples of a block depend on the number of segments, so they are not known before."""
    failure = f"^each of the first {UNPROVEN_IMAGES} images fails in the stage 'masks', also alone: max_samples = 4 is below"
    with pytest.raises(ModelFailsError, match=failure):
        explain(Model(), tmp_path, Marked(40), quality="fast", n_samples="auto", max_samples=4)


class Leaves(Marked):
    def __getitem__(self, i):
        return sys.exit(0) if i == 3 else super().__getitem__(i)


def leaves(picture):
    return sys.exit(0) if round(float(picture[0, 0, 2]) / SIXTEENTH) == 4 else np.indices(picture.shape[:2]).sum(0) // 8


@pytest.mark.parametrize(("workers", "ahead"), [(0, 0), (0, 1), (1, 0)], indirect=["ahead"])
@pytest.mark.parametrize(
    ("model", "dataset", "settings", "kind"),
    [
        (Model((3,), SystemExit(0)), None, {}, "model"),
        (Model(), Leaves(), {}, "decode"),
        (Model(), None, {"segments": leaves}, "segments"),
    ],
    ids=["model", "dataset", "segmenter"],
)
def test_code_that_calls_sys_exit_costs_an_image(model, dataset, settings, kind, workers, tmp_path):
    outcome = explain(model, tmp_path, dataset, workers=workers, model_id="leaves", **settings)
    assert (outcome.ok, outcome.failed) == (11, 1)
    row = rows_of(tmp_path)["3"]
    assert row["error_type"] == kind
    assert row["error"].endswith(("SystemExit: 0", "the model called sys.exit(0)"))


def test_a_model_that_fails_later_ends_the_run_after_so_many_rows(tmp_path):
    """Also one whose errors look like those of a disk."""
    with pytest.raises(FailuresInARowError, match=r"^14 images in a row failed .* for model: 'OSError: gone'"):
        explain(Model(range(1, 15), OSError("gone")), tmp_path, Marked(120), max_failures_in_a_row=14)


def test_a_model_of_the_wrong_kind_says_what_is_right(tmp_path):
    with pytest.raises(gpulime.GpulimeError, match=r"must return a \(b, classes\) tensor; got dict"):
        explain(lambda x: {"features": x.mean((2, 3))}, tmp_path)


def test_what_has_explained_images_before_is_no_broken_model(tmp_path):
    explain(Model(), tmp_path, Marked(2))
    explain(Model(range(2, 12), ValueError("cannot be classified")), tmp_path)
    assert [row["status"] for row in rows_of(tmp_path).values()] == ["ok"] * 2 + ["error"] * 10


def test_images_that_fail_before_the_first_is_explained_are_rows_all_the_same(clean, tmp_path):
    explain(Model(range(UNPROVEN_IMAGES - 1), ValueError("cannot be classified")), tmp_path)
    assert [row["error_type"] for row in rows_of(tmp_path).values()] == ["model"] * 7 + [None] * 5


class Mixed(Marked):
    """Images of two shapes, of which the model takes one; the first is one that it does not."""

    def __getitem__(self, i):
        return super().__getitem__(i)[:, : 12 if i % 4 else 10]


def test_images_of_a_shape_that_the_model_refuses_are_rows(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 4))
    explain(model, tmp_path, Mixed())
    rows = rows_of(tmp_path)
    assert [name for name, row in rows.items() if row["status"] == "error"] == ["0", "4", "8"]
    assert "shapes cannot be multiplied" in rows["4"]["error"]


def refuses_the_fifth(picture):
    if round(float(picture[0, 0, 2]) / SIXTEENTH) == 6:
        raise ValueError("no segments")
    return np.indices(picture.shape[:2]).sum(0) // 8


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"segments": refuses_the_fifth}, "segments", "segments .*refuses_the_fifth failed: ValueError: no segments"),
        ({"distance": lambda masks: _refusing(masks)}, "surrogate", "ZeroDivisionError: no distance"),
    ],
    ids=["segments", "distance"],
)
def test_a_fault_is_named_by_the_stage_that_has_it(settings, kind, message, tmp_path, monkeypatch):
    monkeypatch.setitem(engine.FLIGHT_ROWS, "cpu", 2**10)  # all images in one: calls are counted
    REFUSING.clear()
    explain(Model(), tmp_path, model_id="tiny", **settings)
    errors = {name: row for name, row in rows_of(tmp_path).items() if row["status"] == "error"}
    assert {row["error_type"] for row in errors.values()} == {kind}
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(next(iter(errors.values()))["error"])


REFUSING = []  # its calls


def _refusing(masks):
    REFUSING.append(len(masks))
    if 6 < len(REFUSING) < 9:
        raise ZeroDivisionError("no distance")
    return torch.linspace(0, 1, len(masks))


class Targets(Marked):
    def __getitem__(self, i):
        return super().__getitem__(i), i % 5


def test_a_fault_of_the_first_image_is_its_own_where_its_target_is_asked_for(tmp_path):
    """The model's classes are counted before it is explained."""
    explain(Model((0,), ValueError("cannot be classified")), tmp_path, Targets(), labels="target")
    errors = {name: row["error_type"] for name, row in rows_of(tmp_path).items() if row["status"] == "error"}
    assert errors == {"0": "model", "4": "target", "9": "target"}


LOST = [
    RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported later"),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    RuntimeError("cudaErrorECCUncorrectable"),
    RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered"),
    RuntimeError("cudaErrorLaunchFailure: unspecified launch failure"),
    *([torch.AcceleratorError("CUDA error: misaligned address")] if hasattr(torch, "AcceleratorError") else []),
]


@at_once
@pytest.mark.parametrize("error", LOST, ids=lambda error: str(error).partition("\n")[0])
def test_each_error_of_a_lost_device_ends_the_run(error, tmp_path):
    model = Model((5,), error)
    with pytest.raises(DeviceLostError, match=r"the device is lost: .*a new process resumes"):
        explain(model, tmp_path, Marked(6))
    assert len(model.refused) == 1


@pytest.mark.parametrize("error", LOST[:2], ids=lambda error: str(error).partition("\n")[0])
def test_a_lost_device_ends_the_run_without_another_try(error, ahead, tmp_path, monkeypatch):
    model = Model((5,), error)
    settings = {"n_samples": 60}
    monkeypatch.setitem(engine.FLIGHT_ROWS, "cpu", 120)  # images are finished by twos
    done = 4 - 2 * ahead
    with pytest.raises(DeviceLostError, match=r"the device is lost: .*a new process resumes") as end:
        explain(model, tmp_path, **settings)
    assert end.value.code == 70
    assert len(model.refused) == 1
    assert list(rows_of(tmp_path)) == ["0", "1", "2", "3"][:done]
    explain(again := Model(), tmp_path, **settings)
    assert sum(again.sizes) == (12 - done) * 60
    assert all(row["status"] == "ok" for row in rows_of(tmp_path).values())


def test_an_image_that_costs_the_device_each_time_costs_two_processes_and_itself(tmp_path):
    """As a launcher does: the same run again, in a new process, for as long as the device is lost."""
    settings = {"n_samples": 100, "batch_size": 50}
    kept = []
    for _ in range(2):
        with pytest.raises(DeviceLostError):
            explain(Model((3,), LOST[1]), tmp_path, **settings)
        kept.append(rows_of(tmp_path))
    assert "3" not in kept[0]
    assert "3" in heartbeat.suspects(tmp_path)
    found = explain(Model((3,), LOST[1]), tmp_path, **settings)
    assert (found.ok, found.failed) == (11, 1)
    row = rows_of(tmp_path)["3"]
    assert (row["error_type"], row["attempt"]) == ("device", 1)
    assert row["error"] == ("the device is lost whenever it is explained, also alone: CUDA error: device-side assert triggered")


def test_the_model_has_the_next_images_before_the_last_ones_are_fetched(ahead, tmp_path, monkeypatch):
    monkeypatch.setitem(engine.FLIGHT_ROWS, "cpu", 20)
    seen, finished = [], isolation.Isolation._explained
    model = Model()
    model.register_forward_hook(lambda *_: seen.append("forward"))
    monkeypatch.setattr(isolation.Isolation, "_explained", lambda *given: seen.append("fetch") or finished(*given))
    explain(model, tmp_path, Marked(4), batch_size=20)
    overlapping = ["forward", *["forward", "fetch"] * 3, "fetch"]
    assert seen == (overlapping if ahead else ["forward", "fetch"] * 4)


@pytest.mark.parametrize(("workers", "rows"), [(0, 20), (0, 60), (0, 120), (1, 60)])
def test_a_stop_loses_nothing_that_is_finished(workers, rows, ahead, tmp_path, monkeypatch):
    monkeypatch.setitem(engine.FLIGHT_ROWS, "cpu", rows)
    model = Model()
    model.register_forward_hook(lambda *_: os.kill(os.getpid(), signal.SIGTERM) if len(model.sizes) == 6 else None)
    with pytest.raises(Stopped):
        explain(model, tmp_path, batch_size=20, workers=workers)
    assert list(rows_of(tmp_path)) == ["0", "1", "2", "3", "4", "5"]


def test_what_reading_raises_loses_nothing_that_is_finished(tmp_path, monkeypatch):
    monkeypatch.setitem(engine.FLIGHT_ROWS, "cpu", 20)
    read_all = images.read_all

    def torn(*given, **settings):
        yield from itertools.islice(read_all(*given, **settings), 4)
        raise OSError("the disk is gone")

    monkeypatch.setattr(images, "read_all", torn)
    with pytest.raises(OSError, match="the disk is gone"):
        explain(Model(), tmp_path, Marked(80), batch_size=20)
    assert len(rows_of(tmp_path)) == 64


class Struck(Exception):
    """Raised by a handler of the caller, anywhere in the run."""


@pytest.mark.parametrize("error", [Struck(), KeyboardInterrupt()], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("at", [2, 4, 7])
def test_what_strikes_between_two_images_mixes_none_up(at, error, clean, tmp_path, monkeypatch):
    """Each row belongs to its image, also with others in flight."""
    monkeypatch.setitem(engine.FLIGHT_ROWS, "cpu", 60)
    explained, calls = isolation.Isolation._explained, []

    def strikes(self, one):
        calls.append(None)
        if len(calls) == at:
            raise error
        return explained(self, one)

    monkeypatch.setattr(isolation.Isolation, "_explained", strikes)
    with suppress(KeyboardInterrupt, Struck):
        explain(Model(), tmp_path, batch_size=20)
    rows = rows_of(tmp_path)
    assert rows
    assert_same_explanations(tmp_path, clean, list(rows))


def test_an_error_costs_no_forwards_of_images_that_were_done(ahead, tmp_path, monkeypatch):
    monkeypatch.setitem(engine.FLIGHT_ROWS, "cpu", 60)
    model = Model((7,), ValueError("cannot be classified"))
    explain(model, tmp_path, batch_size=20)
    assert sum(model.sizes) == 11 * 20  # the first batch of its flight has a row of each image, and was refused


def test_what_was_in_hand_when_a_device_was_lost_comes_last_and_by_itself(tmp_path):
    with pytest.raises(DeviceLostError) as end:
        explain(Model((3,), LOST[1]), tmp_path, n_samples=100)
    assert heartbeat.suspects(tmp_path) == list(end.value.suspects) != []
    assert "3" in end.value.suspects
    others = [str(i) for i in range(12) if str(i) not in rows_of(tmp_path) and str(i) not in end.value.suspects]
    explain(Model(), tmp_path, n_samples=100)  # it was not the image
    assert list(rows_of(tmp_path))[-len(end.value.suspects) :] == list(end.value.suspects)
    assert not set(others) & set(end.value.suspects)
    assert all(row["status"] == "ok" for row in rows_of(tmp_path).values())


class TwoMarked(Marked):
    """Only numbers 3 and 25 have the mark of 14."""

    def __getitem__(self, i):
        image = super().__getitem__(i)
        image[2] = 15 * SIXTEENTH if i in (3, 25) else SIXTEENTH
        return image


def test_images_far_apart_that_cost_the_device_are_found_one_after_the_other(tmp_path):
    calls = 0
    while len(store.done(tmp_path)) < 30:
        calls += 1
        assert calls < 10
        with suppress(DeviceLostError):
            explain(Model((14,), LOST[1]), tmp_path, TwoMarked(30), n_samples=80, batch_size=20)
    errors = {name: row["error_type"] for name, row in rows_of(tmp_path).items() if row["status"] == "error"}
    assert errors == {"3": "device", "25": "device"}
    assert calls <= 5, "two for each, and one for the rest"


def test_a_bad_image_among_those_that_were_in_hand_is_an_error_row(tmp_path):
    """Also where nothing has been explained yet, when it comes by itself."""
    for _ in range(3):
        with suppress(DeviceLostError):
            explain(Faults({0: ValueError("bad"), 4: LOST[1]}), tmp_path, Marked(6), n_samples=100)
    assert {name: row["error_type"] for name, row in rows_of(tmp_path).items() if row["status"] == "error"} == {
        "0": "model",
        "4": "device",
    }
    assert len(store.done(tmp_path)) == 6


class Faults(Model):
    """Raises an error of its own for each of some images."""

    def __init__(self, errors):
        super().__init__()
        self.errors = errors

    def forward(self, x):
        numbers = (x[:, 2, 0, 0] / SIXTEENTH).round().long() - 1
        for number in sorted({int(number) for number in numbers} & set(self.errors), reverse=True):
            raise self.errors[number]
        return super().forward(x)


def test_a_single_image_in_hand_is_not_at_fault_the_first_time_nor_tried_for_ever(tmp_path):
    explain(Model(), tmp_path, Marked(1), n_samples=100)
    for kept in (["0"], ["0", "1"]):
        with pytest.raises(DeviceLostError):
            explain(Model((1,), LOST[1]), tmp_path, Marked(2), n_samples=100)
        assert list(rows_of(tmp_path)) == kept
    again = Model((1,), LOST[1])
    assert explain(again, tmp_path, Marked(2), n_samples=100, retry_failed=True).failed == 1, (
        "a launcher would go on so for ever"
    )
    assert again.sizes == again.refused == []


def test_a_device_that_is_lost_at_every_image_is_no_images_fault(tmp_path):
    for _ in range(5):
        with pytest.raises(DeviceLostError):
            explain(Model(range(4), LOST[1]), tmp_path, Marked(4), n_samples=100)
    assert rows_of(tmp_path) == {}
    assert explain(Model(), tmp_path, Marked(4), n_samples=100).ok == 4


def test_what_was_in_hand_is_known_too_where_the_disk_is_full_and_the_clock_of_the_device_fails(tmp_path, monkeypatch):
    def full(run, name, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(
            store, "publish", lambda run, name, data: full(run, name, data) if "results" in name else publish(run, name, data)
        )
        with pytest.raises(NotWritableError):
            explain(Model((7,), LOST[1]), tmp_path, n_samples=500, batch_size=500)
    [beat] = heartbeat.read(tmp_path)
    assert beat.state == "failed"
    assert "7" in beat.suspects


publish = store.publish


def test_workers_end_with_the_run_whoever_holds_its_error(tmp_path):
    before = set(multiprocessing.active_children())  # another test's
    with pytest.raises(DeviceLostError) as end:
        explain(Model((5,), LOST[0]), tmp_path, Marked(200), workers=2)
    assert end.value.__traceback__ is not None
    assert set(multiprocessing.active_children()) <= before


def test_a_lost_device_is_seen_behind_another_error(tmp_path):
    class Hides(Model):
        def forward(self, x):
            try:
                return super().forward(x)
            except RuntimeError:
                raise KeyError("cleaning up") from None

    with pytest.raises(DeviceLostError):
        explain(Hides((5,), LOST[0]), tmp_path)


def test_what_reading_raises_is_not_the_models_fault(tmp_path, monkeypatch):
    class Torn(Marked):
        def __getitem__(self, i):
            if i == 7:
                raise GeneratorExit  # nothing that a dataset's fault would be taken for
            return super().__getitem__(i)

    with pytest.raises(GeneratorExit):
        explain(Model(), tmp_path, Torn(), batch_size=4)


def test_a_full_disk_is_not_the_models_fault_and_a_rerun_goes_on(tmp_path, monkeypatch):
    publish = store.publish

    failed = threading.Event()

    def full(run, name, data):
        if name.startswith(store.RESULTS) and len(store.shards(run)) == 1:
            failed.set()
            raise OSError(errno.ENOSPC, "No space left on device")
        publish(run, name, data)

    monkeypatch.setattr(store, "publish", full)
    monkeypatch.setitem(engine.FLIGHT_ROWS, "cpu", 100)  # images are finished one by one
    flush_rows(monkeypatch, 2)
    slow = Model()
    slow.register_forward_hook(lambda *_: time.sleep(0.02) if sum(slow.sizes) < 700 else failed.wait(20))
    with pytest.raises(NotWritableError, match=r"takes no rows: .*No space left on device. \d rows are lost"):
        explain(slow, tmp_path, n_samples=100)
    assert sum(slow.sizes) < 11 * 100  # it did not go on to the end
    assert list(rows_of(tmp_path)) == ["0", "1"]
    monkeypatch.setattr(store, "publish", publish)
    explain(again := Model(), tmp_path, n_samples=100)
    assert sum(again.sizes) == 10 * 100
    assert len(rows_of(tmp_path)) == 12


def test_forwards_go_on_while_the_disk_is_slow(tmp_path, monkeypatch):
    publish, model, gate, seen = store.publish, Model(), threading.Event(), []

    def slow(run, name, data):
        if name.startswith(store.RESULTS):
            assert gate.wait(20)
            seen.append(len(model.sizes))
        publish(run, name, data)

    def forward(rows):
        outputs = model(rows)
        if len(model.sizes) == 15:  # the last of 12 * 20 rows, and no shard is written yet
            gate.set()
        return outputs

    monkeypatch.setattr(store, "publish", slow)
    flush_rows(monkeypatch, 1)
    assert explain(forward, tmp_path, model_id="tiny").ok == 12
    assert seen[0] == 15


LOSES = """
import sys, time, torch, gpulime

class Loses(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.seen = torch.nn.Linear(3, 4), 0

    def forward(self, x):
        self.seen += len(x)
        if self.seen > 20000:  # an index out of range: an assert fails in torch's own kernel
            x = x[:, torch.tensor([7], device=x.device)].expand_as(x)
        return self.linear(x.mean((2, 3)))

settings = {"n_samples": 500, "segments": "grid", "batch_size": 500, "report": False}
images = [torch.rand(3, 16, 16) for _ in range(200)]
try:
    gpulime.runs.explain(Loses().cuda(), images, sys.argv[1], **settings)
except gpulime.runs.progress.exits.EndOfRunError as end:
    print(type(end).__name__, end)
    sys.exit(end.code)
"""


@pytest.mark.gpu
def test_a_gpu_that_is_lost_ends_the_run(tmp_path):
    """In a process of its own, which it spoils."""
    run = [sys.executable, "-c", "import gpulime.runs.progress.exits\n" + LOSES, str(tmp_path / "run")]
    ended = subprocess.run(run, capture_output=True, text=True, check=False)
    assert ended.returncode == 70, ended.stderr
    assert "DeviceLostError the device is lost" in ended.stdout
    assert 16 <= len(store.read(tmp_path / "run")) <= 40
    [beat] = heartbeat.read(tmp_path / "run")
    assert beat.state == "failed"
    assert beat.suspects


@pytest.mark.filterwarnings("ignore:out of memory")
@pytest.mark.gpu
def test_a_gpu_with_little_memory_gives_the_same_explanations(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    settings = {"n_samples": 64, "segments": "grid", "report": False}
    images = [torch.rand(3, 64, 64) for _ in range(4)]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 256, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 5)).cuda()
    gpulime.runs.explain(model, images, tmp_path / "much", batch_size=8, **settings)
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(
        (torch.cuda.memory_reserved() + 2**28) / total
    )  # 64 rows need more than twice it
    try:
        assert gpulime.runs.explain(model, images, tmp_path / "little", batch_size=256, **settings).ok == 4
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    much, little = rows_of(tmp_path / "much"), rows_of(tmp_path / "little")
    for name, row in much.items():
        np.testing.assert_allclose(little[name]["coef"], row["coef"], rtol=0, atol=1e-3 * np.abs(row["coef"]).max())
