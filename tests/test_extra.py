"""Extra inputs of the model: each masked row gets those of its image, in any batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gpulime import Explainer
from gpulime.errors import GpulimeError
from gpulime.images.batch import Batch
from gpulime.segments import Grid

N, S = 5, 20
IDS = torch.tensor([3, 0, 2, 1, 3])
META = torch.linspace(-0.5, 2, 2 * N).view(N, 2)


class Conditional(nn.Module):
    """A CNN whose output depends on a class-like id and on two numbers of each image."""

    def __init__(self, cnn):
        super().__init__()
        self.cnn, self.table = cnn, nn.Embedding(4, 7)

    def forward(self, rows, ids, meta):
        assert (ids.dtype, meta.dtype) == (torch.int64, torch.float32)
        return self.cnn(rows * (1 + meta[:, :1, None, None])) + self.table(ids) * meta[:, 1:]


@pytest.fixture
def model(cnn):
    return Conditional(cnn)


def explainer(model, **settings):
    return Explainer(model, **{"n_samples": S, "segments": Grid(3, 4), "batch_size": 16} | settings)


def one_by_one(model, images, ids=IDS, meta=META, **settings):
    """Coefficients (n, l, k), from a function of the image alone for each of them."""
    model = model.eval()
    found = []
    for i in range(len(images)):

        def of_image(rows, i=i):
            return model(rows, ids[i : i + 1].expand(len(rows)), meta[i : i + 1].expand(len(rows), -1))

        found.append(explainer(of_image, **settings).explain(images[i : i + 1]).coefficients)
    return torch.cat(found)


def assert_near(actual, expected):
    assert float(expected.abs().max()) > 1e-3
    assert float((actual - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


@pytest.mark.parametrize("batch_size", [1, 7, 16, 200, "auto"])
def test_follow_their_rows(batch_size, model, pictures):
    images = pictures(N)
    actual = explainer(model, batch_size=batch_size).explain(images, extra=(IDS, META))
    assert_near(actual.coefficients, one_by_one(model, images))


def test_follow_their_rows_through_several_flights_and_batches(monkeypatch, model, pictures):
    monkeypatch.setattr("gpulime.engine.engine.FLIGHT_ROWS", {"cpu": 2 * S})
    monkeypatch.setattr("gpulime.images.preparation.AT_ONCE_IMAGES", 3)
    images = pictures(N)
    expected = one_by_one(model, images)
    assert_near(explainer(model).explain(images, extra=(IDS, META)).coefficients, expected)
    batches = [Batch(images[i : i + 2], extra=(IDS[i : i + 2], META[i : i + 2])) for i in (0, 2, 4)]
    pieces = list(explainer(model).stream(batches))
    assert_near(torch.cat([piece.coefficients for piece in pieces]), expected)


def test_other_extras_are_another_batch(cnn, pictures, counted):
    """Rows with and without, or with others of another shape, never share a model batch."""
    images, seen = pictures(4), []

    def model(rows, *extra):
        seen.append((len(rows), [tuple(tensor.shape) for tensor in extra]))
        return cnn(rows)

    batches = [
        Batch(images[:1]),
        Batch(images[1:2], extra=(torch.zeros(1),)),
        Batch(images[2:3], extra=(torch.zeros(1, 2),)),
        Batch(images[3:], extra=(torch.zeros(1, 2, dtype=torch.int64),)),
    ]
    pieces = list(explainer(model, batch_size=1000).stream(batches))
    assert seen == [(S, []), (S, [(S,)]), (S, [(S, 2)]), (S, [(S, 2)])]
    expected = explainer(cnn).explain(images)
    assert_near(torch.cat([piece.coefficients for piece in pieces]), expected.coefficients)


def test_are_halved_with_their_rows(model, pictures):
    images, forward = pictures(N), model.forward

    def starved(rows, ids, meta):
        if len(rows) > 3:
            raise torch.OutOfMemoryError("out of memory")
        assert len(rows) == len(ids) == len(meta)
        return forward(rows, ids, meta)

    model.forward = starved
    with pytest.warns(UserWarning, match="out of memory"):
        actual = explainer(model).explain(images, extra=(IDS, META))
    model.forward = forward
    assert_near(actual.coefficients, one_by_one(model, images))


def test_are_filled_up_with_their_rows_for_a_compiled_model(monkeypatch, model, pictures):
    seen = []

    def compile(model, **settings):
        def compiled(rows, ids, meta):
            seen.append({len(rows), len(ids), len(meta)})
            return model(rows, ids, meta)

        return compiled

    monkeypatch.setattr(torch, "compile", compile)
    images = pictures(N)
    actual = explainer(model, compile=True).explain(images, extra=(IDS, META))
    assert len(seen) >= N * S // 16
    assert all(sizes == {16} for sizes in seen)
    assert_near(actual.coefficients, one_by_one(model, images))


def test_the_host_reads_nothing_of_them(unread, model, pictures):
    explainer_, batch = explainer(model), Batch(pictures(N), extra=(IDS, META))
    explainer_.explain(pictures(N), extra=(IDS, META))  # it looks once whether the outputs are probabilities
    queue, flights = explainer_.queue(), list(explainer_.prepare(batch))
    with unread:
        pieces = [piece for flight in flights for piece in queue.put(flight)] + list(queue.finish())
    assert_near(torch.cat([piece.coefficients for piece in pieces]), one_by_one(model, pictures(N)))


def test_a_model_that_writes_into_them_writes_into_copies(model, pictures):
    images, meta = pictures(N), META.clone()

    def writing(rows, ids, meta):
        outputs = model.eval()(rows, ids, meta)
        meta.zero_()
        return outputs

    actual = explainer(writing).explain(images, extra=(IDS, meta))
    assert torch.equal(meta, META)
    assert_near(actual.coefficients, one_by_one(model, images))


def test_may_be_arrays_of_any_dtype_and_shape(pictures):
    kinds = []

    def model(rows, *extra):
        kinds.append([(tensor.dtype, tuple(tensor.shape[1:])) for tensor in extra])
        return rows.mean((2, 3))

    extra = (np.zeros(2, np.uint8), torch.zeros(2, 3, 4, dtype=torch.bool), torch.zeros(2, 1, 5, 5, dtype=torch.float64))
    explainer(model).explain(pictures(2), extra=extra)
    assert kinds[0] == [(torch.uint8, ()), (torch.bool, (3, 4)), (torch.float64, (1, 5, 5))]


def test_may_be_made_in_inference_mode(model, pictures):
    images = pictures(N)
    with torch.inference_mode():
        actual = explainer(model).explain(images.clone(), extra=(IDS.clone(), META.clone()))
    assert_near(actual.coefficients.clone(), one_by_one(model, images))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ((META[:4],), r"extra\[0\] must be \(n, ...\) with n = 5; got \(4, 2\)"),
        ((IDS, torch.tensor(1.0)), r"extra\[1\] must be \(n, ...\) with n = 5; got \(\)"),
        ((IDS, "meta"), r"extra\[1\] must be a tensor \(n, ...\) with n = 5; got str"),
        (META, r"extra must be a tuple of tensors such as \(meta,\); got Tensor"),
        (np.zeros(5), r"extra must be a tuple of tensors such as \(meta,\); got ndarray"),
        (5, r"extra must be a tuple of tensors such as \(meta,\); got int"),
    ],
)
def test_that_do_not_fit_are_refused(extra, message, pictures):
    def never(*rows):
        raise AssertionError("a forward was spent")

    with pytest.raises(GpulimeError, match=message):
        explainer(never).explain(pictures(N), extra=extra)
