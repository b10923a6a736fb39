"""The Explainer end to end: the paper's numbers, one queue, and explanations that depend on their image alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import slow
import torch

import gpulime
from gpulime import Explainer, Explanations
from gpulime.images.batch import Batch
from gpulime.images.normalisation import Normalisation
from gpulime.segments import Grid, Slic

S = 40
KEYS = torch.tensor([gpulime.key(f"image {i}") for i in range(16)])


def explainer(model, **settings):
    return Explainer(model, **{"n_samples": S, "segments": Grid(3, 4), "batch_size": 16} | settings)


def explain(model, images, labels=None, maps=None, keys=None, **settings):
    return explainer(model, **settings).explain(images, labels, maps, keys)


def sizes(calls):
    return [len(rows) for rows in calls]


def assert_near(actual, expected, tolerance=1e-5):
    assert actual.shape == expected.shape
    assert expected.abs().max() > 0
    assert float((actual - expected).abs().max()) <= tolerance * float(expected.abs().max())


def assert_same(actual, expected, order=None, tolerance=1e-5):
    """The same explanations of images in another order: all but rounding in the model's arithmetic is equal."""
    order = list(range(len(expected))) if order is None else order
    assert len(actual) == len(order)
    for i, j in enumerate(order):
        assert actual.counts[i] == expected.counts[j]
        k = int(expected.counts[j])
        assert torch.equal(actual.segments[i], expected.segments[j])
        assert torch.equal(actual.labels[i], expected.labels[j])
        assert torch.equal(actual.images[i], expected.images[j])
        assert torch.equal(actual.segment_ids[i, :k], expected.segment_ids[j, :k])
        assert_near(actual.coefficients[i, :, :k], expected.coefficients[j, :, :k], tolerance)
        assert_near(actual.scores[i], expected.scores[j], tolerance)
        assert_near(actual.predictions[i], expected.predictions[j], tolerance)
        assert not actual.coefficients[i, :, k:].any()


# The paper


@pytest.mark.parametrize("fill", ["mean", 0.25])
def test_is_the_paper(fill, device):
    weights = torch.randn(3 * 12 * 10, 4) / 10
    images = torch.rand(2, 3, 12, 10)
    maps = torch.randint(0, 9, (2, 12, 10))
    maps[1] = maps[1].clamp(max=5)
    settings = {"fill": fill, "seed": slow.SEED, "activation": None}
    actual = explain(
        lambda rows: torch.tanh(rows.flatten(1) @ weights.to(rows)),
        images.to(device),
        torch.arange(4).expand(2, 4),
        maps,
        KEYS[:2],
        **settings,
    ).cpu()
    for i in range(2):
        image, labels = images[i].double().numpy(), maps[i].numpy()
        expected = slow.explain(
            image,
            slow.segment_means(image[None], labels[None], 9)[0] if fill == "mean" else np.full_like(image, fill),
            labels,
            int(KEYS[i]),
            lambda rows: np.tanh(rows.reshape(S, -1) @ weights.double().numpy()),
            S,
        )
        assert_near(actual.coefficients[i, :, : labels.max() + 1], torch.from_numpy(expected))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("num_features", "hide_color"), [(100_000, None), (8, 0), (4, None)])
def test_is_lime(num_features, hide_color, cnn, pictures):
    """Sampler "lime" and lime itself, given the same picture, segments and model."""
    lime_image = pytest.importorskip("lime.lime_image")
    images, maps = pictures(2, h=16, w=16), torch.arange(256).view(1, 16, 16).expand(2, 16, 16) // 20
    actual = explain(
        cnn,
        images,
        maps=maps,
        sampler="lime",
        seed=11,
        top_labels=3,
        fill="mean" if hide_color is None else hide_color,
        num_features=None if num_features > 12 else num_features,
    )

    @torch.no_grad()
    def classifier(rows):
        return cnn(torch.from_numpy(rows).float().permute(0, 3, 1, 2)).softmax(1).numpy()

    for one, image, segments in zip(actual, images, maps, strict=True):
        expected = lime_image.LimeImageExplainer(random_state=11).explain_instance(
            image.permute(1, 2, 0).double().numpy(),
            classifier,
            top_labels=3,
            hide_color=hide_color,
            num_features=num_features,
            num_samples=S,
            segmentation_fn=lambda _, segments=segments: segments.numpy(),
            random_seed=0,
        )
        assert one.top_labels == expected.top_labels
        for label in one.top_labels:
            ours, theirs = dict(one.local_exp[label]), dict(expected.local_exp[label])
            assert [segment for segment, weight in ours.items() if weight] == list(theirs)
            assert_near(torch.tensor([ours[segment] for segment in theirs]), torch.tensor(list(theirs.values())))
            assert abs(one.intercept[label] - expected.intercept[label]) < 1e-6
        first = one.top_labels[0]  # the only one whose score lime keeps
        assert abs(one.scores[first] - expected.score) < 1e-5
        assert abs(one.local_preds[first] - expected.local_pred[0]) < 1e-6


# One queue


@pytest.mark.filterwarnings("ignore:.*not above")
@pytest.mark.parametrize(
    ("n", "s", "b", "expected"),
    [
        (7, 100, 64, [64] * 10 + [60]),
        (1, 100, 64, [64, 36]),
        (4, 16, 64, [64]),
        (3, 5, 1, [1] * 15),
        (5, 2, 3, [3, 3, 3, 1]),
    ],
)
def test_model_batches_are_full(n, s, b, expected, cnn, calls, pictures):
    explain(cnn, pictures(n), n_samples=s, batch_size=b, segments=Grid(3, 3))
    assert sizes(calls) == expected


def test_whole_images_come_first(cnn, calls, pictures):
    images = pictures(7)
    explain(cnn, images)
    assert torch.equal(calls[0][:7], images)


@pytest.mark.parametrize("lengths", [[5], [1, 1, 1, 1, 1], [2, 3], [4, 1]])
def test_batches_of_a_stream_share_model_batches(lengths, cnn, calls, pictures):
    images, progress = pictures(5), []
    expected = explain(cnn, images, keys=KEYS[:5])
    calls.clear()
    batches = (Batch(x, keys=key) for x, key in zip(images.split(lengths), KEYS[:5].split(lengths), strict=True))
    parts = list(explainer(cnn).stream(batches, progress.append))
    assert sizes(calls) == progress == [16] * 12 + [8]
    assert_same(Explanations.cat(parts), expected)


def test_a_stream_gives_back_what_is_finished_and_reads_on_as_needed(cnn, pictures):
    read = []

    def batches():
        for i in range(6):
            read.append(i)
            yield Batch(pictures(1, seed=i))

    stream = explainer(cnn).stream(batches())
    next(stream)
    assert len(read) == 2
    assert len(list(stream)) == 5


def test_images_of_another_shape_start_anew(cnn, calls, pictures):
    shapes = [(24, 20), (24, 20), (9, 30), (24, 20)]
    batches = [pictures(2, h=h, w=w, seed=i) for i, (h, w) in enumerate(shapes)]
    parts = list(explainer(cnn, batch_size=15).stream(map(Batch, batches)))
    assert sizes(calls) == [15] * 10 + [10] + ([15] * 5 + [5]) * 2
    assert [tuple(part.segments.shape[1:]) for part in parts for _ in part] == [shape for shape in shapes for _ in range(2)]
    for images in batches:
        alone = explain(cnn, images)
        found = [part for part in parts if torch.equal(part.images[0], alone.images[0])]
        assert_same(found[0], alone)


def test_an_abandoned_or_failed_stream_leaves_nothing_behind(cnn, pictures):
    engine = explainer(cnn)
    expected = engine.explain(pictures())
    next(engine.stream(Batch(pictures(1, seed=i)) for i in range(9)))
    hook = cnn.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.explain(pictures())
    hook.remove()
    assert torch.equal(engine.explain(pictures()).coefficients, expected.coefficients)


# Independence


def rows_of(calls):
    """The number of times that the model saw each row, bit for bit."""
    return Counter(row.contiguous().numpy().tobytes() for rows in calls for row in rows)


@pytest.fixture
def sixteen(cnn, calls, pictures):
    """Sixteen images with different numbers of segments, their explanations in one call, and the rows that the model saw."""
    images = pictures(16, h=33, w=31)
    expected = explain(cnn, images, keys=KEYS, segments=Slic(n_segments=30), fill=0.0, batch_size=64)
    assert len(expected.counts.unique()) > 2
    assert sizes(calls) == [64] * 10
    seen = rows_of(calls)
    calls.clear()
    return images, expected, seen


@pytest.mark.parametrize("b", [1, 7, 64, "auto"])
def test_the_size_of_model_batches_changes_nothing(b, sixteen, cnn, calls):
    images, expected, seen = sixteen
    actual = explain(cnn, images, keys=KEYS, segments=Slic(n_segments=30), fill=0.0, batch_size=b)
    assert rows_of(calls) == seen
    assert_same(actual, expected)


def test_the_order_changes_nothing(sixteen, cnn, calls):
    images, expected, seen = sixteen
    order = torch.randperm(16)
    actual = explain(cnn, images[order], keys=KEYS[order], segments=Slic(n_segments=30), fill=0.0, batch_size=64)
    assert rows_of(calls) == seen
    assert_same(actual, expected, order.tolist())


@pytest.mark.parametrize("sampler", ["bernoulli", "lime"])
def test_company_changes_nothing(sampler, sixteen, cnn, calls):
    images, _, _ = sixteen
    settings = {"segments": Slic(n_segments=30), "sampler": sampler, "num_features": 7, "fill": 0.0}
    together = explain(cnn, images, keys=KEYS, **settings)
    seen = rows_of(calls)
    calls.clear()
    alone = [explain(cnn, images[i : i + 1], keys=KEYS[i : i + 1], **settings) for i in range(16)]
    assert rows_of(calls) == seen
    assert_same(Explanations.cat(alone), together)


def test_keys_and_seeds_change_masks(cnn, calls, pictures):
    image = pictures(1)
    seen = []
    for key, seed in [(0, 0), (1, 0), (-1, 0), (0, 1), (0, 2**64 - 1)]:
        explain(cnn, image, keys=torch.tensor([key]), seed=seed, segments=Grid(4, 5))
        seen.append(rows_of(calls))
        calls.clear()
    whole = image[0].numpy().tobytes()
    for i, rows in enumerate(seen):
        assert rows[whole] == 1
        assert all(set(rows) & set(other) == {whole} for other in seen[:i])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("images.preparation.AT_ONCE_IMAGES", 2),
        ("engine.engine.FLIGHT_ROWS", {"cpu": 1}),
        ("engine.engine.FLIGHT_ROWS", {"cpu": 10**6}),
        ("engine.fit.FIT_ENTRIES", 300),
    ],
)
def test_pieces_of_work_change_nothing(name, value, monkeypatch, cnn, pictures):
    images, fill = pictures(5), pictures(5, seed=1)
    expected = explain(cnn, images, keys=KEYS[:5], fill=fill)
    monkeypatch.setattr(f"gpulime.{name}", value)
    assert_same(explain(cnn, images, keys=KEYS[:5], fill=fill), expected)


def test_memory_does_not_grow_with_the_samples(monkeypatch, counted):
    """A model that costs nothing, 20,000 samples: neither the model nor the sampler is asked for much at once."""
    s, entries, rows, drawn = 20_000, 2**13, [], []
    images = torch.rand(2, 1, 8, 8)

    def model(x):
        rows.append(len(x))
        return x.mean((2, 3)) * torch.tensor([1.0, 2.0])

    def run():
        engine = explainer(model, n_samples=s, batch_size=256, activation=None, alpha=0.0, segments=Grid(4, 4), fill=0.0)
        sampler = engine.sampler
        engine.sampler = lambda *args: drawn.append(sampler(*args)) or drawn[-1]
        return engine.explain(images)

    expected = run()
    assert sum(rows) == 2 * s
    assert max(rows) == 256
    rows.clear()
    drawn.clear()
    monkeypatch.setattr("gpulime.engine.fit.MASK_ENTRIES", {"cpu": entries})
    monkeypatch.setattr("gpulime.engine.flight.AHEAD_ENTRIES", defaultdict(lambda: entries))
    actual = run()
    assert max(rows) == 256
    assert max(masks.numel() for masks in drawn) <= entries
    assert_near(actual.coefficients, expected.coefficients, 1e-9)
    assert_near(actual.scores_loo, expected.scores_loo, 1e-9)
    mass = images.unfold(2, 2, 2).unfold(3, 2, 2).sum((-1, -2)).view(2, 1, 16) / 64  # the model is linear in the segments
    assert_near(actual.coefficients, mass * torch.tensor([2.0, 1.0])[:, None], 1e-5)


@pytest.mark.parametrize(("entries", "draws"), [(2**21, 1), (2**10, 8)])
def test_masks_are_drawn_once_where_they_fit(entries, draws, monkeypatch, cnn, pictures):
    """On a GPU a draw is many launches; masks of a flight that were drawn at once serve its fit too."""
    monkeypatch.setattr("gpulime.engine.flight.AHEAD_ENTRIES", defaultdict(lambda: entries))
    engine, drawn = explainer(cnn, n_samples=100), []
    sampler = engine.sampler
    engine.sampler = lambda *args: drawn.append(sampler(*args)) or drawn[-1]
    actual = engine.explain(pictures(5))  # 500 rows of 12 segments
    assert len(drawn) == draws
    assert_same(actual, explain(cnn, pictures(5), n_samples=100))


def test_what_is_drawn_ahead_only_saves_time(monkeypatch, cnn, pictures):
    expected = explain(cnn, pictures(5))
    monkeypatch.setattr("gpulime.engine.flight.Drawn.holds", lambda self, start, stop: False)
    assert_same(explain(cnn, pictures(5)), expected)


# Labels


def test_an_explainer_tells_its_settings_in_a_line(cnn):
    given = {"mean": [0.485, 0.456, 0.406], "std": 0.25, "fill": 0.5}
    line = repr(Explainer(cnn, 40, Grid(3, 4), device="cpu", **given))
    assert line == (
        f"Explainer({type(cnn).__name__}, n_samples: 40, segments: torch grid(rows=3, columns=4), fill: 0.5, "
        "normalisation: mean 0.485 0.456 0.406, std 0.25, device: cpu)"
    )
    images = torch.zeros(2, 3, 8, 8)
    line = repr(Explainer(torch.sigmoid, segments=Grid(), normalized=True, mean=0.5, std=0.5, fill=images))
    assert line.startswith("Explainer(sigmoid, n_samples: 1000, ")
    assert "fill: images (2, 3, 8, 8), normalisation: mean 0.5, std 0.5, done already, " in line
    assert "fill: mean, normalisation: none, " in repr(Explainer(lambda rows: rows))
    assert str(Normalisation.of(None, None, False, ((0.5,), (0.25,)))) == "mean 0.5, std 0.25, the model's own"


def test_names_of_the_model_go_with_its_explanations(cnn, pictures):
    assert explain(cnn, pictures(1)).class_names is None
    cnn.config = SimpleNamespace(id2label={i: f"kind {i}" for i in range(7)})
    found = explain(cnn, pictures(1))
    assert found.class_names == [f"kind {i}" for i in range(7)]
    assert repr(found[0]).startswith("ImageExplanation(kind ")


def test_labels_default_to_the_highest_outputs(cnn, pictures):
    images = pictures()
    with torch.no_grad():
        probabilities = cnn(images).softmax(1)
    explanations = explain(cnn, images, top_labels=3)
    best = probabilities.topk(3)
    assert torch.equal(explanations.labels, best.indices)
    torch.testing.assert_close(explanations.predictions, best.values)
    assert explain(cnn, images, top_labels=50).labels.shape == (4, 7)


@pytest.mark.parametrize(
    "labels",
    [
        torch.tensor([3, 0, 6, 3]),
        torch.tensor([[1, 2], [6, 0], [5, 5], [0, 6]]),
        np.array([1, 2, 3, 4]),
        torch.tensor([1] * 4).byte(),
    ],
    ids=["(n,)", "(n, l)", "numpy", "uint8"],
)
def test_labels_that_are_given(labels, cnn, pictures):
    everything = explain(cnn, pictures(), torch.arange(7).expand(4, 7))
    explanations = explain(cnn, pictures(), labels)
    wanted = torch.as_tensor(labels).long().view(4, -1)
    assert torch.equal(explanations.labels, wanted)
    for name in ("predictions", "scores", "scores_loo", "spreads", "intercepts", "local_predictions"):
        assert_near(getattr(explanations, name), getattr(everything, name).gather(1, wanted), 1e-9)
    where = wanted[..., None].expand(-1, -1, 12)
    assert_near(explanations.coefficients, everything.coefficients.gather(1, where), 1e-9)


@pytest.mark.parametrize("labels", [None, 3, [[0], [1, 2], [6], [5, 4, 3]]])
def test_predictions_are_told_whatever_is_explained(labels, cnn, pictures):
    images = pictures(4)
    with torch.no_grad():
        probs, classes = cnn.eval()(images).softmax(1).max(1)
    found = explain(cnn, images, labels)
    assert torch.equal(found.predicted, classes)
    assert found.predicted.dtype == torch.int64
    torch.testing.assert_close(found.predicted_probs, probs)


def test_of_one_output_no_class_is_predicted(pictures):
    found = explain(lambda x: x.mean((1, 2, 3)), pictures(2), activation=None)
    assert found.predicted.tolist() == [-1, -1]
    torch.testing.assert_close(found.predicted_probs, found.predictions[:, 0].float(), check_dtype=False)


def test_labels_beside_the_highest(cnn, pictures):
    images = pictures()
    top = explain(cnn, images, top_labels=2)
    wanted = torch.tensor([[6], [-1], [0], [-1]])
    (explanations,) = explainer(cnn, top_labels=2).stream([Batch(images, wanted, top=True)])
    assert torch.equal(explanations.labels[:, :2], top.labels)
    assert explanations.labels[:, 2].tolist() == [6, int(top.labels[1, 0]), 0, int(top.labels[3, 0])]
    assert_near(explanations.coefficients[:, :2], top.coefficients, 1e-9)


# Settings


@pytest.mark.parametrize("sampler", ["bernoulli", "lime"])
def test_equal_masks_of_few_segments_are_predicted_once(sampler, device, monkeypatch, cnn, calls, pictures):
    images, cnn = pictures(3).to(device), cnn.to(device)
    found = explain(cnn, images, n_samples=600, segments=Grid(3, 3), sampler=sampler)
    assert sum(sizes(calls)) <= 3 * 2**9 < 3 * 600
    monkeypatch.setattr("gpulime.engine.engine.has_equal_masks", lambda inputs, n_samples: False)
    calls.clear()
    assert_same(found, explain(cnn, images, n_samples=600, segments=Grid(3, 3), sampler=sampler))
    assert sum(sizes(calls)) == 3 * 600


@pytest.mark.parametrize("c", [1, 2, 5])
@pytest.mark.parametrize("fill", ["mean", "blur", 0.5])
@pytest.mark.parametrize("segments", [Grid(3, 4), Slic(n_segments=6)])
def test_any_number_of_channels(segments, fill, c, pictures):
    weights = torch.randn(c * 24 * 20, 4) / 10
    explanations = explain(lambda rows: rows.flatten(1) @ weights, pictures(2, c), fill=fill, segments=segments)
    assert explanations.images.shape == (2, c, 24, 20)
    assert explanations.scores.isfinite().all()
    assert explanations[0].get_image_and_mask(int(explanations.labels[0, 0]))[0].shape == (24, 20, c)


@pytest.mark.parametrize(
    ("of_uint8", "of_floats"),
    [(51, 0.2), ([51, 102, 0], [0.2, 0.4, 0.0]), (torch.full((3, 24, 20), 51), torch.full((3, 24, 20), 0.2))],
    ids=["number", "colour", "image"],
)
def test_fills_are_in_the_units_of_the_images(of_uint8, of_floats, cnn, calls):
    images = torch.randint(0, 256, (2, 3, 24, 20), dtype=torch.uint8)
    settings = {"mean": 0.4, "std": 0.2}
    actual = explain(cnn, images, fill=of_uint8, **settings)
    first, _ = calls[:], calls.clear()
    assert_same(actual, explain(cnn, images / 255, fill=of_floats, **settings))
    torch.testing.assert_close(torch.cat(first), torch.cat(calls))
    shown = torch.cat(calls) * 0.2 + 0.4
    wanted = torch.as_tensor(of_floats).float()
    wanted = wanted[:, None, None] if wanted.ndim == 1 else wanted
    hidden = (shown - wanted).abs().amax(1) < 1e-5
    assert 0.3 < hidden.double().mean() < 0.6


def test_few_samples_are_legal_and_warn_once(cnn, pictures, recwarn):
    engine = explainer(cnn, n_samples=12)
    engine.explain(pictures())
    engine.explain(pictures())
    (message,) = (str(warning.message) for warning in recwarn)
    known = "n_samples = 12 is not above k = 12 segments: coefficients depend on the ridge penalty alpha"
    assert message == f"{known}; take at least 2 k = 24 samples"


def test_segments_whose_fit_has_no_place_in_memory_cost_no_forward(cnn, pictures, calls, monkeypatch):
    fits = 5 * 8 * 12 * 12
    monkeypatch.setattr("gpulime.device.memory", lambda device: fits)
    explain(cnn, pictures())
    calls.clear()
    monkeypatch.setattr("gpulime.device.memory", lambda device: fits - 1)
    with pytest.raises(gpulime.GpulimeError, match=r"k = 12 segments need 0\.0 GB .* cpu has 0\.0 GB: take fewer"):
        explain(cnn, pictures())
    assert not calls


def test_the_memory_of_a_device_is_what_the_system_says():
    total = gpulime.device.memory(torch.device("cpu"))
    assert total == float("inf") or 2**28 < total < 2**50


def test_a_model_that_is_constant_explains_nothing(pictures):
    explanations = explain(lambda rows: torch.tensor([[1.0, 2.0]]).expand(len(rows), 2), pictures())
    assert not explanations.coefficients.any()
    assert explanations.scores.isnan().all()
    assert not explanations.non_finite.any()
    assert_near(explanations.local_predictions, explanations.predictions.double(), 1e-12)


def test_reduced_precision_is_near(cnn, pictures):
    expected = explain(cnn, pictures(), labels=torch.tensor([0, 1, 2, 3]))
    actual = explain(cnn, pictures(), labels=torch.tensor([0, 1, 2, 3]), precision="bfloat16")
    assert_near(actual.coefficients, expected.coefficients, 0.1)
    assert not torch.equal(actual.coefficients, expected.coefficients)
    # The solve is in float64 for any precision of the model: it fits the rounded outputs to the last digit.
    linear = explain(lambda rows: rows.mean((2, 3)), pictures(), precision="bfloat16", activation=None, fill=0.0, alpha=0.0)
    assert (linear.scores > 0.99).all()


# Failures of the model


@pytest.mark.parametrize(
    ("rows", "value"),
    [
        ([2, *range(4 + 2 * (S - 1), 4 + 3 * (S - 1))], float("nan")),
        ([4 + 2 * (S - 1) + 5], float("inf")),
        ([2], float("nan")),
    ],
    ids=["every sample", "one sample", "whole image"],
)
@pytest.mark.parametrize(
    "fit", [{}, {"alpha": 0.0}, {"num_features": 3}, {"num_features": 3, "feature_selection": "lasso_path"}]
)
def test_outputs_that_are_not_finite_stay_with_their_image(fit, rows, value, cnn, pictures):
    """Image 2 of 4; rows are the whole images first, then the samples image by image."""

    def model(x):
        outputs = cnn(x)
        outputs[rows] = value
        return outputs

    images, settings = pictures(), {"fill": 0.0, "batch_size": 4 * S, "keys": KEYS[:4], **fit}
    expected = explain(lambda x: cnn(x), images, **settings)
    message = f"image 2: the model's output was NaN or infinite for {len(rows)} of 40 samples; its coefficients are NaN"
    with pytest.warns(UserWarning, match=message):
        actual = explain(model, images, **settings)
    assert actual.non_finite.tolist() == [0, 0, len(rows), 0]
    fitted = ("coefficients", "scores", "scores_loo", "spreads", "intercepts", "local_predictions")
    assert all(getattr(actual, name)[2].isnan().all() for name in fitted)
    rest = [0, 1, 3]
    for name in (*fitted, "predictions", "labels"):
        assert torch.equal(getattr(actual, name)[rest], getattr(expected, name)[rest])


def test_a_model_that_always_fails_is_not_retried_for_ever(cnn, calls, pictures):
    def fail(*_):
        raise RuntimeError("broken")

    cnn.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="broken"):
        explain(cnn, pictures())
    assert len(calls) <= 2


@pytest.mark.parametrize("name", ["coefficients", "labels", "segments", "images", "predictions"])
def test_explanations_keep_no_more_than_they_show(name, cnn, pictures):
    """A view would keep the outputs of every sample alive."""
    tensor = getattr(explain(cnn, pictures()), name)
    assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
