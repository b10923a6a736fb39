"""Labels and targets in every form of users, and values that are not classes."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch

from gpulime import labels
from gpulime.errors import GpulimeError

NAMES = ["ant", "bee", "cat", "dog", "bee"]


@pytest.mark.parametrize(
    "given",
    [
        *(2, 2.0, np.int64(2), np.uint8(2), np.float32(2), np.array(2), np.array([2]), torch.tensor(2), torch.tensor([[2]])),
        *(torch.tensor(2.0, dtype=torch.bfloat16), "cat", np.str_("cat"), [2], (2,), [torch.tensor(2)], {2}, ["cat"]),
        *([0, 0, 1, 0, 0], torch.tensor([0.0, 0, 1, 0, 0]), torch.arange(5) == 2, [False, False, True, False, False]),
    ],
)
def test_one_class(given):
    assert labels.of_image(given, 5, NAMES) == [2]


@pytest.mark.parametrize(
    ("given", "classes", "found"),
    [
        ([0, 2], 5, [0, 2]),
        ([2, 0, 2], 5, [2, 0]),
        ((torch.tensor(3), "ant", np.int32(1)), 5, [3, 0, 1]),
        (torch.tensor([3.0, 1.0]), 5, [3, 1]),
        (torch.tensor([1.0, 0, 1, 0, 0]), 5, [0, 2]),
        (np.array([1, 0, 1, 0, 0]), 5, [0, 2]),
        (torch.tensor([True, False]), 2, [0]),
        ([0, 1], 5, [0, 1]),  # class numbers: a multi-hot vector would have five entries
        ([0, 1], 2, [1]),
        (torch.zeros(5), 5, []),
        ([], 5, []),
    ],
)
def test_several_classes(given, classes, found):
    assert labels.of_image(given, classes, NAMES) == found


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (0.5, "must be a class number, 0 or more; got 0.5"),
        (float("nan"), "must be a class number, 0 or more; got nan"),
        (None, "must be a class number, 0 or more; got None"),
        (b"3", "must be a class number, 0 or more; got b'3'"),
        ({"boxes": 1}, "must be a class number, 0 or more; got {'boxes': 1}"),
        ([0.25, 0.75], "must be a class number, 0 or more; got 0.25"),
        (torch.zeros(4, 4), r"must be a class, or a vector of classes; got \(4, 4\) torch.float32"),
        (torch.tensor([1.0, 0, 1]), "must have one entry of 0 or 1 for each of 5 classes; got 3 entries"),
        ("cta", r"must be one of 5 class names; got 'cta' \(did you mean 'cat'\?\): 'ant', .*"),
        ("bee", r"must be a class number, since classes \[1, 4\] are all called 'bee'"),
    ],
)
def test_no_class(given, message):
    with pytest.raises(GpulimeError, match=f"^{message}$"):
        labels.of_image(given, 5, NAMES)


def test_a_name_needs_names():
    with pytest.raises(GpulimeError, match="must be a class number, since the model's class names are unknown; got 'cat'"):
        labels.number("cat")
    assert labels.number("cat", OrderedDict({7: "cat"})) == 7


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (3, [[3], [3], [3]]),
        (torch.tensor(3.0), [[3], [3], [3]]),
        ("cat", [[2], [2], [2]]),
        ([3, 1, 2], [[3], [1], [2]]),
        ([3.0, 1.0, 2.0], [[3], [1], [2]]),
        (["cat", 1, "dog"], [[2], [1], [3]]),
        (np.array(["cat", "ant", "dog"]), [[2], [0], [3]]),
        ([[3], [1, 2], [0, 4, 2]], [[3, -1, -1], [1, 2, -1], [0, 4, 2]]),
        ([torch.tensor([3, 1]), torch.tensor([2]), 0], [[3, 1], [2, -1], [0, -1]]),
        (torch.tensor([[0, 1], [1, 0], [4, 2]]), [[0, 1], [1, 0], [4, 2]]),
        (torch.tensor([[0, -1], [1, 0], [4, 2]]), [[0, -1], [1, 0], [4, 2]]),
        (torch.tensor([[1.0, 0, 1], [0, 1, 0], [0, 0, 1]]), [[0, 2], [1, -1], [2, -1]]),
        (torch.eye(3, dtype=torch.int64), [[0], [1], [2]]),
        (np.eye(3, dtype=bool)[::-1], [[2], [1], [0]]),
    ],
)
def test_labels_of_three_images(given, found):
    actual = labels.of_batch(given, 3, NAMES)
    assert (actual.dtype, actual.tolist()) == (torch.int64, found)
    assert labels.of_batch(actual, 3).tolist() == found


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            [3, 7],
            r"labels must be integers, .* or 3 lists, one for each image; got \[3, 7\]; for the same .* pass \[\[3, 7\]\] \* 3",
        ),
        ([[3], [1, 2]], r"labels must be integers, .* or 3 lists, one for each image; got \[\[3\], \[1, 2\]\]"),
        ({"a": 1}, "labels must be integers, .* got {'a': 1}"),
        ([[1], [], [2, 3]], "labels of image 1: there must be a class; got none"),
        ([0, 0.5, 1], "labels of image 1: must be a class number, 0 or more; got 0.5"),
        (["cat", "cow", "ant"], "labels of image 1: must be one of 5 class names; got 'cow'.*"),
        ("cow", "labels: must be one of 5 class names; got 'cow'.*"),
    ],
)
def test_what_are_no_labels(given, message):
    with pytest.raises(GpulimeError, match=f"^{message}$"):
        labels.of_batch(given, 3, NAMES)


@pytest.mark.parametrize(
    ("given", "found"),
    [("top", "top"), ("top+target", "top+target"), (3, [3]), ([3, "ant"], [3, 0]), ([0, 1], [0, 1]), ("cat", [2])],
)
def test_what_a_run_explains(given, found):
    assert labels.of_run(given, NAMES) == found


@pytest.mark.parametrize(
    ("given", "names", "message"),
    [
        ("tpo", None, r"labels must be one of 'top', 'target', .*; got 'tpo' \(did you mean 'top'\?\)"),
        ("cow", NAMES, "labels: must be one of 5 class names; got 'cow'.*"),
        ([], None, r"labels: must name classes, 0 or more; got \[\]"),
        ([-1, 2], None, r"labels: must name classes, 0 or more; got \[-1, 2\]"),
        (5, NAMES, "labels: must be below the 5 classes; got 5"),
    ],
)
def test_what_a_run_cannot_explain(given, names, message):
    with pytest.raises(GpulimeError, match=f"^{message}$"):
        labels.of_run(given, names)
