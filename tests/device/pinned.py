"""Pinned memory of the host, of which the pretend device keeps the name alone."""

from __future__ import annotations

import torch


def is_pinned(tensor):
    return getattr(tensor.untyped_storage(), "_pretends_to_be_pinned", False)


def pin(tensor):
    """Call a tensor's memory pinned; returns the tensor."""
    tensor.untyped_storage()._pretends_to_be_pinned = True
    return tensor


def copy(tensor):
    """A pinned copy, made as PyTorch does: with the same strides, which fails if elements share memory."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    memory = torch.empty(last + 1 if tensor.numel() else 0, dtype=tensor.dtype)
    return pin(memory.as_strided(tensor.shape, tensor.stride()).copy_(tensor))
