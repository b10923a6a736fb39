"""Input of users: all kinds of images give the same result, and mistakes are named before any forward."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gpulime import Explainer
from gpulime.errors import GpulimeError
from gpulime.segments import Grid, Slic

N, C, H, W = 3, 3, 24, 20
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def never(images):
    raise AssertionError("a forward was spent")


def explain(model, images, labels=None, maps=None, keys=None, **settings):
    explainer = Explainer(model, **{"n_samples": 30, "segments": Grid(3, 4), "batch_size": 16} | settings)
    return explainer.explain(images, labels, maps, keys)


def assert_same(actual, expected, tolerance=0.0):
    assert torch.equal(actual.labels, expected.labels)
    assert torch.equal(actual.segments, expected.segments)
    largest = float(expected.coefficients.abs().max())
    assert largest > 0
    assert float((actual.coefficients - expected.coefficients).abs().max()) <= tolerance * largest


def test_uint8_means_a_255th(cnn):
    images = torch.randint(0, 256, (N, C, H, W), dtype=torch.uint8)
    for settings in ({}, {"mean": MEAN, "std": STD}, {"segments": Slic(n_segments=8)}):
        bytes_, floats = explain(cnn, images, **settings), explain(cnn, images / 255, **settings)
        assert_same(bytes_, floats)
        assert torch.equal(bytes_.images, images)
        assert torch.equal(floats.images, images)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_floats_of_any_width(dtype, cnn, pictures):
    images = pictures(N).to(dtype)
    assert_same(explain(cnn, images), explain(cnn, images.float()))


@pytest.mark.parametrize("fill", ["mean", "blur", (0.1, 0.2, 0.3)])
@pytest.mark.parametrize("segments", [Grid(3, 4), Slic(n_segments=8)])
def test_normalised_images_are_explained_as_their_originals(fill, segments, cnn):
    images = torch.randint(0, 256, (N, C, H, W)) / 255
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    settings = {"mean": MEAN, "std": STD, "segments": segments}
    original = explain(cnn, images, fill=fill, **settings)
    if fill == (0.1, 0.2, 0.3):  # a colour is in the units of the images
        fill = ((torch.tensor(fill)[:, None, None] - mean) / std).flatten().tolist()
    normalised = explain(cnn, (images - mean) / std, fill=fill, normalized=True, **settings)
    assert_same(normalised, original, 1e-4)
    assert torch.equal(normalised.images, original.images)


def test_one_mean_serves_all_channels(cnn, pictures):
    images = pictures(N)
    assert_same(explain(cnn, images, mean=0.4, std=0.2), explain(cnn, images, mean=[0.4] * 3, std=torch.full((3,), 0.2)))


def test_images_that_require_gradients_are_explained_without(cnn, pictures):
    images = pictures(N)
    for fill in ("mean", "blur"):
        tracked = explain(cnn, images.clone().requires_grad_() * 1, fill=fill, segments=Slic(n_segments=8))
        assert_same(tracked, explain(cnn, images, fill=fill, segments=Slic(n_segments=8)))
        assert not any(value.requires_grad for value in vars(tracked).values() if isinstance(value, torch.Tensor))


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.uint16])
def test_labels_and_label_maps_from_numpy(dtype, cnn, pictures):
    images, maps, labels = pictures(N), torch.randint(1, 9, (N, H, W)), torch.tensor([[5, 0], [1, 2], [3, 4]])
    actual = explain(cnn, images, labels.numpy().astype(dtype), maps.numpy().astype(dtype))
    assert_same(actual, explain(cnn, images, labels, maps))


def test_labels_of_several_lengths_repeat_the_first(cnn, pictures):
    images = pictures(N)
    ragged = explain(cnn, images, [[5], [1, 2], [torch.tensor(3), 0]])
    assert_same(ragged, explain(cnn, images, torch.tensor([[5, 5], [1, 2], [3, 0]])))
    assert [one.top_labels for one in ragged] == [[5], [1, 2], [3, 0]]
    several = torch.zeros(N, 7)
    several[0, 5] = several[1, [1, 2]] = several[2, [0, 3]] = 1
    assert explain(cnn, images, several).labels.tolist() == [[5, 5], [1, 2], [0, 3]]
    assert_same(explain(cnn, images, 3), explain(cnn, images, torch.full((N,), 3)))


def test_arrays_that_torch_refuses_are_copied(cnn, pictures):
    """Reversed, rotated, big-endian and read-only arrays keep their values."""
    images, labels = pictures(N), torch.tensor([5, 1, 3])
    maps = torch.arange(H * W).view(H, W).div(80, rounding_mode="floor").expand(N, H, W)
    keys, mean, std, fill = torch.arange(N), [0.4, 0.5, 0.6], [0.2, 0.25, 0.3], [0.1, 0.2, 0.3]
    expected = explain(cnn, images, labels, maps, keys, mean=mean, std=std, fill=fill)

    def odd(value, dtype):
        array = np.ascontiguousarray(np.asarray(value, dtype)[::-1])[::-1]
        array.flags.writeable = False
        return array

    rotated = np.rot90(np.ascontiguousarray(np.rot90(maps.numpy(), -1, (1, 2))), 1, (1, 2))
    for segments in (rotated, list(rotated), odd(maps, ">i4")):
        colours = {"mean": odd(mean, ">f8"), "std": odd(std, ">f4"), "fill": odd(fill, ">f4")}
        actual = explain(cnn, odd(images, ">f4"), odd(labels, ">i8"), segments, odd(keys, ">i8"), **colours)
        assert_same(actual, expected)


def test_names_of_a_hugging_face_model_are_labels(cnn, pictures):
    class Named(torch.nn.Sequential):
        config = SimpleNamespace(id2label=dict(enumerate(["ant", "bee", "cat", "dog", "eel", "fox", "gnu"])))

    images = pictures(N)
    named = explain(Named(cnn), images, ["fox", "bee", 3])
    assert_same(named, explain(cnn, images, torch.tensor([5, 1, 3])))
    assert named.class_names == list(Named.config.id2label.values())
    assert named[0].get_image_and_mask("fox")[1].any()


def test_numbers_from_numpy(cnn, pictures):
    numbers = {"n_samples": np.int64(30), "seed": np.int64(3), "top_labels": np.int32(2), "batch_size": np.uint8(16)}
    plain = {name: int(number) for name, number in numbers.items()}
    assert_same(explain(cnn, pictures(N), **numbers), explain(cnn, pictures(N), **plain))


def test_images_outside_the_unit_range_warn_once(cnn, pictures, recwarn):
    explainer = Explainer(cnn, n_samples=20, segments=Grid(3, 4), batch_size=16)
    explainer.explain(pictures(1))
    assert not recwarn.list
    explainer.explain(pictures(1) * 255)
    explainer.explain(pictures(1) * 255)
    (message,) = (str(warning.message) for warning in recwarn)
    assert "outside [0, 1]" in message
    assert "pass them as uint8" in message


GOOD = torch.rand(N, C, H, W)
BAD = GOOD.clone()
BAD[2, 1, 5, 5] = float("nan")
BAD[2, 0, 0, 0] = float("-inf")


@pytest.mark.parametrize("settings", [{}, {"mean": MEAN, "std": STD, "normalized": True}])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": GOOD.tolist()}, r"images must be a tensor \(n, c, h, w\); got list"),
        ({"images": GOOD.numpy().astype(str)}, r"images must be a tensor \(n, c, h, w\); got ndarray"),
        ({"images": GOOD[0]}, r"images must be \(n, c, h, w\); got \(3, 24, 20\)"),
        ({"images": GOOD[0, 0, 0]}, r"images must be \(n, c, h, w\); got \(20,\)"),
        ({"images": GOOD[:0]}, r"images must be \(n, c, h, w\), none of them 0; got \(0, 3, 24, 20\)"),
        ({"images": GOOD.long()}, "images must be floating or uint8; got torch.int64"),
        ({"images": GOOD.cfloat()}, "images must be floating or uint8; got torch.complex64"),
        ({"images": BAD}, "image 2: 2 of its 1440 values are NaN or infinite"),
        (
            {"keys": torch.zeros(2, dtype=torch.int64)},
            r"keys must be 3 whole numbers, one for each input, such as gpulime.key\(id\); got \(2,\) torch.int64",
        ),
        (
            {"keys": torch.zeros(3)},
            r"keys must be 3 whole numbers, one for each input, such as gpulime.key\(id\); got \(3,\) torch.float32",
        ),
        ({"keys": ["a", "b", "c"]}, r"keys must be 3 whole numbers, one for each input, such as gpulime.key\(id\); got list"),
        ({"maps": torch.zeros(3, 24, 21).int()}, r"segments must be \(n, h, w\) = \(3, 24, 20\); got \(3, 24, 21\)"),
        ({"maps": torch.zeros(3, 24, 20)}, "segments must be integer labels; got torch.float32"),
        (
            {"labels": torch.tensor([1, 2])},
            r"labels must be integers, \(3,\) or \(3, l\), or 3 lists, one for each image; got \(2,\)",
        ),
        ({"labels": torch.full((3,), 0.5)}, "labels of image 0: must be a class number, 0 or more; got 0.5"),
        ({"labels": [[1], [-1, 2], [3]]}, "labels must not be negative; got -1"),
        ({"labels": torch.tensor([[0, 1], [1, -2], [2, 3]])}, "labels must not be negative; got -2"),
        ({"labels": torch.ones(3, dtype=torch.bool)}, r"labels must be integers, .* got \(3,\) torch.bool"),
        ({"labels": torch.ones(3, 1, 1).long()}, r"labels must be integers, .* got \(3, 1, 1\) torch.int64"),
        ({"labels": torch.ones(3, 0).long()}, r"labels must be integers, .* got \(3, 0\) torch.int64"),
        ({"labels": torch.tensor([0, -1, 2])}, "labels must not be negative; got -1"),
    ],
)
def test_bad_arguments_are_named_before_a_forward_is_spent(arguments, message, settings):
    with pytest.raises(GpulimeError, match=message):
        explain(never, **{"images": GOOD} | arguments, **settings)


@pytest.mark.parametrize(
    ("settings", "images", "message"),
    [
        ({"normalized": True}, GOOD, "normalized=True needs mean and std, to undo the normalisation"),
        ({"normalized": True, "mean": MEAN}, GOOD, "normalized=True needs mean and std, to undo the normalisation"),
        ({"normalized": True, "mean": MEAN, "std": STD}, (GOOD * 255).byte(), "normalized=True needs floating images"),
        ({"mean": (0.5, 0.5), "std": STD}, GOOD, "mean must have one entry per channel, c = 3; got 2"),
        ({"mean": MEAN, "std": (1.0,) * 4}, GOOD, "std must have one entry per channel, c = 3; got 4"),
        ({"mean": MEAN, "std": (0.2, 0.0, 0.2)}, GOOD, r"std must be positive; got \(0.2, 0.0, 0.2\)"),
        ({"mean": float("nan")}, GOOD, "mean must be finite; got nan"),
        ({"fill": (0.5, 0.5)}, GOOD, "fill must have one entry per channel, c = 3; got 2"),
        ({"n_samples": 1}, GOOD, "n_samples must be at least 2, .* got 1"),
        ({"n_samples": 2.5}, GOOD, "n_samples must be .* got 2.5"),
        ({"top_labels": 0}, GOOD, "top_labels must be at least 1; got 0"),
        ({"batch_size": 0}, GOOD, "batch_size must be at least 1; got 0"),
        ({"batch_size": 2.5}, GOOD, "batch_size must be .* got 2.5"),
        ({"batch_size": "big"}, GOOD, "batch_size must be a positive integer or 'auto'; got 'big'"),
        ({"precision": "half"}, GOOD, "precision must be one of 'float32', 'bfloat16', 'float16'; got 'half'"),
        ({"activation": "sofmax"}, GOOD, "activation must be one of .* got 'sofmax' .did you mean 'softmax'"),
        (
            {"sampler": "normal"},
            GOOD,
            "sampler must be one of 'bernoulli', 'lime', 'antithetic', 'blocks', 'exhaustive'; got 'normal'",
        ),
        ({"seed": 2**64}, GOOD, "seed must fit 64 bits"),
        ({"seed": 0.5}, GOOD, "seed must .* got 0.5"),
        ({"alpha": 0.0, "n_samples": 12}, GOOD, "n_samples = 12 cannot fit k = 12 segments with alpha = 0"),
    ],
)
def test_bad_settings_are_named_before_a_forward_is_spent(settings, images, message):
    with pytest.raises(GpulimeError, match=message):
        explain(never, images, **settings)


@pytest.mark.parametrize("n", [N - 1, N + 1])
def test_fills_of_later_images_are_checked_before_a_forward_is_spent_on_the_first(n, monkeypatch):
    monkeypatch.setattr("gpulime.images.preparation.AT_ONCE_IMAGES", 1)
    with pytest.raises(GpulimeError, match=rf"fill must be \(n, c, h, w\) = \(3, 3, 24, 20\); got \({n}, 3, 24, 20\)"):
        explain(never, GOOD, fill=torch.zeros(n, C, H, W))


@pytest.mark.parametrize(("labels", "image"), [(torch.tensor([0, 7, 1]), 1), (torch.tensor([[0, 1], [0, 1], [6, 7]]), 2)])
def test_labels_beyond_the_classes_cost_the_first_batch_at_most(labels, image, cnn, pictures, counted):
    calls = []
    cnn.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(GpulimeError, match=f"labels must be below the model's 7 classes; image {image} has 7"):
        explain(cnn, pictures(N), labels=labels)
    assert len(calls) == 1


def test_channels_in_the_last_place_are_asked_about():
    images = torch.rand(1, 12, 10, 3)
    with pytest.warns(UserWarning, match=r"images are \(1, 12, 10, 3\): is that \(n, h, w, c\)"):
        Explainer(lambda x: x.flatten(1)[:, :4], n_samples=20, segments=Grid(2, 2)).explain(images)


def test_a_label_beyond_the_classes_costs_one_batch_of_many_flights(cnn, calls, pictures):
    labels = torch.zeros(20, dtype=torch.int64)
    labels[17] = 9
    explainer = Explainer(cnn, 1000, segments="grid", batch_size=64)
    for forwards in (64, 0):
        del calls[:]
        with pytest.raises(GpulimeError, match="below the model's 7 classes; image 17 has 9"):
            explainer.explain(pictures(20), labels=labels)
        assert sum(len(rows) for rows in calls) == forwards


def test_callables_are_tried_before_a_forward_is_spent(cnn, calls, pictures):
    for setting in ({"kernel": lambda d, width: d[:1]}, {"distance": lambda masks: masks}):
        with pytest.raises(GpulimeError, match="must return one number per sample"):
            Explainer(cnn, 80, segments="grid", **setting).explain(pictures())
    assert calls == []
