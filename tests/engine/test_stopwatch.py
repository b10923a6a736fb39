"""The clock of the model: the device's time, and the host's share of a single call."""

from __future__ import annotations

import pickle
import time

import pytest
import torch

from gpulime import Explainer
from gpulime import device as devices
from gpulime.engine.stopwatch import Stopwatch, bound_by_launches
from gpulime.segments import Grid


@pytest.mark.parametrize(
    ("host", "device", "bound"), [(5.0, 5.1, True), (5.0, 4.9, True), (0.91, 1.0, True), (0.89, 1.0, False), (0.1, 5.0, False)]
)
def test_launches_bind_a_model_if_the_host_takes_most_of_the_devices_time(host, device, bound):
    assert bound_by_launches(host, device) == bound


def test_on_a_cpu_nothing_is_launched():
    watch = Stopwatch()
    with watch.running(torch.device("cpu"), alone=True):
        pass
    assert 0 < watch.seconds < 1
    assert not watch.launches_bind


@pytest.fixture
def waits(monkeypatch):
    """The devices that the host has waited for."""
    seen, real = [], devices.synchronize
    monkeypatch.setattr(devices, "synchronize", lambda device: seen.append(device.type) or real(device))
    return seen


@pytest.mark.gpu
@pytest.mark.parametrize("compile", ["auto", True, False])
def test_the_host_waits_once_to_measure_a_call(compile, waits, counted, monkeypatch, cnn, pictures):
    """Only if it has a choice."""
    monkeypatch.setattr(torch, "compile", lambda model, **settings: model)
    explainer = Explainer(cnn.cuda(), 40, Grid(3, 3), batch_size=16, compile=compile)
    explainer.explain(pictures(1)).cpu()  # two full batches and a smaller one
    found = waits.copy()
    for _ in range(3):
        explainer.explain(pictures()).cpu()
    assert found == waits == (["cuda"] if compile == "auto" else [])


@pytest.mark.gpu
@pytest.mark.parametrize(("alone", "seconds", "bound"), [(True, 0.02, True), (True, 2.0, False), (False, 0.02, False)])
def test_the_call_that_was_measured_alone_decides(alone, seconds, bound, monkeypatch):
    """The device's time is made up."""
    monkeypatch.setattr(torch.cuda.Event, "elapsed_time", lambda begin, end: 1000 * seconds)
    watch, cuda = Stopwatch(), torch.device("cuda")
    with watch.running(cuda, alone):
        time.sleep(0.02)
    devices.synchronize(cuda)
    assert watch.seconds == pytest.approx(seconds)
    assert watch.launches_bind == bound
    assert pickle.loads(pickle.dumps(watch)).launches_bind == bound
