"""Every engine function that has a slow twin gives the twin's answer, in float64."""

from __future__ import annotations

import dataclasses
import inspect

import numpy as np
import pytest
import slow  # noqa: F401  it registers the pairs
import torch
from replicates import PAIRS
from torch import Tensor

from gpulime.engine.surrogate import Settings

N, S, K, L, B = 3, 64, 9, 2, 11
H, W = 6, 5


@pytest.fixture(scope="module")
def problem():
    """Arguments by the names that functions give them: ragged segments, strong and weak slopes, rows in any order."""
    random = torch.Generator().manual_seed(0)
    counts = torch.tensor([K, 7, 8])
    masks = torch.rand(N, S, K, generator=random) < 0.5
    masks[:, 0] = True
    masks &= (torch.arange(K) < counts[:, None])[:, None]
    slopes = torch.randn(N, K, L, generator=random, dtype=torch.float64)
    noise = torch.randn(N, S, L, generator=random, dtype=torch.float64)
    return {
        "counter": torch.randint(0, 2**32, (4, B), generator=random).unbind(),
        "key": (0x01234567, 0xFEDCBA98),
        "keys": torch.tensor([0, -1, 2**63 - 1, -(2**63)])[:, None].expand(4, 5),
        "rows": torch.tensor([3, 0, 1, 2, 2**32 - 1]).expand(4, 5),
        "counts": counts,
        "k": K,
        "images": torch.randn(N, 2, H, W, generator=random, dtype=torch.float64),
        "fills": torch.randn(N, 2, H, W, generator=random, dtype=torch.float64),
        "labels": torch.randint(0, 7, (N, H, W), generator=random, dtype=torch.int32),
        "index": torch.tensor([2, 0, 0, 1, 2, 2, 1, 0, 1, 1, 2]),
        "masks": masks,
        "regressors": masks,
        "outputs": masks.double() @ slopes + noise + 3,
    }


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_equals_its_slow_twin(pair, problem):
    # One name, two meanings: masked_images takes a mask per row of the model, and a row may be longer than a Philox block.
    own = {"masked_images": {"masks": problem["masks"][0, :B]}, "bernoulli": {"k": 300}}.get(pair.slow.__name__, {})
    given = {name: (problem | own)[name] for name in inspect.signature(pair.slow).parameters if name in problem}
    takes_settings = "settings" in inspect.signature(pair.fast).parameters
    options = {"settings": Settings(**pair.options)} if takes_settings else pair.options
    actual = pair.fast(**given, **options)
    expected = pair.slow(**{name: array(value) for name, value in given.items()}, **pair.options)
    torch.testing.assert_close(tensors(actual), tensors(expected), rtol=1e-9, atol=1e-12)


def array(value):
    if isinstance(value, tuple):
        return tuple(array(item) for item in value)
    return value.numpy().copy() if isinstance(value, Tensor) else value


def tensors(value):
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        return {name: tensors(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return torch.stack(value)
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value
