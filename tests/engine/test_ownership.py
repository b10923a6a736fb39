"""Owned models: converted for a GPU, back if they do not take it, and compared without reading their weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gpulime import Explainer
from gpulime.engine import freezing, ownership
from gpulime.runs.reading import code
from gpulime.segments import Grid

CPU, META = torch.device("cpu"), torch.device("meta")  # meta: no CPU, and without values to read


def explained(model, images, **settings):
    return Explainer(model, 20, Grid(3, 3), batch_size=16, **settings).explain(images).cpu()


def in_channels_last(model):
    return model[0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.fixture
def viewing():
    """A model whose ``view`` takes no channels_last."""

    class Viewing(nn.Sequential):
        def forward(self, rows):
            return super().forward(rows).view(len(rows), -1)

    return Viewing(nn.Conv2d(3, 7, 3), nn.MaxPool2d(8)).eval()


@pytest.mark.gpu
def test_weights_are_in_the_rows_memory_format_on_a_gpu(cnn, pictures):
    expected, digest = explained(cnn, pictures()), code.sha256(cnn)
    model = ownership.own(cnn, torch.device("cuda"))
    assert in_channels_last(model)
    assert code.sha256(model) == digest
    actual = explained(model, pictures())
    assert in_channels_last(model)
    assert float((actual.coefficients - expected.coefficients).abs().max()) < 1e-3 * float(expected.coefficients.abs().max())


@pytest.mark.gpu
def test_a_model_that_takes_no_channels_last_is_converted_back(viewing, pictures):
    expected = explained(viewing, pictures())
    model = ownership.own(viewing, torch.device("cuda"))
    actual = explained(model, pictures())
    assert not in_channels_last(model)
    assert float((actual.coefficients - expected.coefficients).abs().max()) < 1e-3 * float(expected.coefficients.abs().max())


def test_on_a_cpu_and_of_a_user_weights_stay_as_they_are(cnn, viewing, pictures):
    ownership.convert(cnn, torch.channels_last)
    assert not in_channels_last(cnn)
    assert not in_channels_last(ownership.own(cnn, CPU))
    with torch.no_grad():
        viewing.to(memory_format=torch.channels_last)
    with pytest.raises(RuntimeError, match="view"):
        explained(viewing, pictures())
    assert in_channels_last(viewing)


CHANGES = {
    "in place": lambda model: model[-1].weight.neg_(),
    "another parameter": lambda model: setattr(model[-1], "weight", nn.Parameter(torch.empty(7, 54, device=META))),
    "BatchNorm's": lambda model: model[1].running_mean.add_(0.05),
}


@pytest.mark.parametrize("change", CHANGES)
def test_weights_of_an_owned_model_are_compared_by_addresses_and_versions(change, monkeypatch, cnn):
    monkeypatch.setattr(torch.Tensor, "data_ptr", lambda tensor: id(tensor))  # 0 for all on the device "meta"
    model = ownership.own(cnn, META)
    assert freezing.unchanged(model)
    assert freezing.unchanged(model)
    with torch.no_grad():
        CHANGES[change](model)
    assert not freezing.unchanged(model)
    assert not freezing.unchanged(model)  # for good


def test_the_content_of_an_owned_model_is_compared_on_a_cpu(cnn):
    model = ownership.own(cnn, CPU)
    assert freezing.unchanged(model)
    model[0].weight.data.neg_()
    assert not freezing.unchanged(model)


def test_weights_on_a_gpu_of_a_model_that_is_not_owned_count_as_changed(cnn):
    assert not freezing.unchanged(cnn.to(META))
