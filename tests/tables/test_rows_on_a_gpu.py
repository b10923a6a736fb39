"""Table rows on a GPU: equal to those on a CPU."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_iris
from torch import nn

from gpulime import TableExplainer

IRIS = load_iris()


@pytest.mark.gpu
@pytest.mark.parametrize("settings", [{}, {"discretizer": None}, {"num_features": 2}])
@pytest.mark.parametrize("keys", [None, [1, 2, 3]])
def test_equal_to_the_cpu(settings, keys, device):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    rows = IRIS.data[[3, 70, 140]]
    expected = TableExplainer(module, IRIS.data, n_samples=200, **settings).explain(rows, keys=keys)
    explained = TableExplainer(module.to(device), IRIS.data, n_samples=200, **settings).explain(rows, keys=keys)
    assert explained.coefficients.device.type == torch.device(device).type
    torch.testing.assert_close(explained.cpu().coefficients, expected.coefficients, rtol=0, atol=1e-5)
    assert explained[0].as_list()


@pytest.mark.gpu
def test_a_function_gets_tensors_on_the_device_of_the_training_data(device):
    torch.manual_seed(0)
    module, seen = nn.Linear(4, 3), []
    data = torch.tensor(IRIS.data, dtype=torch.float32)
    expected = TableExplainer(module, data, n_samples=200).explain(data[:3])
    moved = module.to(device)

    def function(rows):
        seen.append((rows.device.type, rows.dtype))
        return moved(rows).softmax(-1)

    found = TableExplainer(function, data.to(device), n_samples=200).explain(data[:3].to(device))
    assert set(seen) == {(torch.device(device).type, torch.float32)}
    torch.testing.assert_close(found.coefficients.cpu(), expected.coefficients, rtol=0, atol=1e-5)
