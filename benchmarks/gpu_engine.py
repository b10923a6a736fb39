"""The engine on a GPU: beside the bare model, and beside lime and captum with the same model."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import gpulime
from benchmarks.gpu_kernels import QUICKSHIFT, SLIC, pictures, problem
from benchmarks.gpu_rows import Bench, Row, kept
from gpulime.ops import masked_images, quickshift, slic

SAMPLES = 1000
TOLERANCE = 0.05  # of a probability: a compiler rounds to bfloat16 at other places
GRID = gpulime.segments.Grid(7, 7)


def small_cnn() -> nn.Module:
    """A classifier of 28x28 images, whose forwards are over before the next is launched."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()),
        nn.Linear(1024, 10),
    ).eval()


def torchvision_model(name: str) -> nn.Module:
    """With random weights: they are as fast as any."""
    import torchvision

    torch.manual_seed(0)
    model: nn.Module = getattr(torchvision.models, name)(weights=None).eval()
    return model


MODELS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {  # how it is made, pixels of a side, rows of a batch
    "ResNet-50": (partial(torchvision_model, "resnet50"), 224, 256),
    "ViT-B/16": (partial(torchvision_model, "vit_b_16"), 224, 256),
    "28x28 CNN": (small_cnn, 28, 1000),
}


def share_of_model(bench: Bench) -> Iterator[Row]:
    """Masking and segmentation of an image, beside its 1000 forwards in ResNet-50."""
    model, images, rows = _bfloat16(bench, "ResNet-50", 16)
    s, b = _samples(bench), len(rows)
    forwards = bench.times(lambda: _forward(model, rows)).median * s / b
    masking = bench.times(partial(masked_images.masked_images, *_problem(bench, b))).median * s / b
    for name, op, segmenter in (("slic", slic.slic, SLIC), ("quickshift", quickshift.quickshift, QUICKSHIFT)):
        times = bench.times(partial(op, images, **asdict(segmenter)), most=10)
        share = (masking + times.median / len(images)) / forwards
        row = times.row("share_of_model", f"{name} and masking, ResNet-50", bench, len(images), "images")
        yield kept(row, share, "at most 0.02 of the forwards", share <= 0.02)


def efficiency(bench: Bench) -> Iterator[Row]:
    """What is explained in a second, beside what the bare model sees; label maps are a grid, made on the device."""
    for name in MODELS:
        try:
            model, images, rows = _bfloat16(bench, name, 2 if bench.tiny else 16)
        except ModuleNotFoundError as missing:
            print(f"{name}: left out, {missing}", flush=True)
            continue
        s = _samples(bench)
        explainer = gpulime.Explainer(model, n_samples=s, segments=GRID, precision="bfloat16", batch_size=len(rows))
        bare = bench.times(lambda: _forward(model, rows))  # noqa: B023 (called before the next)
        engine = bench.times(lambda: explainer.explain(images), seconds=5, most=20, ahead=False)  # noqa: B023
        share = bare.median / len(rows) / (engine.median / (len(images) * s))
        yield bare.row("efficiency", f"{name}, bare forwards", bench, len(rows), "forwards")
        row = engine.row("efficiency", f"{name}, explained", bench, len(images) * s, "forwards")
        yield kept(row, share, "the bare model's forwards/s")


def compiled(bench: Bench) -> Iterator[Row]:
    """What is explained in a second with the model compiled, beside the same without; compiling is done before the clock."""
    for name in MODELS:
        try:
            model, images, rows = _bfloat16(bench, name, 2 if bench.tiny else 16)
        except ModuleNotFoundError as missing:
            print(f"{name}: left out, {missing}", flush=True)
            continue
        s, before = _samples(bench), None
        for mode in (False, True, "reduce-overhead"):
            explainer = gpulime.Explainer(
                model, n_samples=s, segments=GRID, precision="bfloat16", batch_size=len(rows), compile=mode
            )
            explainer.explain(images)
            times = bench.times(lambda: explainer.explain(images), seconds=5, most=20, ahead=False)  # noqa: B023
            side = f"{name}, {f'compile={mode!r}' if mode else 'as it is'}"
            if before is None:
                before, expected = times, explainer.explain(images)
            found = explainer.explain(images, expected.labels).predictions
            error = float((found / expected.predictions - 1).abs().max())
            if error > TOLERANCE:
                yield bench.verdict("compiled", side, f"probabilities differ by {error:.2g} of themselves")
                continue
            row = times.row("compiled", side, bench, len(images) * s, "forwards")
            yield kept(row, before.median / times.median, "times the engine without compiling")


def peers(bench: Bench) -> Iterator[Row]:
    """One image, the same model, samples and label map."""
    for name in ("ResNet-50", "28x28 CNN"):
        try:
            model, images, rows = _bfloat16(bench, name, 1)
        except ModuleNotFoundError as missing:
            print(f"{name}: left out, {missing}", flush=True)
            continue
        s = _samples(bench)
        explainer = gpulime.Explainer(model, n_samples=s, segments=GRID, precision="bfloat16", batch_size=len(rows))
        ours = bench.times(lambda: explainer.explain(images), seconds=3, most=20, ahead=False)  # noqa: B023
        yield ours.row("peers", f"{name}, gpulime", bench, s, "forwards")
        for peer, explain in (("lime", _lime), ("captum", _captum)):
            try:
                call = explain(model, images, s, len(rows))
            except ModuleNotFoundError as missing:
                print(f"{peer}: left out, {missing}", flush=True)
                continue
            theirs = bench.times(call, seconds=20, most=5, ahead=False)
            row = theirs.row("peers", f"{name}, {peer}", bench, s, "forwards")
            yield kept(row, theirs.median / ours.median, "times our time")


def _bfloat16(bench: Bench, name: str, n: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A model, n images, and a batch of rows as it takes them."""
    make, side, b = MODELS[name]
    if bench.tiny:
        make, side, b = small_cnn, 28, 8
    images = pictures(n, side, side, bench.device)
    rows = images.repeat(-(-b // n), 1, 1, 1)[:b].to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
    return make().to(bench.device), images, rows


def _forward(model: nn.Module, rows: Tensor) -> Tensor:
    with torch.no_grad(), torch.autocast(rows.device.type, torch.bfloat16):
        outputs: Tensor = model(rows)
    return outputs


def _samples(bench: Bench) -> int:
    return 60 if bench.tiny else SAMPLES


def _problem(bench: Bench, b: int) -> list[Tensor]:
    side = 24 if bench.tiny else 224
    return problem((2, 3, side, side, 50, b), torch.bfloat16, torch.channels_last, bench.device)


def _lime(model: nn.Module, images: Tensor, s: int, b: int) -> Callable[[], Any]:
    from lime.lime_image import LimeImageExplainer

    array = images[0].permute(1, 2, 0).cpu().double().numpy()
    labels = GRID.labels(1, *images.shape[2:], torch.device("cpu"))[0].numpy()

    def classify(batch: Any) -> Any:
        rows = torch.from_numpy(np.asarray(batch)).permute(0, 3, 1, 2).to(images.device, torch.bfloat16)
        return _forward(model, rows).float().softmax(1).cpu().numpy()

    def explain() -> Any:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            return LimeImageExplainer(random_state=0).explain_instance(
                array, classify, num_samples=s, batch_size=b, segmentation_fn=lambda _: labels
            )

    return explain


def _captum(model: nn.Module, images: Tensor, s: int, b: int) -> Callable[[], Any]:
    from captum.attr import Lime

    labels = GRID.labels(1, *images.shape[2:], images.device).long()[:, None]
    explainer = Lime(lambda rows: _forward(model, rows.to(torch.bfloat16)).float().softmax(1))

    def explain() -> Any:
        return explainer.attribute(images[:1], target=0, feature_mask=labels, n_samples=s, perturbations_per_eval=b)

    return explain
