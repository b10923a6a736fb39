"""Freeze weights into the compiled graph, so that PyTorch's compiler fuses BatchNorm and ReLU into convolutions.

torch.compile passes weights as arguments, so its option ``freezing`` alone finds nothing to freeze. This backend first makes a
model's registered parameters and buffers, which `unchanged` compares, constants of the graph; nothing else. PyTorch keeps
compiled code, and so these constants, until the process ends.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any
from weakref import WeakKeyDictionary, ref
from zlib import crc32

import torch
from torch import Tensor, fx, nn

from gpulime.engine.ownership import is_owned

# Digest of each model's weights at first sight; None after their first change.
_seen: WeakKeyDictionary[nn.Module, int | None] = WeakKeyDictionary()


@dataclass(frozen=True)
class Freezing:
    """Backend of torch.compile for one model, with CUDA graphs or without.

    Backends of the same model are equal, so nothing is compiled twice.
    """

    model: ref[nn.Module]
    graphs: bool = False

    def __call__(self, module: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        """Compile a graph with weights among its inputs; the compiled function takes all inputs and ignores the weights."""
        import torch._inductor

        model, graph = self.model(), copy.deepcopy(module.graph)
        assert model is not None  # it is being called
        weights = {id(tensor) for tensor in chain(model.parameters(), model.buffers())}
        named = {node.target for node in graph.nodes if node.op in ("get_attr", "call_module")}
        constants = {name: attrgetter(name)(module) for name in named}
        kept = []
        for i, node in enumerate([node for node in graph.nodes if node.op == "placeholder"]):
            if id(inputs[i]) in weights:
                node.op, node.target, node.args = "get_attr", f"weight_{i}", ()
                constants[node.target] = inputs[i]
            else:
                kept.append(i)
        frozen = fx.GraphModule(constants, graph)
        options = {"freezing": True} | ({"triton.cudagraphs": True} if self.graphs else {})
        compiled = torch._inductor.compile(frozen, [inputs[i] for i in kept], options=options)
        return lambda *given: compiled(*[given[i] for i in kept])


def unchanged(model: nn.Module) -> bool:
    """Tell if the weights have never changed since the first call for this model.

    On a CPU their content is compared, since a write through ``.data`` leaves no other trace. On a GPU their addresses and
    versions are, if the model is owned (`gpulime.engine.ownership`), so that the host need not wait; others count as changed.
    After the first change the answer stays False: a model in training changes before each explanation, and compiling takes
    longer than explaining a batch.
    """
    if _seen.get(model, 0) is not None:
        digest = _digest(model)
        if _seen.setdefault(model, digest) != digest:
            give_up(model)
    return _seen[model] is not None


def give_up(model: nn.Module) -> None:
    """Stop freezing the model for good."""
    _seen[model] = None


def _digest(model: nn.Module) -> int | None:
    """Checksum of all weights with their names, dtypes and shapes, 1 ms for 2 MB on a CPU.

    None for subclasses, sparse ones, and on a GPU for a model that is not owned.
    """
    found, traced = 0, is_owned(model)
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if type(tensor) not in (Tensor, nn.Parameter):
            return None
        found = crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), found)
        try:
            if traced and tensor.device.type != "cpu":
                found = crc32(f"{tensor.data_ptr()} {tensor._version}".encode(), found)
            else:
                found = crc32(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data, found)
        except (RuntimeError, TypeError):  # sparse, on another device, without versions
            return None
    return found
