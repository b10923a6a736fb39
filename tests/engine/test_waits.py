"""Waits of the host: nothing is read from the device between a flight's first model batch and its fit."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gpulime import Batch, Explainer, Explanations
from gpulime import device as devices
from gpulime.engine.engine import FLIGHT_BYTES
from gpulime.engine.flight import AHEAD_ENTRIES, MASK_ENTRIES
from gpulime.ops.bernoulli import bernoulli_reference
from gpulime.segments import Grid, Slic

SETTINGS = {
    "as it is": {},
    "normalised": {"mean": (0.4, 0.5, 0.6), "std": 0.2},
    "blur": {"fill": "blur", "kernel": "uniform"},
    "bfloat16": {"precision": "bfloat16", "activation": None},
    "euclidean": {"distance": "euclidean", "kernel_width": 2.0},
    "few segments": {"num_features": 3, "feature_selection": "forward_selection"},
    "heavy segments": {"num_features": 3, "feature_selection": "highest_weights"},
    "logits": {"activation": None, "kernel_width": None},
    "pairs": {"sampler": "antithetic", "estimator": "wls"},
    "a process": {"sampler": "blocks", "estimator": "gp"},
    "logit": {"sampler": "blocks", "estimator": "gp", "link": "auto"},
    "a fill": {"fill": (0.1, 0.2, 0.3), "alpha": 0.1},
}


def explained(explainer, batch, guard):
    """Explain a batch, with everything between preparation and result inside ``guard``."""
    explainer.explain(batch.images[:1])  # it looks once whether the outputs are probabilities
    queue, flights = explainer.queue(), list(explainer.prepare(batch))
    with guard:
        pieces = [piece for flight in flights for piece in queue.put(flight)]
        pieces += queue.finish()
    assert len(flights) == len(pieces) > 1
    return pieces


def assert_near(pieces, expected, tolerance):
    actual = torch.cat([piece.coefficients for piece in pieces])
    largest = float(expected.coefficients.abs().max())
    assert largest > 1e-3
    assert float((actual - expected.coefficients).abs().max()) <= tolerance * largest


@pytest.mark.parametrize("labels", [None, torch.tensor([[0, 3]] * 5)], ids=["top", "labels"])
@pytest.mark.parametrize("name", SETTINGS)
def test_the_host_reads_nothing(name, labels, monkeypatch, unread, cnn, pictures):
    """No operation's result or shape depends on a tensor's values, for which the host would wait on a GPU."""
    monkeypatch.setattr("gpulime.engine.engine.FLIGHT_ROWS", {"cpu": 80})
    images = pictures(5)
    images[3] = 1.0
    explainer = Explainer(cnn, 40, Grid(3, 4), batch_size=16, **SETTINGS[name])
    pieces = explained(explainer, Batch(images, labels), unread)
    expected = explainer.explain(images, labels)
    assert_near(pieces, expected, 0.1 if "precision" in SETTINGS[name] else 1e-5)


NOT_LAUNCHED = {
    *("view", "_unsafe_view", "_reshape_alias", "as_strided", "alias", "detach", "expand", "permute", "t", "transpose"),
    *("slice", "select", "unsqueeze", "squeeze", "split", "split_with_sizes", "unbind", "diagonal"),
    *("empty", "empty_strided", "empty_like", "new_empty"),
}


class Launched(TorchDispatchMode):
    """Counts operations that launch a kernel on a GPU, without the model's; a custom op counts once."""

    def __init__(self):
        super().__init__()
        self.count, self.paused = 0, False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not self.paused and function._schema.name.partition("::")[2] not in NOT_LAUNCHED
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("n", "side", "b", "most"),
    [
        (16, 14, 1000, 250),
        (256, 7, 2**14, 400),  # small images share a flight, since launches take longer than their forwards
    ],
)
def test_a_flight_takes_few_launches(n, side, b, most, monkeypatch):
    """Images with 1000 samples each; the masks of many come of one launch."""
    monkeypatch.setattr("gpulime.engine.engine.FLIGHT_ROWS", {"cpu": 2**14})  # all as on a GPU
    monkeypatch.setattr("gpulime.engine.engine.FLIGHT_BYTES", {"cpu": FLIGHT_BYTES["cuda"]})
    monkeypatch.setattr("gpulime.engine.fit.MASK_ENTRIES", {"cpu": MASK_ENTRIES["cuda"]})
    monkeypatch.setattr("gpulime.engine.flight.AHEAD_ENTRIES", {"cpu": AHEAD_ENTRIES["cuda"]})
    monkeypatch.setattr("gpulime.images.preparation.SMALL_BYTES", {"cpu": 2**25})

    def bernoulli(keys, rows, k, seed):
        keys, rows = (tensor.contiguous() for tensor in torch.broadcast_tensors(keys, rows))
        launched.paused, launched.count = True, launched.count + 1
        masks = bernoulli_reference(keys, rows, k, seed)
        launched.paused = False
        return masks

    def model(rows):
        launched.paused = True
        outputs = rows.flatten(1)[:, :7] * 3
        launched.paused = False
        return outputs

    monkeypatch.setattr("gpulime.engine.masks.bernoulli", bernoulli)
    launched = Launched()
    explainer, images = Explainer(model, 1000, Grid(7, 7), batch_size=b), torch.rand(n, 3, side, side)
    explainer.explain(images[:1])  # it looks once whether the outputs are probabilities
    queue, [flight] = explainer.queue(), explainer.prepare(Batch(images))
    launched.count = 0
    with launched:
        [explanations] = [*queue.put(flight), *queue.finish()]
    assert len(explanations) == n
    assert 2 * (n * 1000 // b) < launched.count <= most


def test_outputs_that_are_not_finite_are_no_reason_to_wait(monkeypatch, unread, pictures):
    monkeypatch.setattr("gpulime.engine.engine.FLIGHT_ROWS", {"cpu": 80})
    images = pictures(4) * 0.9
    images[2, 0, 0, 0] = 1.0

    def model(rows):
        outputs = rows.flatten(1)[:, :7] * 3
        return outputs.where(rows[:, :1, 0, 0] < 0.99, torch.inf)

    explainer = Explainer(model, 40, Grid(3, 4), batch_size=16, activation=None, fill=0.0)
    pieces = explained(explainer, Batch(images), unread)
    bad = torch.cat([piece.non_finite for piece in pieces])
    assert (bad > 0).tolist() == [False, False, True, False]
    for name in ("coefficients", "intercepts", "scores", "scores_loo", "spreads", "local_predictions"):
        values = torch.cat([getattr(piece, name) for piece in pieces])
        assert values[2].isnan().all()
        assert not values[[0, 1, 3]].isnan().any()


@pytest.mark.gpu
@pytest.mark.parametrize("name", SETTINGS)
def test_the_host_waits_for_no_cuda_device(name, monkeypatch, watched, cnn, pictures):
    monkeypatch.setattr("gpulime.engine.engine.FLIGHT_ROWS", {"cuda": 80})
    monkeypatch.setattr("gpulime.engine.engine.FLIGHT_BYTES", {"cuda": 0})
    explainer = Explainer(cnn.cuda(), 40, Grid(3, 4), batch_size=16, **SETTINGS[name])
    pieces = explained(explainer, Batch(pictures(5)), watched)
    expected = explainer.explain(pictures(5))
    assert_near(pieces, expected, 0.1 if "precision" in SETTINGS[name] else 1e-3)


@pytest.mark.gpu
def test_images_are_sent_to_cuda_without_waiting(watched, cnn, pictures):
    """For images on the CPU, only the number of segments is read."""
    explainer = Explainer(cnn.cuda(), 40, Grid(3, 4), batch_size=16, mean=0.4, std=0.2)
    explainer.explain(pictures(2))
    batch = Batch(pictures(4), torch.tensor([0, 1, 2, 3]), keys=torch.arange(4)).as_tensors()
    with watched:
        batch.bounds(), batch.highest_label()
        there = batch.on(torch.device("cuda"))
        ready = explainer.normalisation.ready(there.images)
    torch.testing.assert_close(ready.cpu(), (batch.images - 0.4) / 0.2)
    assert torch.equal(there.labels.cpu(), batch.labels)
    assert torch.equal(there.keys.cpu(), batch.keys)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("n_samples", "quality", "sides"),
    [(129, "fast", (4, 6)), ("auto", "fast", (4, 6)), (129, "fast", (3, 5)), (1000, "lime", (3, 4))],
    ids=str,
)
def test_masks_are_planned_without_waiting(n_samples, quality, sides, watched, cnn):
    """The numbers of segments, on which places and blocks depend, are known on the host."""
    stopping = {"max_samples": 512} if n_samples == "auto" else {}
    explainer = Explainer(cnn.cuda(), n_samples, Grid(*sides), quality=quality, batch_size=16, **stopping)
    batch = Batch(torch.randint(0, 256, (3, 3, 24, 20), dtype=torch.uint8))
    list(explainer.prepare(batch))  # checks once that the kernel fits
    with watched:
        [flight] = explainer.prepare(batch)
    assert flight.inputs.sizes.tolist() == flight.inputs.counts.tolist() == [sides[0] * sides[1]] * 3


@pytest.mark.gpu
def test_what_is_sent_to_cuda_and_fetched_is_what_it_was():
    given = [torch.rand(300, 300), torch.rand(4, 3, 9, 9).contiguous(memory_format=torch.channels_last), torch.arange(7)[::2]]
    given += [torch.arange(3.0)[:, None].expand(3, 5)]  # PyTorch pins no expanded tensor
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(10**7)  # copies wait their turn
        there = [devices.sent(tensor, torch.device("cuda")) * 2 for tensor in given]
        back = devices.fetching([*there, given[0]])()
    for tensor, expected in zip(back, [*(tensor * 2 for tensor in given), given[0]], strict=True):
        assert torch.equal(tensor, expected)


@pytest.mark.gpu
def test_explanations_on_the_cpu_pin_no_memory(cnn, pictures):
    there = Explainer(cnn.cuda(), 40, Grid(3, 4), batch_size=16).explain(pictures(2))
    assert there.fetching()().coefficients.is_pinned()
    here = there.cpu()
    assert not any(tensor.is_pinned() for tensor in here._tensors().values())
    assert torch.equal(here.coefficients, there.coefficients.cpu())


def test_on_a_cpu_nothing_is_copied(cnn, pictures):
    tensors = [torch.rand(3), torch.arange(4)]
    assert all(devices.sent(tensor, torch.device("cpu")) is tensor for tensor in tensors)
    assert all(one is other for one, other in zip(devices.fetching(tensors)(), tensors, strict=True))
    explanations = Explainer(cnn, 40, Grid(3, 4), batch_size=16).explain(pictures(2))
    assert explanations.cpu().segments is explanations.segments


@pytest.mark.parametrize("segments", [Grid(3, 4), Slic(n_segments=8)])
def test_uint8_images_are_not_looked_at(segments, unread, cnn):
    batch = Batch(torch.randint(0, 256, (2, 3, 24, 20), dtype=torch.uint8))
    with unread:
        assert batch.bounds() == (0.0, 1.0)
    Explainer(cnn, 40, segments, batch_size=16).explain(batch.images)


@pytest.mark.gpu
@pytest.mark.parametrize("segments", [Grid(3, 4), Slic(n_segments=20)])
@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_images_of_the_host_are_prepared_beside_what_cuda_is_at(place, segments, cnn, pictures):
    """Images on the GPU are prepared in order, since the work that makes them may not be finished."""
    explainer = Explainer(cnn.cuda(), 40, segments, batch_size=16)
    explainer.explain(pictures(4))  # warm up
    batch = Batch(pictures(4).to(place), keys=torch.arange(4))
    torch.cuda.synchronize()
    torch.cuda._sleep(2 * 10**9)
    asleep = torch.cuda.current_stream().record_event()
    flights = list(explainer.prepare(batch))
    assert asleep.query() == (place == "cuda")
    (flight,) = flights
    if isinstance(segments, Slic):
        pytest.importorskip("skimage")
    expected = next(Explainer(cnn.cpu(), 40, segments).prepare(Batch(pictures(4))))
    assert torch.equal(flight.inputs.segments.labels.cpu(), expected.inputs.segments.labels)
    torch.testing.assert_close(flight.inputs.images.cpu(), expected.inputs.images)


@pytest.mark.gpu
def test_what_was_prepared_beside_is_not_written_over(cnn, pictures):
    """Its memory is reused only after the model has read it, even while more images are prepared."""
    explainer = Explainer(cnn.cuda(), 40, Grid(3, 4), batch_size=16)
    batches = [Batch(pictures(8)[i : i + 2], keys=torch.arange(i, i + 2)) for i in range(0, 8, 2)]

    def slowly():
        for batch in batches * 3:
            torch.cuda._sleep(10**8)
            yield batch

    pieces = Explanations.cat(list(explainer.stream(slowly())))
    expected = Explainer(cnn.cpu(), 40, Grid(3, 4)).explain(pictures(8), keys=torch.arange(8))
    for start in range(0, 24, 8):
        torch.testing.assert_close(pieces.coefficients[start : start + 8].cpu(), expected.coefficients, rtol=0, atol=1e-3)
