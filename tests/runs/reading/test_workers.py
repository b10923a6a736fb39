"""Worker processes: if one dies or hangs, only the image at fault fails."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import gpulime
from gpulime.errors import GpulimeError
from gpulime.runs.progress.signals import Stopped
from gpulime.runs.reading import workers
from gpulime.runs.reading.read import DatasetReader, Read
from gpulime.runs.reading.sources import Item
from gpulime.runs.reading.workers import MOST_PATIENCE, REBUILDS, LostWorkerError, Workers, read_all
from gpulime.runs.store import store
from gpulime.segments import CPU, Grid

SMALL = {"n_samples": 20, "segments": Grid(3, 3)}


class Pictures:
    """Images; some of them harm the process that reads them, the first ``times`` times."""

    def __init__(self, folder, n=7, does=lambda: None, at=(), times=10**6):
        self.folder, self.n, self.does, self.at, self.times = folder, n, does, at, times

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if i in self.at and len(list(self.folder.glob(f"{i}-*"))) < self.times:
            (self.folder / f"{i}-{time.monotonic_ns()}").touch()  # what a killed process remembers is on disk
            self.does()
        return torch.full((3, 12, 12), i / 10)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    """Check workers often, and wait only briefly for workers that do not end."""
    monkeypatch.setattr(workers, "POLL_SECONDS", 0.02)


def dies():
    os.kill(os.getpid(), signal.SIGKILL)


def hangs():
    time.sleep(1000)


def stops():
    os.kill(os.getpid(), signal.SIGSTOP)


def items(n):
    return [Item(str(i), str(i).encode()) for i in range(n)]


def reads(dataset, workers=2, batch_size=2, **settings):
    return list(read_all(items(len(dataset)), DatasetReader(dataset), Grid(), CPU, batch_size, workers, **settings))


@pytest.mark.parametrize("at", [(0,), (6,), (2, 3)], ids=str)
def test_an_image_that_kills_its_worker_is_an_error_and_the_others_are_read(at, tmp_path, capsys):
    found = [read for batch in reads(Pictures(tmp_path, does=dies, at=at)) for read in batch]
    assert [read.item.image_id for read in found] == [str(i) for i in range(7)]
    for i, read in enumerate(found):
        if i in at:
            assert (read.pixels, read.kind) == (None, "worker")
            assert read.error == "a worker process was killed or died, 4 times, and alone with this image"
        else:
            assert torch.equal(read.pixels, torch.full((3, 12, 12), i / 10))
    tries = [len(list(tmp_path.glob(f"{i}-*"))) for i in at]
    assert all(1 <= count <= (REBUILDS + 1) * (len(at) + 1) + 1 for count in tries)
    assert f"images are read again, in new ones, try {REBUILDS} of {REBUILDS}" in capsys.readouterr().err


@pytest.mark.parametrize("times", [1, REBUILDS])
def test_a_worker_that_is_killed_now_and_then_costs_nothing(times, tmp_path):
    """As the system does if memory is short: it is not the image's fault."""
    found = reads(Pictures(tmp_path, does=dies, at=(3,), times=times))
    assert [len(batch) for batch in found] == [2, 2, 2, 1]
    assert not any(read.error for batch in found for read in batch)


@pytest.mark.parametrize(("does", "seconds"), [(signal.SIGKILL, 60), (signal.SIGSTOP, 1)])
def test_a_worker_that_ends_in_the_middle_of_a_message_is_lost(does, seconds, tmp_path):
    """A reader that waits for the rest of it would wait forever."""
    waited, others = [], set(multiprocessing.active_children())

    def wordy(item):
        return Read(item, error=item.image_id * 10**6, kind="decode")

    made = read_all(items(4), wordy, Grid(), CPU, 1, 1, timeout_seconds=seconds, waiting=lambda: waited.append(1))
    found = next(made)
    time.sleep(0.3)  # the message of image 1 fills the socket
    [worker] = set(multiprocessing.active_children()) - others
    os.kill(worker.pid, does)
    found.extend(read for batch in made for read in batch)
    assert [(read.item.image_id, len(read.error)) for read in found] == [(str(i), 10**6) for i in range(4)]
    assert waited or does == signal.SIGKILL
    assert not set(multiprocessing.active_children()) - others


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_reads_arrive_as_they_were_made(dtype):
    shapes = [(3, 4, 5), (3, 5, 4), (1, 600, 700), (3, 4, 5)]
    pictures = [(torch.arange(torch.Size(shape).numel()) % 200 + i).to(dtype).view(shape) for i, shape in enumerate(shapes)]
    here, there = ([read for batch in reads(pictures, count, 3) for read in batch] for count in (0, 2))
    for one, other in zip(here, there, strict=True):
        assert (one.item, one.error, one.sha256) == (other.item, other.error, other.sha256)
        assert one.pixels.dtype == other.pixels.dtype
        assert one.pixels.equal(other.pixels)
        assert (one.segments is None) == (other.segments is None)
        assert one.segments is None or np.array_equal(one.segments, other.segments)


def test_what_a_reader_raises_comes_to_the_run(tmp_path):
    def broken(item):
        raise LookupError(f"no {item.image_id}")

    with pytest.raises(LookupError, match="no 0"):
        list(read_all(items(3), broken, Grid(), CPU, 2, 1))


@pytest.mark.parametrize("error", [MemoryError("9 GB"), ValueError("I/O operation on closed file")], ids=repr)
def test_no_memory_for_a_message_is_an_error_of_its_image(error, tmp_path, monkeypatch):
    """Torch hides the first error behind the second: the file in memory cannot be completed."""
    dumps = workers.pickle.dumps

    def no_memory(read):
        if read.pixels is not None and read.item.image_id == "1":
            raise error
        return dumps(read)

    monkeypatch.setattr(workers, "pickle", SimpleNamespace(dumps=no_memory, loads=workers.pickle.loads))
    found = [read for batch in reads(Pictures(tmp_path, 4), 1) for read in batch]
    assert [read.kind for read in found] == [None, "out_of_memory", None, None]


@pytest.mark.long
def test_an_image_that_hangs_its_worker_is_an_error(tmp_path):
    begin = time.monotonic()
    found = [read for batch in reads(Pictures(tmp_path, 4, hangs, (1,)), workers=1, timeout_seconds=1) for read in batch]
    assert [read.kind for read in found] == [None, "worker", None, None]
    assert "gave nothing for 1 s (data.timeout_seconds is 1)" in found[1].error
    assert time.monotonic() - begin < 60
    assert len(list(tmp_path.glob("1-*"))) == REBUILDS + 2


@pytest.mark.long
def test_images_that_are_slow_together_are_no_errors(tmp_path):
    slow = Pictures(tmp_path, 4, lambda: time.sleep(0.7), range(4))
    found = reads(slow, workers=1, timeout_seconds=1)  # 1.4 s a batch
    assert not any(read.error for batch in found for read in batch)
    assert len(list(tmp_path.glob("3-*"))) == 1  # with more patience, the second batch came at once


def test_patience_with_images_that_fail_together_has_an_end(monkeypatch, capsys):
    tried = []

    def passed(self, items, batch_size, count, seconds):
        if batch_size > 1:
            tried.append(seconds)
            raise LostWorkerError("a worker process gave nothing")
        yield [Read(items[0], torch.zeros(3, 4, 4))]

    monkeypatch.setattr(Workers, "_passed", passed)
    found = list(read_all(items(14), None, Grid(), CPU, 2, 2, timeout_seconds=3))
    assert [read.item.image_id for batch in found for read in batch] == [str(i) for i in range(14)]
    assert tried == [s for s in (3, 6, 12, 24, 24, 24, 24) for _ in range(REBUILDS + 1)]
    assert max(tried) == 3 * MOST_PATIENCE
    said = capsys.readouterr().err
    assert "may need more memory than there is, or more time than data.timeout_seconds (24 s from here on)" in said


def test_a_signal_is_heeded_while_a_worker_is_waited_for(tmp_path):
    def stop():
        raise Stopped

    with pytest.raises(Stopped):
        reads(Pictures(tmp_path, 2, hangs, (0,)), waiting=stop)


def test_a_worker_that_dies_is_not_the_fault_of_what_runs_meanwhile(tmp_path):
    """The handler of torch's loaders, which a user's own loader has set, raises anywhere in the main thread."""
    handler = signal.getsignal(signal.SIGCHLD)
    list(DataLoader(range(2), num_workers=1))
    try:
        reader = read_all(items(7), DatasetReader(Pictures(tmp_path, 7, dies, (3,))), Grid(), CPU, 2, 2)
        next(reader)
        while not list(tmp_path.glob("3-*")):
            time.sleep(0.01)
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            time.sleep(0.01)
        assert len([read for batch in reader for read in batch]) == 5
    finally:
        signal.signal(signal.SIGCHLD, handler)


def test_workers_that_cannot_be_started_say_why(tmp_path, monkeypatch):
    def refuse(self, *arguments):
        raise BlockingIOError("no more processes")

    monkeypatch.setattr("multiprocessing.context.Process.start", refuse)
    with pytest.raises(BlockingIOError, match="no more processes"):
        reads(Pictures(tmp_path))


@pytest.mark.long
def test_a_dataset_that_no_worker_can_load_is_not_the_fault_of_its_images(tmp_path):
    """As in a notebook with Python 3.14: a worker there does not fork, and has to import the dataset's class."""
    script = tmp_path / "script.py"
    script.write_text(UNKNOWN)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert "GpulimeError: no worker process starts, in 4 tries. Python starts processes by 'spawn' here" in done.stderr
    assert not list(tmp_path.glob("run/results/*"))


UNKNOWN = """
import multiprocessing, pathlib
import torch
import gpulime

if __name__ == "__main__":
    class Unknown(list):
        pass

    multiprocessing.set_start_method("spawn")
    data = Unknown([torch.zeros(3, 8, 8)])
    out = pathlib.Path(__file__).parent / "run"
    gpulime.runs.explain(torch.nn.Flatten(), data, out, workers=1, n_samples=20, segments="grid")
"""


def test_a_dataset_that_cannot_be_sent_to_a_worker_is_refused(monkeypatch):
    monkeypatch.setattr(workers, "multiprocessing", multiprocessing.get_context("spawn"))
    with pytest.raises(GpulimeError, match=r"the dataset cannot be sent to a worker process: .*lambda.* by 'spawn' here"):
        list(read_all(items(1), lambda item: None, Grid(), CPU, 1, 1))


def test_workers_serve_a_thread_too(tmp_path):
    found = []
    thread = threading.Thread(target=lambda: found.extend(reads(Pictures(tmp_path, does=dies, at=(2,)))))
    thread.start()
    thread.join(60)
    assert [read.kind for batch in found for read in batch] == [None, None, "worker", None, None, None, None]


@pytest.mark.parametrize("workers", [0, 1])
def test_no_memory_for_an_image_is_an_error_of_it(workers):
    def starved(item):
        if item.image_id == "1":
            raise MemoryError("9 GB")
        return DatasetReader([torch.rand(3, 4, 4)] * 3)(item)

    [batch] = read_all(items(3), starved, Grid(), CPU, 4, workers)
    assert [read.kind for read in batch] == [None, "out_of_memory", None]
    assert batch[1].error == "no memory to read it: 9 GB"


def no_memory(*arguments):
    raise MemoryError("9 GB")


def no_memory_in_torch(*arguments):
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 GB")


@pytest.mark.parametrize("workers_", [0, 1])
@pytest.mark.parametrize("at", ["dataset", "picture", "segmenter", "labels", "torch"])
def test_no_memory_anywhere_before_the_model_is_an_error_of_the_image(at, workers_, monkeypatch):
    endless = torch.zeros(1, dtype=torch.uint8).expand(3, 2**24, 2**24)  # 1 byte, and 3 PB as floats
    small = torch.zeros(3, 4, 4, dtype=torch.uint8)

    class Data:
        def __getitem__(self, i):
            return no_memory() if at == "dataset" and i == 1 else small

    def reader(item):
        if at == "picture" and item.image_id == "1":
            return Read(item, endless)
        pixels = torch.zeros(3, 5, 5, dtype=torch.uint8) if item.image_id == "1" and at != "dataset" else small
        return Read(item, pixels) if at != "dataset" else DatasetReader(Data())(item)

    def segmenter(array):
        return no_memory() if at == "segmenter" and len(array) == 5 else np.zeros(array.shape[:2], int)

    def segment_one(segmenter, array, one=workers.segment_one):
        failing = {"labels": no_memory, "torch": no_memory_in_torch}.get(at)
        return failing() if failing and len(array) == 5 else one(segmenter, array)

    monkeypatch.setattr(workers, "segment_one", segment_one)
    [batch] = read_all(items(3), reader, segmenter, CPU, 4, workers_)
    assert [read.kind for read in batch] == [None, "out_of_memory", None]
    assert "allocate" in batch[1].error or "9 GB" in batch[1].error
    assert [read.item.image_id for read in batch] == ["0", "1", "2"]


def test_a_run_goes_on_past_images_that_kill_their_worker(tmp_path):
    dataset, out = Pictures(tmp_path, 7, dies, (0, 4)), tmp_path / "run"
    outcome = gpulime.runs.explain(torch.nn.Flatten(), dataset, out, workers=2, **SMALL)
    assert (outcome.ok, outcome.failed) == (5, 2)
    rows = {row["image_id"]: row for row in store.read(out).to_pylist()}
    assert rows["0"]["error_type"] == rows["4"]["error_type"] == "worker"
    assert all(np.isfinite(row["coef"]).all() for name, row in rows.items() if name not in "04")
    again = gpulime.runs.explain(torch.nn.Flatten(), dataset, out, workers=2, **SMALL)  # does not read them in this process
    assert (again.failed, again.forwards) == (2, 0)


class Watched(Pictures):
    def __getitem__(self, i):
        raise ValueError([thread.name for thread in threading.enumerate()])


def test_each_worker_watches_for_the_end_of_its_parent(tmp_path):
    [[read]] = reads(Watched(tmp_path, n=1), workers=1)
    assert "gpulime parent watch" in read.error
