"""Outputs of functions as tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gpulime.engine.functions import read
from gpulime.errors import GpulimeError


@pytest.mark.parametrize(
    "given",
    [
        [[0.25, 0.75], [1, 0]],
        np.array([[0.25, 0.75], [1, 0]], dtype=np.float16),
        torch.tensor([[0.25, 0.75], [1, 0]], dtype=torch.bfloat16, requires_grad=True),
        np.array([[0.25, 0.75], [1, 0]], dtype=object).astype(float),
    ],
)
def test_outputs_are_read(given):
    assert read(given, 2).tolist() == [[0.25, 0.75], [1, 0]]
    assert read(given, 2).is_floating_point()


def test_a_number_per_string_is_a_column():
    assert read([0.25, 0.5], 2).tolist() == [[0.25], [0.5]]
    assert read(np.float32([0.25, 0.5]), 2).dtype == torch.float32


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (None, "got NoneType"),
        ("ab", "got str"),
        ([[0.1, 0.9]], r"got \(1, 2\)"),
        (np.zeros((2, 3, 4)), r"got \(2, 3, 4\)"),
        ([[0.1, 0.9], [1.0]], "got list"),
        (np.array(["spam", "ham"]), r"got labels, such as 'spam'"),
        (np.array(["spam", "ham"], dtype=object), r"got labels, such as 'spam'"),
        (np.array([1, 0]), r"got labels, such as 1"),
        (np.array([[1], [0]]), r"got labels, such as 1"),
        ([{"label": "spam", "score": 0.5}] * 2, "got dicts, as of a transformers pipeline: pass that to gpulime.TextExplainer"),
        ([[{"label": "spam", "score": 0.5}]] * 2, "got dicts, as of a transformers pipeline"),
        (np.zeros((2, 2), complex), "got complex128"),
    ],
)
def test_other_outputs_are_named(given, said):
    with pytest.raises(
        GpulimeError, match=rf"the model was asked for 2 rows and must return probabilities \(2, classes\).*; {said}"
    ):
        read(given, 2)
