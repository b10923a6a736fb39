"""Layers of a model: their order, and new weights from their own initialisers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gpulime.engine.eval_mode import evaluating
from gpulime.errors import GpulimeError, check
from gpulime.evaluate.seeded import seeded

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def from_the_top(model: nn.Module, images: Tensor) -> list[str]:
    """Names of the submodules with weights of their own, from the logits down: the last to be called first.

    A submodule whose weights are used without a call, such as a part of ``nn.MultiheadAttention``, has its parent's place.
    """
    first_calls: dict[str, int] = {}

    def note(name: str, *given: Any) -> None:
        first_calls.setdefault(name, len(first_calls))

    hooks = [part.register_forward_pre_hook(partial(note, name)) for name, part in model.named_modules()]
    try:
        with torch.no_grad(), evaluating(model):
            model(images[:1])
    finally:
        for hook in hooks:
            hook.remove()
    names = [name for name, part in model.named_modules() if next(part.parameters(recurse=False), None) is not None]
    order = {name: (_called(name, first_calls), place) for place, name in enumerate(names)}
    return sorted(names, key=order.__getitem__, reverse=True)


def _called(name: str, first_calls: Mapping[str, int]) -> int:
    while name and name not in first_calls:
        name = name.rpartition(".")[0]
    return first_calls.get(name, 0)


def can_reset(part: nn.Module) -> bool:
    """Tell if a module has a ``reset_parameters`` that can be called without arguments."""
    reset = getattr(part, "reset_parameters", None)
    try:
        inspect.signature(reset).bind()  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True


def staged(
    model: nn.Module, images: Tensor, batch_norm: bool, stages: Mapping[str, str | Sequence[str]] | None
) -> tuple[dict[str, list[str]], list[str]]:
    """The layers that each stage re-initialises, and the layers with weights that none does.

    Parameters
    ----------
    batch_norm : bool
        If False, BatchNorms keep weights and statistics.
    stages : mapping of names to module names, optional
        Stages in their order; a module's name covers all that is inside it. By default each layer is a stage, from the logits
        down.

    Raises
    ------
    GpulimeError
        If a stage has no layer that can be re-initialised.
    """
    parts, names = dict(model.named_modules()), from_the_top(model, images)
    able = [name for name in names if can_reset(parts[name]) and (batch_norm or not isinstance(parts[name], BATCH_NORMS))]
    if not able:
        wanted = "parameters and a method reset_parameters(), as layers of torch.nn have"
        raise GpulimeError(f"the model has no layer to re-initialise: none of {len(parts)} modules has {wanted}")
    found = {name: [name] for name in able} if stages is None else {}
    for stage, given in (stages or {}).items():
        prefixes = [given] if isinstance(given, str) else list(given)
        missing = [prefix for prefix in prefixes if prefix not in parts]
        check(not missing, lambda missing=missing: f"stages: the model has no module {missing[0]!r}; it has {_some(names)}")  # type: ignore[misc]
        found[stage] = [name for name in able if any(f"{name}.".startswith(f"{prefix}.") or not prefix for prefix in prefixes)]
        check(bool(found[stage]), f"stages: {stage!r} = {prefixes} has no layer to re-initialise; there are {_some(able)}")
    covered = {name for stage in found.values() for name in stage}
    return found, [name for name in names if name not in covered]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + ", ..." * (len(names) > 20)


def reset(model: nn.Module, names: Sequence[str], seed: int) -> None:
    """Re-initialise layers in place by their own ``reset_parameters``.

    The weights of a layer depend on the seed and its place in the model alone, not on what else is re-initialised.
    """
    for place, (name, part) in enumerate(model.named_modules()):
        if name in names:
            device = next(part.parameters(recurse=False)).device
            with seeded(seed * 100_003 + place, device), torch.no_grad():
                part.reset_parameters()
