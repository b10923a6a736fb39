"""has_arg: functions, methods, classes, instances, partials and built-in callables."""

from __future__ import annotations

from functools import partial

import pytest

from gpulime.utils.generic_utils import has_arg


class Called:
    def __init__(self, a=1):
        self.a = a

    def __call__(self, b, *, c=2):
        return b

    def method(self, d):
        return d

    @staticmethod
    def static(e):
        return e


def function(a, /, b, *args, c=3, **others):
    return a


@pytest.mark.parametrize(
    ("called", "there", "missing"),
    [
        (function, ("b", "c"), ("a", "args", "others", "d")),
        (lambda x: x, ("x",), ("y",)),
        (Called, ("a",), ("b", "self")),
        (Called(), ("b", "c"), ("a",)),
        (Called().method, ("d",), ("self", "e")),
        (Called.static, ("e",), ("d",)),
        (partial(function, 1, c=4), ("b", "c"), ("a",)),
        (sorted, ("key", "reverse"), ("iterable", "other")),
    ],
)
def test_parameters_that_may_be_given_by_name(called, there, missing):
    assert all(has_arg(called, name) for name in there)
    assert not any(has_arg(called, name) for name in missing)


@pytest.mark.parametrize("name", ["b", "c", "a", "others"])
def test_equal_to_lime(name):
    limes = pytest.importorskip("lime.utils.generic_utils")
    assert has_arg(function, name) == limes.has_arg(function, name)
