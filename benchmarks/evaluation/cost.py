"""``python -m benchmarks.evaluation.cost [--save]``: CPU time of curves beside a plain loop, and beside torchcam.

The loop hides, or shows, a segment more in each row, and calls the same model with as many rows. Both calls of a compiled model
run the same compiled code. torchcam's metric computes its own Grad-CAM, so ours is timed with the maps, too.
"""

from __future__ import annotations

import sys
import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from statistics import median

import torch
from torch import Tensor, nn

from benchmarks import models
from benchmarks.evaluation.photographs import MODEL, NORMALISATION, photographs
from benchmarks.rows import columns, parser, save, where, yes
from gpulime import Explainer
from gpulime.bench.clock import order
from gpulime.engine.freezing import Freezing
from gpulime.evaluate import curves
from gpulime.evaluate.methods import METHODS
from gpulime.images.fills import segment_means
from gpulime.segments import Slic

BATCH, STEPS, TURNS = 16, 24, 11
LOOP, TORCHCAM = 1.03, 0.95  # bounds
Call = Callable[[], Tensor]


class Row(columns("entry side n forwards ms ratio bound ok")):
    """CPU milliseconds of a forward, a median of turns, and the ratio to the other side."""

    FOLDER = "evaluation/cost"

    def __str__(self) -> str:
        verdict = f", {self.ratio} of the other side, at most {self.bound}: {self.ok}" if self.bound else ""
        return f"{self.entry}, {self.side}: {self.ms} ms a forward, {self.forwards} forwards{verdict}"


def loop(model: Callable[[Tensor], Tensor], images: Tensor, segments: Tensor, values: Tensor, labels: Tensor) -> Tensor:
    """Outputs of both curves, as a plain loop: each row hides or shows one segment more, and batches are full."""
    rows, classes = [], []
    for image, parts, importance, label in zip(images, segments, values, labels.tolist(), strict=True):
        k = int(parts.max()) + 1
        fill = segment_means(image[None], parts[None].int(), k)[0]
        ranked = importance[:k].argsort(descending=True).tolist()
        rows += [image, fill]
        for start, other in ((image, fill), (fill, image)):
            row = start
            for segment in ranked[:-1]:
                row = torch.where(parts == segment, other, row)
                rows.append(row)
        classes += [label] * (2 * k)
    found = []
    for batch in torch.stack(rows).split(BATCH):
        ready = ((batch - models.MEAN) / models.STD).contiguous(memory_format=torch.channels_last)
        if len(ready) < BATCH and called_in_full(model):
            ready = torch.cat([ready, ready.new_zeros(BATCH - len(ready), *ready.shape[1:])])
        with torch.no_grad():
            found.append(model(ready)[: len(batch)].softmax(-1))
    return torch.cat(found).gather(1, torch.tensor(classes)[:, None])[:, 0]


def called_in_full(model: Callable[[Tensor], Tensor]) -> bool:
    """Tell if a model is compiled, for batches of one size."""
    return hasattr(model, "_orig_mod")


def in_turns(sides: dict[str, Call], turns: int) -> dict[str, list[float]]:
    """CPU seconds of each call of each side."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(turns + 1):
        for name in order(sides, turn):
            start = time.process_time()
            sides[name]()
            if turn:  # the first one warms up
                seconds[name].append(time.process_time() - start)
    return seconds


def rows(entry: str, sides: dict[str, tuple[Call, int]], bound: float, n: int, turns: int) -> list[Row]:
    """Rows of two sides with their forwards; the first one has the bound."""
    times = {name: median(found) for name, found in in_turns({name: side[0] for name, side in sides.items()}, turns).items()}
    each = {name: times[name] / sides[name][1] for name in sides}
    ours, theirs = each
    ratio = each[ours] / each[theirs]
    made = []
    for name in sides:
        judged = {"ratio": f"{ratio:.3f}", "bound": f"{bound:g}", "ok": yes(ratio <= bound)} if name == ours else {}
        made.append(Row(entry, name, str(n), str(sides[name][1]), f"{1e3 * each[name]:.2f}", **judged, **where()))
        print(made[-1], flush=True)
    return made


def against_loop(compile: bool, turns: int, n: int = 1) -> list[Row]:
    """Curves by segments of LIME's explanations beside the loop."""
    model, images = models.model(MODEL), photographs(n)
    explainer = Explainer(model, 257, Slic(n_segments=60), batch_size=BATCH, compile=compile, top_labels=1, **NORMALISATION)
    explained = explainer.explain(images)
    called: Callable[[Tensor], Tensor] = model
    if compile:
        called = torch.compile(model, dynamic=False, backend=Freezing(weakref.ref(model)))
    given = explained.segments.long(), explained.coefficients[:, 0], explained.labels[:, 0]
    ours, theirs = curves(explainer, images, explained), loop(called, images, *given)
    check_same(ours.deletion[0, 0], theirs, int(explained.counts[0]))
    forwards = sum(2 * k for k in explained.counts.tolist())
    sides = {"gpulime": (lambda: curves(explainer, images, explained).deletion, forwards)}
    sides["plain loop"] = (lambda: loop(called, images, *given), forwards)
    return rows(f"segments, {'compiled' if compile else 'eager'}", sides, LOOP, n, turns)


def check_same(deletion: Tensor, looped: Tensor, k: int) -> None:
    """Raise unless the curve of the first image is the loop's."""
    expected = torch.cat([looped[:1], looped[2 : 1 + k], looped[1:2]])
    if not torch.allclose(deletion[: k + 1], expected, atol=1e-5):
        raise RuntimeError(f"curves differ by {float((deletion[: k + 1] - expected).abs().max()):.2g}")


def against_torchcam(turns: int, n: int = 8) -> list[Row]:
    """Curves by pixels of Grad-CAM beside torchcam's metric."""
    from torchcam.methods import GradCAM
    from torchcam.metrics import DeletionInsertionMetric

    model, images = models.model(MODEL), photographs(n)
    explainer = Explainer(model, batch_size=BATCH, fill=models.MEAN, **NORMALISATION)
    ready = (images - models.MEAN) / models.STD
    with torch.no_grad():
        labels = model(ready).argmax(1)

    def ours() -> Tensor:
        maps = METHODS["gradcam"](model, ready, labels[:, None])
        return curves(explainer, images, maps, "pixels", STEPS, labels=labels).gap

    last = [name for name, part in model.named_modules() if isinstance(part, nn.Conv2d)][-1]
    extractor = GradCAM(model, last)

    def theirs() -> Tensor:
        metric = DeletionInsertionMetric(extractor, lambda outputs: outputs.softmax(-1), steps=STEPS, batch_size=BATCH)
        metric.update(ready, class_idx=labels.tolist())
        model.zero_grad()
        return torch.tensor(list(metric.summary().values()))

    forwards = n * 2 * STEPS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return rows(f"pixels, {STEPS} steps", {"gpulime": (ours, forwards), "torchcam": (theirs, forwards)}, TORCHCAM, n, turns)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; status 1 if a bound is missed."""
    given = parser("evaluation.cost", __doc__, ["eager", "compiled", "torchcam"], TURNS).parse_args(argv)
    measures = {
        "eager": lambda: against_loop(False, given.repeats),
        "compiled": lambda: against_loop(True, given.repeats),
        "torchcam": lambda: against_torchcam(-(-given.repeats // 3)),  # calls are long
    }
    found = [row for name in given.only or measures for row in measures[name]()]
    if given.save:
        save(found)
    return int(any(row.ok == "no" for row in found))


if __name__ == "__main__":
    sys.exit(main())
