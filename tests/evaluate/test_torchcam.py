"""Curves by pixels against torchcam's metric."""

from __future__ import annotations

import pytest
from torch import nn

from gpulime import Explainer
from gpulime.evaluate import curves

LABELS = [3, 2, 3, 4]  # with CAMs that are not 0


@pytest.mark.parametrize("fill", [0.0, "blur"])
def test_areas_are_torchcams(fill, cnn, pictures):
    metrics = pytest.importorskip("torchcam.metrics")
    if not hasattr(metrics, "DeletionInsertionMetric"):
        pytest.skip("this torchcam has no DeletionInsertionMetric")
    methods = pytest.importorskip("torchcam.methods")
    images, blurred = pictures(4), pictures(4).flip(-1)
    model = nn.Sequential(cnn[:4], cnn[4:])
    with methods.GradCAM(model, "0") as extractor:
        baseline = None if fill == 0 else blurred
        metric = metrics.DeletionInsertionMetric(extractor, lambda out: out.softmax(-1), steps=24, baseline=baseline)
        metric.update(images, class_idx=LABELS)
        expected = metric.summary()
        extractor.model.zero_grad()
        scores = model(images).softmax(-1)  # as the metric does
        cams = extractor(LABELS, scores)[0]
    maps = nn.functional.interpolate(cams[:, None], (24, 20), mode="bilinear", align_corners=False)[:, 0]
    judge = Explainer(model, mean=0, std=1, fill=0.0 if fill == 0 else blurred)
    found = curves(judge, images, maps, "pixels", 24, labels=LABELS)
    assert found.reasons == {}
    assert abs(found.deletion_auc.mean() - expected["deletion_auc"]) < 1e-5
    assert abs(found.insertion_auc.mean() - expected["insertion_auc"]) < 1e-5
