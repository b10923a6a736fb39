"""Items that have failed before they came keep their place, whatever fails around them."""

import gc
import weakref
from types import SimpleNamespace

import pytest

from gpulime.engine.isolate import DeviceError, Explained, Failed, Isolate
from gpulime.segments import CPU

TORN = ValueError("no memory on the host")
UNREAD = OSError("no such file")


class Late:
    """A queue that passes the flight "b" at its end, and others at once."""

    def __init__(self):
        self.held = []

    def put(self, flight):
        if flight == "b":
            self.held.append(flight)
        else:
            yield flight

    def finish(self):
        yield from self.held
        self.held = []


def fetching(piece):
    def fetched():
        if piece == "b":
            raise TORN
        return piece

    return fetched


def test_a_piece_that_never_comes_fails_its_item_and_not_the_failed_one_before_it():
    """Two pieces are in flight to the host, and an unreadable item is between theirs."""
    predictor = SimpleNamespace(most=16)
    isolate = Isolate(predictor, CPU, lambda alone: Late(), lambda item: iter([item.lower()]), len, fetching)
    found = [*isolate.put(["A"], ["a"], 1), *isolate.put([Failed("F", UNREAD)], (), 1), *isolate.put(["B"], ["b"], 1)]
    found += isolate.finish()
    assert found == [Explained("A", "a", 0), Failed("F", UNREAD), Failed("B", TORN)]


class Memory:
    """Memory of a GPU, which PyTorch cannot free once the GPU is lost."""


def test_memory_of_a_lost_gpu_is_never_freed():
    """Neither that of the frames of the error nor that of pieces on their way to the host."""
    freed = []

    def memory(name):
        held = Memory()
        weakref.finalize(held, freed.append, name)
        return held

    def fetching(piece):
        on_its_way = memory("piece")
        return lambda: on_its_way

    def fails(item):
        rows = memory("rows")
        if item == "B":
            raise RuntimeError(f"CUDA error: device-side assert triggered: {rows}")
        yield item

    def run():
        isolate = Isolate(SimpleNamespace(most=16), CPU, lambda alone: Late(), lambda item: iter([item]), len, fetching)
        assert not list(isolate.put(["A"], fails("A"), 1))
        assert not list(isolate.put(["B"], fails("B"), 1))

    with pytest.raises(DeviceError) as lost:
        run()
    assert lost.value.items == ["A", "B"]
    freed.clear()  # the rows of A were explained before
    del lost
    gc.collect()
    assert freed == []
