"""Ways of running a model: the present one, and variants that may be faster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn

from gpulime.engine.model import PRECISIONS, Model
from gpulime.errors import check


@dataclass(frozen=True)
class Way:
    """Settings of running a model.

    Attributes
    ----------
    precision, batch_size, workers : as ``lime.precision``, ``lime.batch_size`` and ``data.workers``
    compile : as ``lime.compile``
    channels_last : True if the weights are converted to that memory format
    threads : number of PyTorch's threads on a CPU; None for the present number
    """

    precision: str
    batch_size: int | str
    workers: int
    compile: bool | str = False
    channels_last: bool = False
    threads: int | None = None

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Set PyTorch's threads of this way inside the context."""
        before = torch.get_num_threads()
        if self.threads is None:
            yield
            return
        try:
            torch.set_num_threads(self.threads)
            found = torch.get_num_threads()
            check(found == self.threads, f"PyTorch does not change its threads: {found}, and not {self.threads}")
            yield
        finally:
            torch.set_num_threads(before)


@dataclass(frozen=True)
class Variant:
    """A change of the present way.

    Attributes
    ----------
    kind : of `KINDS`, or TOGETHER
    name : the change, in a word or two
    action : the option or step that makes the change
    changes : changed attributes of `Way`
    """

    kind: str
    name: str
    action: str
    changes: Mapping[str, object]

    def of(self, way: Way) -> Way:
        """The way with this change."""
        return replace(way, **self.changes)  # type: ignore[arg-type]

    @property
    def changes_numbers(self) -> bool:
        """Tell if the variant changes the arithmetic, and not only the grouping of rows."""
        return self.kind not in ("batch_size", "workers")


KINDS = ("precision", "channels_last", "compile", "batch_size", "threads", "workers")
TOGETHER = "together"
IN_THE_FACTORY = "in the function that makes your model"


def precisions(way: Way, device: torch.device) -> list[Variant]:
    """Other precisions that may pay on this device; CPUs have hardly any kernels for float16."""
    worthwhile = [name for name in PRECISIONS if name != way.precision and (name != "float16" or device.type == "cuda")]
    return [Variant("precision", name, f"--lime.precision {name}", {"precision": name}) for name in worthwhile]


def memory_formats(model: Model) -> list[Variant] | str:
    """Weights in channels_last, or the reason for not trying it."""
    if not isinstance(model, nn.Module):
        return "the model is a function, so its weights are unknown"
    weights = [part.weight for part in model.modules() if isinstance(part, nn.Conv2d)]
    if not weights:
        return "the model has no convolutions of images"
    if all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights):
        return "the weights are in channels_last already"
    action = f"model.to(memory_format=torch.channels_last) {IN_THE_FACTORY}"
    return [Variant("channels_last", "channels_last", action, {"channels_last": True})]


def compiling(b: int) -> Variant:
    """Compile the model by ``torch.compile``, for batches of b rows, without a search."""
    return Variant("compile", "torch.compile", "--lime.compile true", {"compile": True, "batch_size": b})


def batch_size(b: int) -> Variant:
    """Model batches of b rows."""
    return Variant("batch_size", f"batches of {b}", f"--lime.batch_size {b}", {"batch_size": b})


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


def together(variants: list[Variant]) -> Variant:
    """Combine variants to one."""
    changes = {name: value for variant in variants for name, value in variant.changes.items()}
    return Variant(TOGETHER, TOGETHER, "; ".join(variant.action for variant in variants), changes)
