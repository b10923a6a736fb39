"""Items that have failed before they came keep their place, whatever fails around them."""

from types import SimpleNamespace

from gpulime.engine.isolate import Explained, Failed, Isolate
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
