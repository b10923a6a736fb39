"""gpulime broken on purpose: the pretend device must turn red."""

from __future__ import annotations

import contextlib

import pytest
import torch

import gpulime
from gpulime import device as devices
from gpulime.ops import bernoulli, masked_images, source
from gpulime.segments import Grid, Slic
from tests.device.findings import FOUND, LAUNCH, RACE, REUSE, expected

pytestmark = pytest.mark.pretend

CUDA, GRID = torch.device("cuda", 0), Grid(3, 3)


@pytest.fixture
def explained(cnn, pictures):
    """Explain four batches in one queue, made on a device; returns their coefficients on the CPU."""

    def explain(place, segments=GRID):
        explainer = gpulime.Explainer(cnn.cuda(), 40, segments, batch_size=16, mean=0.4, std=0.2)
        images = (255 * pictures()).to(torch.uint8)  # the host need not look at them
        batches = (gpulime.Batch(images.to(place) + 0, keys=torch.arange(4)) for _ in range(4))
        coming = [found.fetching() for found in explainer.stream(batches)]
        return torch.cat([fetched().coefficients for fetched in coming])

    return explain


@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_nothing_is_found_as_it_is(place, explained):
    assert explained(place).abs().max() > 1e-3
    assert not FOUND


def test_without_read_here(explained, monkeypatch):
    monkeypatch.setattr(devices, "read_here", lambda kept: kept)
    with expected(REUSE):
        explained("cpu")


def test_without_wait_stream(explained, monkeypatch):
    monkeypatch.setattr(torch.cuda.Stream, "wait_stream", lambda self, other: None)
    with expected(RACE):
        explained("cpu")


def test_images_of_the_device_prepared_on_the_side(explained, monkeypatch):
    """They may still be in the making."""
    right = devices.beside
    monkeypatch.setattr(devices, "beside", lambda device, given=(): right(device))
    with expected(RACE):
        explained("cuda")


def test_kernels_on_another_stream(explained, monkeypatch):
    monkeypatch.setattr(source._CurrentStream, "__init__", lambda self, index: setattr(self, "pointer", 0))
    with expected(LAUNCH), pytest.raises(RuntimeError, match="launched on"):
        explained("cpu", Slic(n_segments=8))


def test_results_that_are_read_before_they_arrive(explained, monkeypatch):
    monkeypatch.setattr(torch.cuda.Event, "synchronize", lambda self: None)
    assert explained("cpu").isnan().all()


def arguments(**wrong):
    """Of masked_images: two images of 8 x 8, three rows."""
    right = {
        "images": torch.rand(2, 3, 8, 8),
        "fills": torch.rand(2, 3, 8, 8),
        "labels": torch.randint(0, 4, (2, 8, 8), dtype=torch.uint8),
        "index": torch.tensor([0, 1, 1]),
        "masks": torch.rand(3, 4) < 0.5,
    }
    return [tensor.cuda() for tensor in (right | wrong).values()]


@contextlib.contextmanager
def unchecked(monkeypatch, module):
    with monkeypatch.context() as patch:
        patch.setattr(module, "check", lambda *_: None)
        yield


@pytest.mark.parametrize(
    "wrong",
    [
        {"index": torch.tensor([0, 1, 1], dtype=torch.int32)},
        {"masks": torch.ones(3, 4)},
        {"fills": torch.rand(2, 3, 8, 8).half()},
    ],
    ids=["index", "masks", "fills"],
)
def test_without_a_check_of_dtypes(wrong, monkeypatch):
    with pytest.raises(gpulime.GpulimeError):
        masked_images.masked_images(*arguments(**wrong))
    with unchecked(monkeypatch, masked_images), expected(LAUNCH), pytest.raises(RuntimeError, match=r"argument . is a torch"):
        masked_images.masked_images(*arguments(**wrong))


def test_without_a_check_of_devices():
    *others, masks = arguments()
    with pytest.raises(gpulime.GpulimeError, match="masks must be on cuda:0 like images; got cpu"):
        masked_images.masked_images(*others, masks.cpu())
    with pytest.raises(gpulime.GpulimeError, match="masks must be on cuda:0 like images; got cpu"):
        torch.ops.gpulime.masked_images(*others, masks.cpu())


def test_without_contiguous(monkeypatch):
    keys, rows = torch.arange(3, device=CUDA), torch.arange(4, device=CUDA)[:, None]
    bernoulli.bernoulli(keys, rows, 5, 1)
    monkeypatch.setattr(torch.Tensor, "contiguous", lambda tensor: tensor)
    with expected(LAUNCH), pytest.raises(RuntimeError, match="argument 0 has strides"):
        bernoulli.bernoulli(keys, rows, 5, 1)


def test_without_pinned_memory(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    with pytest.warns(UserWarning, match="prototype"):
        torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="called a synchronizing"):
            devices.sent(torch.rand(3), CUDA)
    finally:
        torch.cuda.set_sync_debug_mode("default")
