"""lime's names give lime's answers: rows, segments, coefficients, order; and the right ones if lime is wrong."""

import contextlib
import io
import pickle
import re
import sys
import warnings
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from skimage.segmentation import slic
from sklearn.linear_model import Lasso, Ridge
from torch import nn

from gpulime import GpulimeError, lime_queue
from gpulime import lime_image as ours
from gpulime.engine.selection import SELECTIONS
from gpulime.engine.settings import Settings
from gpulime.engine.surrogate import fit
from gpulime.images import masked_images
from gpulime.wrappers.scikit_image import SegmentationAlgorithm

lime_image = pytest.importorskip("lime.lime_image")

RNG = np.random.default_rng(0)
H, W = 72, 84


def smooth(h=H, w=W, channels=3, seed=0):
    """A picture with structure, uint8."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(1, channels, 7, 8, generator=generator)
    image = nn.functional.interpolate(noise, (h, w), mode="bicubic", align_corners=False)[0]
    image = image + 0.05 * torch.rand(channels, h, w, generator=generator)
    return (image.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()


IMAGE = smooth()


def superpixels(image, n_segments=40):
    """About forty segments, ids from 0."""
    return _superpixels(image.tobytes(), image.dtype, image.shape, n_segments).copy()


@cache
def _superpixels(image, dtype, shape, n_segments):
    image = np.frombuffer(image, dtype).reshape(shape)
    return slic(image, n_segments=n_segments, start_label=0, channel_axis=-1 if image.ndim == 3 else None)


def few_superpixels(image):
    """A dozen: lime fits each selection of features anew."""
    return superpixels(image, 20)


class Classifier:
    """Four classes from a fixed projection; keeps what it was shown."""

    def __init__(self, classes=4, seed=0):
        self.weights = np.random.default_rng(seed).normal(size=(36, classes))
        self.shown = []

    def __call__(self, images):
        self.shown.append(images.copy())
        scale = 255.0 if images.dtype.kind in "iu" else 1.0
        gray = images.mean(3) / scale
        h, w = gray.shape[1] // 6 * 6, gray.shape[2] // 6 * 6
        pooled = gray[:, :h, :w].reshape(len(gray), 6, h // 6, 6, w // 6).mean((2, 4))
        logits = 6 * pooled.reshape(len(gray), -1) @ self.weights
        exponentials = np.exp(logits - logits.max(1, keepdims=True))
        return exponentials / exponentials.sum(1, keepdims=True)


def explain(module, image=IMAGE, *, explainer=(), **call):
    """One explanation by lime or by us, with what the classifier was shown."""
    classifier = Classifier()
    call = {"num_samples": 60, "segmentation_fn": superpixels, "top_labels": 2, **call}
    with contextlib.redirect_stderr(io.StringIO()):
        made = module.LimeImageExplainer(**{"random_state": 7, **dict(explainer)})
        return made.explain_instance(image, classifier, **call), classifier.shown


def assert_same(image=IMAGE, *, explainer=(), **call):
    theirs, their_rows = explain(lime_image, image, explainer=explainer, **call)
    mine, my_rows = explain(ours, image, explainer=explainer, **call)
    assert [rows.dtype for rows in my_rows] == [rows.dtype for rows in their_rows]
    assert all(np.array_equal(a, b) for a, b in zip(my_rows, their_rows, strict=True))
    assert_same_explanation(mine, theirs)
    return mine, theirs


def assert_same_explanation(mine, theirs):
    np.testing.assert_array_equal(mine.segments, theirs.segments)
    np.testing.assert_array_equal(mine.image, theirs.image)
    assert getattr(mine, "top_labels", None) == getattr(theirs, "top_labels", None)
    assert list(mine.local_exp) == list(theirs.local_exp)
    for label, pairs in theirs.local_exp.items():
        assert [segment for segment, _ in mine.local_exp[label]] == [segment for segment, _ in pairs]
        np.testing.assert_allclose(
            [weight for _, weight in mine.local_exp[label]], [weight for _, weight in pairs], rtol=0, atol=1e-9
        )
        np.testing.assert_allclose(mine.intercept[label], theirs.intercept[label], atol=1e-9)
    np.testing.assert_allclose(mine.score, theirs.score, atol=1e-9)
    np.testing.assert_allclose(mine.local_pred, theirs.local_pred, atol=1e-9)
    assert np.shape(mine.local_pred) == np.shape(theirs.local_pred)


@pytest.mark.parametrize(
    ("selection", "num_features"),
    [
        *(("auto", 6), ("auto", 10), ("auto", 100000)),  # forward selection, highest weights, all
        ("none", 3),
        ("forward_selection", 3),  # all: the next test
        *(("highest_weights", 3), ("highest_weights", 100000)),
        *(("lasso_path", 3), ("lasso_path", 10), ("lasso_path", 100000)),
    ],
)
def test_every_feature_selection(selection, num_features):
    assert_same(explainer={"feature_selection": selection}, num_features=num_features, segmentation_fn=few_superpixels)


def test_forward_selection_by_default_is_of_all_segments():
    """lime's num_features is 100000: every segment is chosen, one by one."""
    explainer = {"feature_selection": "forward_selection"}
    mine, _ = assert_same(explainer=explainer, top_labels=1, segmentation_fn=few_superpixels)
    k = len(np.unique(mine.segments))
    assert k >= 11
    assert len(mine.local_exp[mine.top_labels[0]]) == k


@pytest.mark.parametrize("hide_color", [None, 0, (10, 200, 30)], ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64], ids=lambda dtype: dtype.__name__)
def test_every_fill_and_dtype(hide_color, dtype):
    image = IMAGE if dtype == np.uint8 else (IMAGE / 255).astype(dtype)
    color = hide_color if dtype == np.uint8 or hide_color is None else tuple(np.divide(hide_color, 255).ravel())
    assert_same(image, hide_color=color)


@pytest.mark.parametrize("dtype", [np.uint8, np.float64], ids=lambda dtype: dtype.__name__)
def test_a_gray_picture_becomes_rgb(dtype):
    gray = IMAGE[..., 0] if dtype == np.uint8 else IMAGE[..., 0] / 255
    mine, _ = assert_same(gray)
    assert mine.image.shape == (H, W, 3)


@pytest.mark.parametrize(
    ("labels", "top_labels"),
    [((0, 2), None), ([3], 0), ((1,), 1), ((1,), 4), ((1,), 50), (None, 3), (1, 3), ("cat", 3), ([-1], None), (range(3), None)],
)
def test_labels(labels, top_labels):
    assert_same(labels=labels, top_labels=top_labels)


@pytest.mark.parametrize(
    "image",
    [
        np.asfortranarray(IMAGE),
        IMAGE[:, ::-1],
        IMAGE.astype(np.int64),
        (IMAGE / 255).astype(np.float16),
        np.broadcast_to(IMAGE[..., :1], IMAGE.shape),
    ],
    ids=["Fortran", "reversed", "int64", "float16", "read-only"],
)
def test_arrays_of_every_kind(image):
    assert_same(image)
    _, rows = explain(ours, image)
    assert all(batch.flags.c_contiguous for batch in rows)


def test_big_endian_pictures():
    swapped, _ = explain(ours, (IMAGE / 255).astype(">f8"))
    native, _ = explain(ours, IMAGE / 255)
    for label, pairs in native.local_exp.items():
        assert swapped.local_exp[label] == pairs


@pytest.mark.parametrize(
    "labels",
    [
        lambda image: superpixels(image).astype(float),
        lambda image: superpixels(image) > 20,
    ],
    ids=["float", "bool"],
)
def test_label_maps_of_other_numbers(labels):
    assert_same(segmentation_fn=labels)


def test_label_maps_with_gaps_and_negative_ids():
    plain, _ = explain(ours)
    odd, _ = explain(ours, segmentation_fn=lambda image: 3 * superpixels(image) - 7)
    for label, pairs in plain.local_exp.items():
        assert odd.local_exp[label] == [(3 * segment - 7, weight) for segment, weight in pairs]


@pytest.mark.parametrize(
    "answer",
    [
        lambda outputs: outputs[:, ::-1],
        lambda outputs: outputs.tolist(),
        lambda outputs: torch.from_numpy(outputs),
        lambda outputs: outputs.astype(np.float32),
        lambda outputs: (1e6 * outputs).astype(int),
    ],
    ids=["reversed", "list", "tensor", "float32", "int"],
)
def test_answers_of_every_kind(answer):
    classifier, both = Classifier(), []
    for module in (lime_image, ours):
        made = module.LimeImageExplainer(random_state=7)
        with contextlib.redirect_stderr(io.StringIO()):
            answers = made.explain_instance(
                IMAGE,
                lambda images: answer(classifier(images)),
                num_samples=80,
                segmentation_fn=superpixels,
                top_labels=1,
            )
            both.append(answers)
    assert_same_explanation(both[1], both[0])


def test_a_function_is_called_as_it_is():
    """Its gradients, the caller's autocast, and new random numbers in every batch."""
    seen = []

    def function(images):
        seen.append((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.rand(()).item()))
        return images.mean((1, 2)) / 255

    with torch.autocast("cpu", torch.bfloat16):
        ours.LimeImageExplainer().explain_instance(
            IMAGE, function, num_samples=30, segmentation_fn=superpixels, progress_bar=False
        )
    assert [state[:2] for state in seen] == [(True, True)] * 3
    assert len({state[2] for state in seen}) == 3


@pytest.mark.parametrize("kernel_width", [0.25, 5.0])
@pytest.mark.parametrize("metric", ["cosine", "euclidean", "jaccard", "manhattan", lambda a, b: np.abs(a - b).mean()])
@pytest.mark.filterwarnings("ignore:Data was converted to boolean")
def test_every_distance(metric, kernel_width):
    """Euclidean distances leave lime's kernel next to nothing but the image itself, manhattan ones nothing."""
    mine, _ = assert_same(distance_metric=metric, explainer={"kernel_width": kernel_width})
    assert np.isfinite(mine.score)


def triangular(d, kernel_width):
    return np.maximum(0, 1 - d / kernel_width)


@pytest.mark.parametrize(
    "explainer", [{"kernel": triangular, "kernel_width": 0.9}, {"kernel_width": 1}], ids=["kernel", "width"]
)
def test_a_kernel_of_the_users(explainer):
    assert_same(explainer=explainer)


@pytest.mark.parametrize("regressor", [Ridge(alpha=0.1), Lasso(alpha=0.003)], ids=str)
@pytest.mark.parametrize("num_features", [5, 8, 100000])
def test_a_regressor_of_the_users(regressor, num_features):
    assert_same(model_regressor=regressor, num_features=num_features, segmentation_fn=few_superpixels)


@pytest.mark.parametrize("num_features", [5, 100000])
def test_each_coefficient_has_its_standard_error(num_features):
    one, shown = explain(ours, num_features=num_features)
    ids = np.unique(one.segments).tolist()
    state = np.random.RandomState(7)
    state.randint(0, high=1000)
    masks = state.randint(0, 2, (60, len(ids)))
    masks[0] = 1
    outputs = Classifier()(np.concatenate(shown))[:, one.top_labels]
    settings = Settings(feature_selection="auto", num_features=num_features)
    fitted = fit(torch.from_numpy(masks)[None].bool(), torch.from_numpy(outputs)[None], settings=settings)
    for j, label in enumerate(one.top_labels):
        assert list(one.standard_errors[label]) == [segment for segment, _ in one.local_exp[label]]
        for segment, _, error in one.as_list(label, errors=True):
            np.testing.assert_allclose(error, fitted.standard_errors[0, j, ids.index(segment)], rtol=1e-6)
            assert error > 0


def test_of_a_regressor_of_the_users_no_standard_error_is_known():
    one, _ = explain(ours, model_regressor=Ridge(), segmentation_fn=few_superpixels)
    assert np.isnan([error for *_, error in one.as_list(errors=True)]).all()


@pytest.mark.parametrize("arguments", [{"batch_size": 7}, {"batch_size": 1}, {"random_seed": 5}, {"num_samples": 61}], ids=str)
def test_the_other_arguments(arguments):
    assert_same(**arguments)


def test_the_default_segmentation():
    mine, _ = assert_same(smooth(200, 200), segmentation_fn=None)
    assert 30 <= len(np.unique(mine.segments)) <= 100


@pytest.mark.parametrize("algorithm", ["quickshift", "felzenszwalb"])
def test_lime_s_own_segmentation_algorithm(algorithm):
    from lime.wrappers.scikit_image import SegmentationAlgorithm as Theirs

    options = {"quickshift": {"kernel_size": 3, "max_dist": 100, "ratio": 0.2}, "felzenszwalb": {"scale": 40, "min_size": 60}}
    theirs, mine = (made(algorithm, **options[algorithm]) for made in (Theirs, SegmentationAlgorithm))
    np.testing.assert_array_equal(mine(IMAGE), theirs(IMAGE))
    assert_same(segmentation_fn=mine)


def test_one_state_for_all_calls_as_in_lime():
    images = [smooth(seed=seed) for seed in range(3)]
    answers = []
    for module in (lime_image, ours):
        explainer = module.LimeImageExplainer(random_state=np.random.RandomState(3))
        with contextlib.redirect_stderr(io.StringIO()):
            answers.append(
                [
                    explainer.explain_instance(image, Classifier(), num_samples=60, segmentation_fn=superpixels)
                    for image in images
                ]
            )
        answers[-1].append(explainer.random_state.randint(1000))
    assert answers[0].pop() == answers[1].pop()
    for theirs, mine in zip(*answers, strict=True):
        assert_same_explanation(mine, theirs)


def test_verbose_prints_what_lime_prints(capsys):
    printed = []
    for module in (lime_image, ours):
        explain(module, explainer={"verbose": True})
        printed.append([line.split() for line in capsys.readouterr().out.splitlines()])
    words, numbers = zip(
        *([[line[0] for line in lines], [float(line[1].strip("[]")) for line in lines]] for lines in printed), strict=True
    )
    assert words[0] == words[1] == ["Intercept", "Prediction_local", "Right:"] * 2
    np.testing.assert_allclose(numbers[0], numbers[1], atol=1e-7)


MODES = [
    {},
    {"num_features": 3},
    {"positive_only": False, "num_features": 6},
    {"positive_only": False, "negative_only": True},
    {"hide_rest": True},
    {"positive_only": False, "hide_rest": True, "num_features": 10},
    {"positive_only": False, "min_weight": 0.01, "num_features": 20},
    {"min_weight": 0.01, "num_features": 20},
]


@pytest.fixture(scope="module", params=[np.uint8, np.float64], ids=lambda dtype: dtype.__name__)
def both(request):
    """Our explanation and lime's."""
    return assert_same(IMAGE if request.param == np.uint8 else IMAGE / 255)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_image_and_mask_in_every_mode(mode, both):
    mine, theirs = both
    for label in theirs.top_labels:
        for a, b in zip(mine.get_image_and_mask(label, **mode), theirs.get_image_and_mask(label, **mode), strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype


@pytest.mark.parametrize("ids", [np.int32, np.float64], ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("dtype", [np.int64, np.float32], ids=lambda dtype: dtype.__name__)
def test_image_and_mask_have_lime_s_dtypes(dtype, ids):
    """The image's own unless the rest is hidden, and the segments'."""
    image = IMAGE.astype(dtype) if dtype == np.int64 else (IMAGE / 255).astype(dtype)
    mine, theirs = assert_same(image, segmentation_fn=lambda _: superpixels(IMAGE).astype(ids))
    for mode in MODES:
        picture, mask = mine.get_image_and_mask(mine.top_labels[0], **mode)
        for a, b in zip((picture, mask), theirs.get_image_and_mask(mine.top_labels[0], **mode), strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
        assert picture.dtype == (np.float64 if mode.get("hide_rest") else dtype)
        assert mask.dtype == ids


def test_the_errors_are_lime_s():
    for module in (lime_image, ours):
        explanation, _ = explain(module)
        with pytest.raises(KeyError, match="Label not in explanation"):
            explanation.get_image_and_mask(3 if 3 not in explanation.top_labels else 99)
        with pytest.raises(ValueError, match="Positive_only and negative_only cannot be true at the same time"):
            explanation.get_image_and_mask(explanation.top_labels[0], negative_only=True)


def test_scores_and_local_predictions_of_every_label():
    explanation, _ = explain(ours, top_labels=3)
    first = explanation.top_labels[0]
    assert list(explanation.scores) == list(explanation.local_preds) == explanation.top_labels[::-1]
    assert explanation.score == explanation.scores[first]
    assert explanation.local_pred == explanation.local_preds[first]
    assert len(set(explanation.scores.values())) == 3
    for label, prediction in explanation.predictions.items():
        assert prediction == Classifier()(IMAGE[None])[0, label]


def test_explainers_and_explanations_pickle():
    explainer = ours.LimeImageExplainer(random_state=1)
    again = pickle.loads(pickle.dumps(explainer))
    call = {"num_samples": 60, "segmentation_fn": superpixels, "progress_bar": False}
    one, two = (made.explain_instance(IMAGE, Classifier(), **call) for made in (explainer, again))
    three = pickle.loads(pickle.dumps(two))
    assert_same_explanation(one, two)
    assert_same_explanation(two, three)
    np.testing.assert_array_equal(two.get_image_and_mask(two.top_labels[0])[1], three.get_image_and_mask(two.top_labels[0])[1])


# Errors of lime.


def test_every_segment_of_slic_is_hidden():
    """Its ids run from 1, and lime takes column j for id j: it never hides the last segment."""

    def bottom(images):
        inside = images[:, -8:, -8:].mean((1, 2, 3)) / 255
        return np.stack([inside, 1 - inside], 1)

    def from_one(image):
        return superpixels(image) + 1

    call = {"num_samples": 300, "segmentation_fn": from_one, "hide_color": 0, "labels": [0], "top_labels": None}
    theirs, mine = (
        made.LimeImageExplainer(random_state=0).explain_instance(IMAGE, bottom, **call) for made in (lime_image, ours)
    )
    np.testing.assert_array_equal(mine.segments, from_one(IMAGE))
    last = from_one(IMAGE)[-1, -1]
    assert mine.local_exp[0][0][0] == last
    assert last not in dict(theirs.local_exp[0])  # the part of the picture that decides
    assert set(dict(mine.local_exp[0])) == set(np.unique(mine.segments))


@pytest.mark.parametrize("segmentation_fn", [None, lambda image: superpixels(image[..., 0])], ids=["default", "given"])
@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_any_number_of_channels(channels, segmentation_fn):
    classifier = Classifier()
    image = smooth(channels=channels)
    explainer = ours.LimeImageExplainer(random_state=0)
    explanation = explainer.explain_instance(
        image, classifier, num_samples=60, segmentation_fn=segmentation_fn, progress_bar=False
    )
    assert classifier.shown[0].shape == (10, H, W, channels)
    label = explanation.top_labels[0]
    assert explanation.get_image_and_mask(label, positive_only=False)[0].shape == image.shape


def test_kernel_width_none_is_what_lime_documents():
    explanation, _ = explain(ours, explainer={"kernel_width": None})
    k = len(np.unique(explanation.segments))
    wide, _ = explain(ours, explainer={"kernel_width": 0.75 * k**0.5})
    assert_same_explanation(explanation, wide)
    with pytest.raises(TypeError):
        explain(lime_image, explainer={"kernel_width": None})


def test_an_unknown_feature_selection_lists_the_right_ones():
    with pytest.raises(GpulimeError, match=r"'lasso_path'; got 'lasso' \(did you mean 'lasso_path'\?\)"):
        ours.LimeImageExplainer(feature_selection="lasso")


def test_a_constant_model_has_no_score():
    explanation = ours.LimeImageExplainer(random_state=0).explain_instance(
        IMAGE, lambda images: np.full((len(images), 3), 1 / 3), num_samples=60, segmentation_fn=superpixels, progress_bar=False
    )
    assert np.isnan(explanation.score)
    assert all(weight == 0 for _, weight in explanation.local_exp[0])


@pytest.mark.parametrize("shape", [(-1, 1), (-1,)], ids=["column", "flat"])
def test_one_output_column_works(shape):
    explanation = ours.LimeImageExplainer(random_state=0).explain_instance(
        IMAGE,
        lambda images: (images.mean((1, 2, 3)) / 255).reshape(shape),
        num_samples=60,
        segmentation_fn=superpixels,
        progress_bar=False,
    )
    assert explanation.top_labels == [0]


# SegmentationAlgorithm.


def test_a_misspelt_parameter_warns_with_the_nearest():
    with pytest.warns(UserWarning, match=r"slic has no parameter 'compactnes' \(did you mean 'compactness'\?\)"):
        algorithm = SegmentationAlgorithm("slic", n_segments=20, compactnes=1)
    assert algorithm.target_params == {"n_segments": 20}
    np.testing.assert_array_equal(algorithm(IMAGE), slic(IMAGE, n_segments=20))


def test_set_params_refuses_what_lime_refuses():
    algorithm = SegmentationAlgorithm("quickshift", kernel_size=3)
    algorithm.set_params(ratio=0.4)
    assert algorithm.target_params == {"ratio": 0.4}
    with pytest.raises(ValueError, match="ration is not a valid parameter"):
        algorithm.set_params(ration=0.4)
    assert algorithm.filter_params(algorithm.target_fn, {"max_dist": 7}) == {"ratio": 0.4, "max_dist": 7}


def test_an_unknown_algorithm_lists_the_right_ones():
    with pytest.raises(GpulimeError, match="'quickshift', 'slic', 'felzenszwalb'; got 'watershed'"):
        SegmentationAlgorithm("watershed")


# Modules, and many images.


class Module(nn.Module):
    """The same classes as `Classifier`, in torch, double precision; has a mode, which must be put back."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.from_numpy(Classifier().weights))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        h, w = x.shape[2] // 6 * 6, x.shape[3] // 6 * 6
        pooled = nn.functional.avg_pool2d(x.mean(1, keepdim=True)[..., :h, :w], (h // 6, w // 6)).flatten(1)
        return (6 * self.dropout(pooled) @ self.weights).softmax(1)


def test_a_module_runs_on_its_device_and_is_left_as_it_was(device):
    image = IMAGE / 255
    module = Module().to(device).train()
    function, _ = explain(ours, image)
    made = ours.LimeImageExplainer(random_state=7)
    call = {"num_samples": 60, "segmentation_fn": superpixels, "top_labels": 2, "progress_bar": False}
    assert_same_explanation(made.explain_instance(image, module, **call), function)
    assert module.training


def test_a_module_with_one_number_an_image(device):
    module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(0)).to(device)
    image = smooth(channels=1) / 255
    explanation = ours.LimeImageExplainer(random_state=0).explain_instance(
        image, module, num_samples=60, segmentation_fn=lambda image: superpixels(image[..., 0]), progress_bar=False
    )
    assert explanation.top_labels == [0]


@pytest.mark.parametrize(
    ("dtype", "white"),
    [(np.uint8, 255), (np.uint16, 65535), (">u2", 65535), (np.int64, 255), (np.int32, 255), (np.uint32, 255)],
    ids=str,
)
def test_a_module_gets_whole_numbers_in_unit_range(dtype, white):
    call = {"num_samples": 100, "segmentation_fn": lambda _: superpixels(IMAGE), "progress_bar": False}
    image = (IMAGE.astype(int) * (white // 255)).astype(dtype)
    whole, floats = (
        ours.LimeImageExplainer(random_state=0).explain_instance(image, Module(), hide_color=color, **call)
        for image, color in ((image, white // 5), (IMAGE / 255, 0.2))
    )
    for label, pairs in floats.local_exp.items():
        np.testing.assert_allclose(sorted(whole.local_exp[label]), sorted(pairs), atol=1e-12)


def test_white_is_one_in_half_precision_too():
    seen = []

    class Half(nn.Linear):
        def forward(self, x):
            seen.append(x)
            return x.float().mean((2, 3))

    image = np.full((H, W, 3), 65535, dtype=np.uint16)
    ours.LimeImageExplainer().explain_instance(
        image, Half(1, 1).half(), num_samples=20, segmentation_fn=lambda _: superpixels(IMAGE), progress_bar=False
    )
    assert all(rows.dtype == torch.float16 and (rows == 1).all() for rows in seen)


@pytest.mark.parametrize("image", [IMAGE.astype(np.int64) - 1, IMAGE.astype(np.int32) * 257], ids=["below", "beyond"])
def test_whole_numbers_whose_white_nobody_knows_are_refused_for_a_module(image):
    call = {"num_samples": 20, "segmentation_fn": lambda _: superpixels(IMAGE), "progress_bar": False}
    with pytest.raises(GpulimeError, match=r"an image of int\d\d must run from 0 to 255 .* got .*: pass floats"):
        ours.LimeImageExplainer().explain_instance(image, Module(), **call)
    ours.LimeImageExplainer().explain_instance(image, Classifier(), **call)  # a function takes what it is given


def test_many_images_in_one_queue_are_the_loop_s():
    images = [smooth(seed=seed) for seed in range(3)] + [smooth(40, 52, seed=9)]
    call = {"num_samples": 45, "segmentation_fn": superpixels, "progress_bar": False}
    one_by_one, together = Classifier(), Classifier()
    explainer = ours.LimeImageExplainer(random_state=2)
    loop = [explainer.explain_instance(image, one_by_one, **call) for image in images]
    queue = ours.LimeImageExplainer(random_state=2).explain_instances(images, together, **call)
    for a, b in zip(loop, queue, strict=True):
        assert_same_explanation(a, b)
    assert [len(rows) for rows in together.shown] == [10] * 13 + [5] + [10] * 4 + [5]
    assert len(one_by_one.shown) == 20


class Counting(Module):
    """Keeps how many rows each call has."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def forward(self, x):
        self.rows.append(len(x))
        return super().forward(x)


def test_many_images_of_a_module_are_the_loop_s():
    images = [smooth(seed=seed) / 255 for seed in range(4)]
    call = {"num_samples": 45, "segmentation_fn": superpixels, "top_labels": 2, "progress_bar": False}
    one_by_one, together = Counting(), Counting()
    explainer = ours.LimeImageExplainer(random_state=2)
    loop = [explainer.explain_instance(image, one_by_one, **call) for image in images]
    queue = ours.LimeImageExplainer(random_state=2).explain_instances(images, together, **call)
    for a, b in zip(loop, queue, strict=True):
        assert_same_explanation(a, b)  # within 1e-9
    assert one_by_one.rows == [10, 10, 10, 10, 5] * 4
    assert together.rows == [10] * 18


QUIET = {"num_samples": 20, "segmentation_fn": superpixels, "progress_bar": False}


@pytest.mark.parametrize(
    ("images", "got"),
    [(IMAGE, r"\(72, 84, 3\)"), (IMAGE[..., 0], r"\(72, 84\)"), (torch.from_numpy(IMAGE), r"\(72, 84, 3\)"), (7, "int")],
    ids=["rgb", "gray", "tensor", "number"],
)
def test_one_image_in_place_of_many_is_refused(images, got):
    message = rf"images must be a sequence of arrays, or one array \(n, h, w, c\); got {got}: pass \[image\] for one image"
    with pytest.raises(GpulimeError, match=message):
        ours.LimeImageExplainer().explain_instances(images, Classifier(), **QUIET)


def ragged(images):
    array = np.empty(len(images), dtype=object)
    array[:] = images
    return array


@pytest.mark.parametrize("kind", [list, tuple, iter, np.stack, torch.tensor, ragged], ids=lambda kind: kind.__name__)
def test_many_images_come_as_anything_that_holds_them(kind):
    images = [smooth(seed=seed) for seed in range(2)]
    expected = ours.LimeImageExplainer(random_state=0).explain_instances(images, Classifier(), **QUIET)
    given = kind(np.stack(images) if kind is torch.tensor else images)
    for a, b in zip(
        ours.LimeImageExplainer(random_state=0).explain_instances(given, Classifier(), **QUIET), expected, strict=True
    ):
        assert_same_explanation(a, b)


DARK = np.zeros_like(IMAGE)


def picky_segments(image):
    if not image.any():
        raise RuntimeError("all is dark")
    return superpixels(image)


def picky_classifier(images):
    if not images.reshape(len(images), -1).any(1).all():
        raise RuntimeError("all is dark")
    return Classifier()(images)


def nan_classifier(images):
    return np.where(images.any((1, 2, 3))[:, None], Classifier()(images), np.nan)


FAILING = {
    "segmentation": ({"segmentation_fn": picky_segments}, Classifier(), "RuntimeError: all is dark"),
    "classifier": ({"segmentation_fn": lambda _: superpixels(IMAGE)}, picky_classifier, "RuntimeError: all is dark"),
    "output": ({"segmentation_fn": lambda _: superpixels(IMAGE)}, nan_classifier, "classifier_fn's output was NaN"),
}


@pytest.mark.parametrize(("batch_size", "ahead"), [(1, 0), (7, 0), (1000, 0), (1, 1), (7, 1)])
@pytest.mark.parametrize("failing", FAILING)
def test_an_image_that_fails_takes_no_other_with_it(failing, batch_size, ahead, monkeypatch):
    """Also if the one before is on its way from a GPU."""
    monkeypatch.setitem(lime_queue.AHEAD, "cpu", ahead)
    arguments, classifier, message = FAILING[failing]
    call = {**QUIET, "batch_size": batch_size, **arguments}
    images = [smooth(seed=0), DARK, smooth(seed=1), DARK, smooth(seed=2), smooth(seed=3)]
    explainer, loop = ours.LimeImageExplainer(random_state=3), {}
    for i, image in enumerate(images):
        with contextlib.suppress(GpulimeError, RuntimeError):
            loop[i] = explainer.explain_instance(image, classifier, **call)
    with pytest.raises(ours.UnexplainedError, match=f"^image 1: {message}.*; 1 more failed.*; 4 of 6 were explained") as raised:
        ours.LimeImageExplainer(random_state=3).explain_instances(images, classifier, **call)
    error = raised.value
    assert sorted(error.explanations) == sorted(loop) == [0, 2, 4, 5]
    assert sorted(error.failures) == [1, 3]
    assert error.__cause__ is error.failures[1]
    for i, explanation in loop.items():
        assert_same_explanation(error.explanations[i], explanation)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_outputs_that_are_not_finite_are_said_whatever_selects_segments(selection):
    """They are fitted before they are looked at, so that nothing waits for a GPU."""
    explainer = ours.LimeImageExplainer(feature_selection=selection)
    with pytest.raises(GpulimeError, match=r"^classifier_fn's output was NaN or infinite for 20 of 20 samples$"):
        explainer.explain_instance(DARK, nan_classifier, **{**QUIET, **FAILING["output"][0]}, num_features=3)


@pytest.fixture
def slow():
    """A module on the GPU, of which each call takes a while; ``over`` is the event at the end of the last one."""

    class Slow(Module):
        def forward(self, rows):
            torch.cuda._sleep(10**8)
            outputs = super().forward(rows)
            self.over = torch.cuda.current_stream().record_event()
            return outputs

    return Slow().cuda()


@pytest.mark.gpu
@pytest.mark.parametrize("arguments", [{}, {"num_features": 5}, {"labels": [1, 0], "top_labels": None}], ids=str)
def test_the_host_waits_for_the_labels_of_an_image_of_a_gpu_and_for_its_explanation(arguments, slow, waits):
    """NumPy chooses the labels, as in lime. An explanation is waited for by an event, which PyTorch does not call a wait."""
    explainer, call = ours.LimeImageExplainer(random_state=0), {**SMALL, "batch_size": 5, **arguments}
    explainer.explain_instance(IMAGE, slow, **call)  # warm up
    with waits as seen:
        for image in many(2):
            explainer.explain_instance(image, slow, **call)
        explainer.explain_instances(many(3), slow, **call)
    assert len(seen) == 5, [str(wait.message) for wait in seen]


@pytest.mark.gpu
def test_an_image_is_segmented_while_a_gpu_is_at_the_one_before(slow):
    over = []

    def segmentation(image):
        over.append(hasattr(slow, "over") and slow.over.query())
        return superpixels(image)

    call = {**SMALL, "segmentation_fn": segmentation, "batch_size": 5}
    found = ours.LimeImageExplainer(random_state=0).explain_instances(many(3), slow, **call)
    assert over == [False] * 3
    explainer = ours.LimeImageExplainer(random_state=0)
    for image, explanation in zip(many(3), found, strict=True):
        assert_same_explanation(explanation, explainer.explain_instance(image, slow, batch_size=5, **SMALL))


def test_one_image_s_error_is_its_own():
    """It is raised as in lime, without wrapping or numbering."""
    with pytest.raises(RuntimeError, match=r"^all is dark$") as raised:
        ours.LimeImageExplainer().explain_instance(DARK, Classifier(), **{**QUIET, "segmentation_fn": picky_segments})
    assert raised.value.__cause__ is None
    assert not raised.value.__suppress_context__


@pytest.mark.parametrize("batch_size", [10, 10_000])
def test_what_fails_for_the_first_three_is_not_tried_on_all(batch_size):
    calls = []

    def broken(images):
        calls.append(len(images))
        raise TypeError("no such keyword")

    with pytest.raises(
        ours.UnexplainedError, match=r"2 more failed.*; 17 were not tried, as the first 3 all failed$"
    ) as raised:
        ours.LimeImageExplainer().explain_instances([IMAGE] * 20, broken, **QUIET, batch_size=batch_size)
    assert len(calls) <= 4
    assert sorted(raised.value.failures) == [0, 1, 2]


def test_an_interrupt_has_what_is_explained():
    """In a notebook it is ``sys.last_value``."""

    def impatient(images):
        if len(classifier.shown) == 7:
            raise KeyboardInterrupt
        return classifier(images)

    classifier, images = Classifier(), [smooth(seed=seed) for seed in range(5)]
    with pytest.raises(KeyboardInterrupt) as raised:
        ours.LimeImageExplainer(random_state=0).explain_instances(images, impatient, **QUIET)
    assert raised.value.__notes__ == ["3 of 5 images were explained: sys.last_value.explanations"]
    explainer = ours.LimeImageExplainer(random_state=0)
    for i, explanation in raised.value.explanations.items():
        assert_same_explanation(explanation, explainer.explain_instance(images[i], Classifier(), **QUIET))
    assert list(raised.value.explanations) == [0, 1, 2]


def test_the_error_pickles_with_what_it_holds():
    with pytest.raises(ours.UnexplainedError) as raised:
        ours.LimeImageExplainer().explain_instances([IMAGE, DARK], Classifier(), **{**QUIET, "segmentation_fn": picky_segments})
    again = pickle.loads(pickle.dumps(raised.value))
    assert str(again) == str(raised.value)
    assert_same_explanation(again.explanations[0], raised.value.explanations[0])
    assert str(again.failures[1]) == "all is dark"


def test_what_comes_of_many_images_is_a_list_that_shows_itself():
    images = [smooth(seed=seed) for seed in range(5)]
    explanations = ours.LimeImageExplainer(random_state=0).explain_instances(images, Classifier(), **QUIET)
    assert isinstance(explanations, list)
    assert explanations == list(explanations)
    assert repr(explanations) == "ImageExplanations(5 images)"
    again = pickle.loads(pickle.dumps(explanations))
    assert type(again) is type(explanations[1:3]) is ours.ImageExplanations
    assert_same_explanation(again[4], explanations[4])
    html = explanations._repr_html_()
    assert "ImageExplanations(5 images)" in html
    assert html.count("<figure") == 5
    pytest.importorskip("matplotlib")
    assert len(explanations.plot().axes) == 8
    assert len(explanations[1:].plot(kind="panels", most=2).axes) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 1}, "num_samples must be at least 2"),
        ({"labels": [9], "top_labels": None}, r"labels must be below the number of classes, 4; got \[9\]"),
        ({"segmentation_fn": lambda image: np.zeros((3, 3), int)}, r"segmentation_fn must return \(h, w\) = \(72, 84\); got"),
        ({"segmentation_fn": lambda image: np.full((H, W), "a")}, "segmentation_fn must return numbers; got <U1"),
        ({"labels": None, "top_labels": None}, "labels must be class numbers if top_labels is None or 0; got None"),
        ({"labels": [], "top_labels": 0}, "labels must name a class"),
        ({"explainer": {"kernel": lambda d, kernel_width: 0 * d}}, "kernel must return finite weights of 0 or more, not all 0"),
        ({"explainer": {"kernel": lambda d, kernel_width: d - 0.2}}, "kernel must return finite weights of 0 or more"),
        ({"explainer": {"kernel_width": 0}}, "kernel_width must be above 0, or None; got 0"),
        ({"hide_color": (1, 2)}, r"hide_color must be a number, one per channel \(c = 3\)"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(GpulimeError, match=message):
        explain(ours, **arguments)


@pytest.mark.parametrize("shape", [(3, 32, 30), (1, 28, 28), (4, 9, 20)])
@pytest.mark.parametrize("segmentation_fn", [None, superpixels])
def test_a_picture_with_its_channels_first_is_refused(shape, segmentation_fn):
    image, settings = np.random.rand(*shape), {"num_samples": 20, "progress_bar": False, "segmentation_fn": segmentation_fn}
    never = lambda rows: pytest.fail("a forward was spent")  # noqa: E731
    message = rf"an image must be \(h, w, c\) or \(h, w\); got {re.escape(str(shape))}: is that \(c, h, w\)\?"
    for one in (image, torch.from_numpy(image)):
        with pytest.raises(ValueError, match=message):
            ours.LimeImageExplainer().explain_instance(one, never, **settings)
    with pytest.raises(ValueError, match=message):
        ours.LimeImageExplainer().explain_instances(np.stack([image, image]), never, **settings)


@pytest.mark.parametrize("shape", [(3, 32, 3), (4, 9, 4), (1, 28, 1), (5, 9, 20)])
def test_a_picture_that_may_be_what_it_says_is_explained(shape):
    halves = lambda image: np.arange(image.shape[1]) * np.ones((len(image), 1), int) % 2  # noqa: E731
    classify = lambda rows: np.stack([rows.mean((1, 2, 3)), 1 - rows.mean((1, 2, 3))], 1)  # noqa: E731
    settings = {"num_samples": 20, "progress_bar": False, "segmentation_fn": halves}
    explained = ours.LimeImageExplainer().explain_instance(np.random.rand(*shape), classify, **settings)
    assert explained.segments.shape == shape[:2]


def test_an_image_that_is_none_is_refused_by_its_number():
    explainer = ours.LimeImageExplainer()
    with pytest.raises(GpulimeError, match=r"image 1: an image must be \(h, w, c\) or \(h, w\); got \(4,\)"):
        explainer.explain_instances(
            [IMAGE, np.zeros(4)], Classifier(), num_samples=20, segmentation_fn=superpixels, progress_bar=False
        )


def test_outputs_that_are_no_numbers_are_refused():
    with pytest.raises(GpulimeError, match="NaN or infinite for 60 of 60 samples"):
        ours.LimeImageExplainer().explain_instance(
            IMAGE, lambda images: np.full((len(images), 2), np.nan), num_samples=60, segmentation_fn=superpixels
        )


class Output(nn.Module):
    """A module with an output made from the right one."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(x.mean((2, 3)))


@pytest.mark.parametrize(
    "output",
    [
        lambda outputs: SimpleNamespace(logits=outputs),
        lambda outputs: {"logits": outputs},
        lambda outputs: (outputs, None),
        lambda outputs: outputs.bfloat16(),
    ],
)
def test_a_classifier_may_give_its_classes_a_name(output):
    def explained(classifier):
        return ours.LimeImageExplainer(random_state=0).explain_instance(IMAGE, classifier, **QUIET)

    module = Output(output)
    expected = explained(Output(lambda outputs: outputs))
    for classifier in (module, lambda images: module(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)):
        actual = explained(classifier)
        assert actual.top_labels == expected.top_labels
        assert actual.predictions == pytest.approx(expected.predictions, rel=1e-2)


@pytest.mark.parametrize(
    ("classifier", "message"),
    [
        (Output(lambda outputs: {"a": outputs}), r"whose forward returns model\(x\)\[key\] with one of \['a'\]"),
        (Output(lambda outputs: (outputs, outputs)), r"whose forward returns model\(x\)\[i\], with the i of the classes"),
        (lambda images: {"scores": 1}, r"classifier_fn must return \(b, classes\) probabilities; got dict"),
        (lambda images: [[1, 2], [3]], r"classifier_fn must return \(b, classes\) probabilities; got list"),
        ("resnet18", r"classifier_fn must be a function \(b, h, w, c\) array -> .*, or an nn.Module; got str"),
    ],
    ids=["module dict", "tuple", "dict", "ragged", "name"],
)
def test_a_wrong_classifier_is_told_what_the_drop_in_takes(classifier, message):
    with pytest.raises(GpulimeError, match=message) as raised:
        ours.LimeImageExplainer().explain_instance(IMAGE, classifier, **QUIET)
    assert "model=" not in str(raised.value)


def test_the_progress_bar_counts_the_samples(capfd):
    ours.LimeImageExplainer().explain_instance(IMAGE, Classifier(), num_samples=20, segmentation_fn=superpixels)
    assert "20/20" in capfd.readouterr().err


def test_no_progress_bar_is_quiet(capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours.LimeImageExplainer().explain_instance(
            IMAGE, Classifier(), num_samples=20, segmentation_fn=superpixels, progress_bar=False
        )
    assert capfd.readouterr() == ("", "")


def test_rows_of_small_images_are_composed_for_many_batches(monkeypatch):
    """A function may write into its batch: the others have their own memory."""
    composed, rows = [], masked_images.MaskedImages.rows
    monkeypatch.setattr(masked_images.MaskedImages, "rows", lambda *given: composed.append(len(given[3])) or rows(*given))
    image = np.random.default_rng(0).random((8, 8, 3))

    def explained(classifier):
        explainer = ours.LimeImageExplainer(random_state=0)
        return explainer.explain_instance(image, classifier, num_samples=100, segmentation_fn=superpixels, progress_bar=False)

    def writes(images):
        means = images.mean((1, 2))
        images[:] = np.nan
        return means

    expected = explained(lambda images: images.mean((1, 2)))
    assert composed == [100]
    assert explained(writes).local_exp == expected.local_exp


SMALL = {"num_samples": 20, "progress_bar": False, "segmentation_fn": superpixels}


def many(n):
    random = np.random.default_rng(0)
    return [random.random((8, 8, 3)) for _ in range(n)]


def test_a_segmentation_that_calls_sys_exit_costs_its_image():
    images = many(5)

    def segmentation(image):
        if image is images[3]:
            sys.exit(3)
        return superpixels(image)

    explainer = ours.LimeImageExplainer(random_state=0)
    with pytest.raises(ours.UnexplainedError) as raised:
        explainer.explain_instances(images, lambda rows: rows.mean((1, 2)), **{**SMALL, "segmentation_fn": segmentation})
    assert set(raised.value.explanations) == {0, 1, 2, 4}
    assert isinstance(raised.value.failures[3], SystemExit)


def test_a_lost_device_keeps_what_is_explained(monkeypatch):
    monkeypatch.setattr("gpulime.device.lost", lambda error, device: "illegal memory access" in str(error))
    calls = []

    def classifier(rows):
        calls.append(len(rows))
        if len(calls) == 9:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return rows.mean((1, 2))

    with pytest.raises(ours.UnexplainedError, match="illegal memory access") as raised:
        ours.LimeImageExplainer(random_state=0).explain_instances(many(6), classifier, batch_size=10, **SMALL)
    assert set(raised.value.explanations) | set(raised.value.failures) == set(range(6))
    assert len(raised.value.explanations) >= 3


def test_memory_that_runs_out_in_a_model_that_writes_costs_no_image():
    class Writes(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, rows):
            means = rows.mean((2, 3)) * self.weight
            rows.zero_()
            if len(rows) > 4:
                raise torch.OutOfMemoryError("no memory")
            return means

    explained = ours.LimeImageExplainer(random_state=0).explain_instances(many(3), Writes().eval(), batch_size=10, **SMALL)
    assert len(explained) == 3
