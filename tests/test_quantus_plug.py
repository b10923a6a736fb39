"""gpulime as an explanation function of Quantus.

Of Quantus 0.6.0 with numpy 2.4 on RGB images, the metrics of `METRICS` run. IROF and ROAD fail on RGB with any explanation;
`gpulime.evaluate` has curves with IROF.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.models import synthetic
from gpulime import Explainer, GpulimeError
from gpulime.quantus import explain_func

IMAGES = (synthetic(3, 28, 28) - 0.5) / 0.25
GRID = torch.arange(16).view(4, 4).repeat_interleave(7, 0).repeat_interleave(7, 1)
TARGETS = np.array([2, 0, 1])
SETTINGS = {"n_samples": 40, "segments": GRID}


@pytest.fixture
def small():
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 4))
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize("inputs", [IMAGES.numpy(), IMAGES])
def test_maps_are_gpulime_s(inputs, small):
    found = explain_func(small, inputs, TARGETS, device="cpu", method="Saliency", xai_lib="captum", softmax=True, **SETTINGS)
    assert isinstance(found, np.ndarray)
    assert found.shape == (3, 1, 28, 28)
    assert found.dtype == np.float32
    explainer = Explainer(small, 40, mean=0, std=1, normalized=True, fill=0.0)
    expected = explainer.explain(IMAGES, torch.from_numpy(TARGETS)[:, None], GRID.expand(3, -1, -1)).heatmaps()
    torch.testing.assert_close(torch.from_numpy(found).double(), expected, rtol=1e-6, atol=1e-8)


def test_segments_are_maps_of_each_image_or_a_segmenter(small):
    one = explain_func(small, IMAGES, TARGETS, **SETTINGS)
    each = explain_func(small, IMAGES, TARGETS, n_samples=40, segments=GRID.expand(3, -1, -1).numpy())
    grid = explain_func(small, IMAGES, TARGETS, n_samples=40, segments={"grid": {"rows": 4, "columns": 4}})
    assert np.array_equal(one, each)
    assert np.array_equal(one, grid)
    assert len(np.unique(explain_func(small, IMAGES, TARGETS, n_samples=100)[0])) == 49


def test_new_weights_change_the_maps(small):
    before = explain_func(small, IMAGES, TARGETS, **SETTINGS)
    with torch.no_grad():
        small[-1].weight.copy_(small[-1].weight.flip(0))
    assert np.abs(explain_func(small, IMAGES, TARGETS, **SETTINGS) - before).max() > 1e-3


@pytest.mark.parametrize(("targets", "got"), [(None, "None"), ([0.5, 1, 2], r"\[0.5, 1, 2\]"), (["a", "b", "c"], r"\['a'")])
def test_targets_are_needed(targets, got, small):
    with pytest.raises(GpulimeError, match=f"targets must be given, .n,. class numbers: the metric's y_batch; got {got}"):
        explain_func(small, IMAGES, targets, **SETTINGS)


FEW = {"nr_samples": 2}
METRICS = {
    "AttributionLocalisation": {},
    "Complexity": {},
    "EfficientMPRT": {},
    "FaithfulnessCorrelation": {"nr_runs": 5, "subset_size": 56},
    "FaithfulnessEstimate": {"features_in_step": 112},
    "Infidelity": {"perturb_patch_sizes": [7], "n_perturb_samples": 2},
    "LocalLipschitzEstimate": FEW,
    "MPRT": {},
    "MaxSensitivity": FEW,
    "MonotonicityCorrelation": {"nr_samples": 2, "features_in_step": 112},
    "PixelFlipping": {"features_in_step": 112},
    "PointingGame": {},
    "RandomLogit": {"num_classes": 4},
    "RelativeInputStability": FEW,
    "RelevanceRankAccuracy": {},
    "Selectivity": {"patch_size": 14},
    "SensitivityN": {"features_in_step": 112},
    "Sparseness": {},
}


def numbers(values):
    """All numbers of a metric's result."""
    values = list(values.values()) if isinstance(values, dict) else values
    if isinstance(values, list | tuple | np.ndarray):
        return [number for value in values for number in numbers(value)]
    return [float(values)]


@pytest.mark.parametrize("name", METRICS)
def test_metrics_of_quantus_run(name, small):
    quantus = pytest.importorskip("quantus")
    metric = getattr(quantus, name)(**METRICS[name], disable_warnings=True, display_progressbar=False)
    inside = np.zeros((3, 1, 28, 28), dtype=bool)
    inside[:, :, 7:21, 7:21] = True
    arguments = {"x_batch": IMAGES.numpy(), "y_batch": TARGETS, "s_batch": inside, "device": "cpu"}
    found = metric(model=small, a_batch=None, explain_func=explain_func, explain_func_kwargs=SETTINGS, **arguments)
    assert np.isfinite(numbers(found)).all()
    if name == "MPRT":
        assert np.allclose(found["original"], 1)
    if name == "Sparseness":
        maps = explain_func(small, IMAGES, TARGETS, **SETTINGS)
        assert metric(model=small, a_batch=maps, **arguments) == pytest.approx(found)
