"""Changes of the present settings that may be faster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gpulime.bench.subject import Subject
from gpulime.engine.compiled import GRAPHS
from gpulime.engine.model import PRECISIONS, Model
from gpulime.errors import check

KINDS = ("precision", "channels_last", "cudnn_benchmark", "compile", "batch_size", "threads", "workers")
TOGETHER = "together"


@dataclass(frozen=True)
class Variant:
    """A change: its kind, its name in a word or two, the option or step that makes it, and the changed settings.

    Settings are arguments of `gpulime.Explainer`; ``workers`` as ``data.workers``; ``channels_last`` for weights in that memory
    format; and PyTorch's ``threads`` on a CPU or ``cudnn_benchmark`` on a GPU.
    """

    kind: str
    name: str
    action: str
    changes: dict[str, Any]


def offers(subject: Subject, device: torch.device, b: int, best: int) -> dict[str, list[Variant] | str]:
    """Variants of each kind but the workers, or the reason for not trying any.

    ``b`` are the rows of a model batch with the present settings, and ``best`` are the fastest.
    """
    now = subject.lime["precision"]
    names = [name for name in PRECISIONS if name != now and (name != "float16" or device.type == "cuda")]  # CPUs lack kernels
    bigger = Variant("batch_size", f"batches of {best}", f"--lime.batch_size {best}", {"batch_size": best})
    # compiled for the present size, without a search
    compiled = [Variant("compile", "torch.compile", "--lime.compile true", {"compile": True, "batch_size": b})]
    if device.type == "cuda":
        changes = {"compile": GRAPHS, "batch_size": b}
        compiled.append(Variant("compile", "CUDA graphs", f"--lime.compile {GRAPHS}", changes))
    return {
        "precision": [Variant("precision", name, f"--lime.precision {name}", {"precision": name}) for name in names],
        "channels_last": memory_formats(subject.model),
        "cudnn_benchmark": cudnn_benchmark(subject.model, device),
        "compile": "the model is compiled already" if subject.lime.get("compile") else compiled,
        "batch_size": f"{b} rows, as now, are the fastest" if b == best else [bigger],
        "threads": fewer_threads(device),
    }


def memory_formats(model: Model) -> list[Variant] | str:
    """Weights in channels_last, or the reason for not trying it."""
    if not isinstance(model, nn.Module):
        return "the model is a function, so its weights are unknown"
    weights = [part.weight for part in model.modules() if isinstance(part, nn.Conv2d)]
    if not weights:
        return "the model has no convolutions of images"
    if all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights):
        return "the weights are in channels_last already"
    action = "model.to(memory_format=torch.channels_last) in the function that makes your model"
    return [Variant("channels_last", "channels_last", action, {"channels_last": True})]


def cudnn_benchmark(model: Model, device: torch.device) -> list[Variant] | str:
    """The fastest of cuDNN's convolutions, found by trying; or the reason for not trying it."""
    if device.type != "cuda":
        return "the model works on a CPU"
    if isinstance(model, nn.Module) and not any(isinstance(part, nn.Conv2d) for part in model.modules()):
        return "the model has no convolutions of images"
    if torch.backends.cudnn.benchmark:
        return "torch.backends.cudnn.benchmark is on already"
    action = "torch.backends.cudnn.benchmark = True in the function that makes your model"
    return [Variant("cudnn_benchmark", "cudnn.benchmark", action, {"cudnn_benchmark": True})]


def fewer_threads(device: torch.device) -> list[Variant] | str:
    """Half of PyTorch's threads, since two on one core may be no faster than one; or the reason for not trying it."""
    now = torch.get_num_threads()
    if device.type != "cpu":
        return "the model works on a GPU"
    if now < 2:
        return "PyTorch has one thread"
    n = now // 2
    return [Variant("threads", f"{n} thread{'s' * (n > 1)}", f"OMP_NUM_THREADS={n} before the command", {"threads": n})]


def workers(count: int) -> Variant:
    """Read and segment in ``count`` processes."""
    return Variant("workers", f"{count} worker{'s' * (count > 1)}", f"--data.workers {count}", {"workers": count})


def together(variants: Sequence[Variant]) -> Variant:
    """Combine variants to one."""
    changes = {name: value for variant in variants for name, value in variant.changes.items()}
    return Variant(TOGETHER, TOGETHER, "; ".join(variant.action for variant in variants), changes)


@contextmanager
def benchmarking(wanted: bool) -> Iterator[None]:
    """Let cuDNN try its convolutions inside the context; False changes nothing."""
    before = torch.backends.cudnn.benchmark
    try:
        torch.backends.cudnn.benchmark = wanted or before
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def threads(wanted: int | None) -> Iterator[None]:
    """Set PyTorch's threads inside the context; None changes nothing."""
    if wanted is None:
        yield
        return
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(wanted)
        found = torch.get_num_threads()
        check(found == wanted, f"PyTorch does not change its threads: {found}, and not {wanted}")
        yield
    finally:
        torch.set_num_threads(before)
