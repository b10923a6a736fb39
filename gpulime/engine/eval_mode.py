"""Eval mode of a module, while rows are passed to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from weakref import WeakKeyDictionary

from torch import nn

_users: WeakKeyDictionary[nn.Module, tuple[int, list[tuple[nn.Module, bool]]]] = WeakKeyDictionary()
_lock = Lock()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Set eval mode; the last thread that leaves restores the modes of all submodules."""
    with _lock:
        users, modes = _users.get(module) or (0, _modes(module))
        if any(training for _, training in modes):
            _eval(module)
        _users[module] = users + 1, modes
    try:
        yield
    finally:
        with _lock:
            users, modes = _users.pop(module)
            if users > 1:
                _users[module] = users - 1, modes
            else:
                for part, training in modes:
                    if part.training != training:  # a module takes 2 us to set an attribute
                        part.training = training


def _modes(module: nn.Module) -> list[tuple[nn.Module, bool]]:
    """Submodules with their train/eval mode; frozen TorchScript has none."""
    parts = ((part, getattr(part, "training", None)) for part in module.modules())
    return [(part, training) for part, training in parts if training is not None]


def _eval(module: nn.Module) -> None:
    """Set eval mode in all submodules that can be switched; an exported program cannot."""
    try:
        module.eval()
    except (NotImplementedError, AttributeError, RuntimeError):
        for part in module.children():
            _eval(part)
        module.training = False  # read by the module's own forward, if it has a mode
