"""A small model, owned and compiled with CUDA graphs, on the stub of CUDA: a line of JSON about its batches.

Started by test_stub.py with the environment of `library.environment`.
"""

from __future__ import annotations

import json
import warnings

import torch
from torch import nn

from gpulime.engine import ownership
from gpulime.engine.model import Predictor
from tests.device.stub import calls

BATCHES, B = 6, 16  # uncompiled, compiled, recorded, and three that are replayed


def main() -> None:
    """Pass batches of the same size."""
    warnings.simplefilter("ignore")
    torch.backends.cudnn.enabled = False  # it would have to answer
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    cuda = torch.device("cuda")
    model = ownership.own(nn.Sequential(*layers, nn.Linear(8, 10, bias=False)).eval(), cuda)
    predictor = Predictor(model, None, "bfloat16", None, "reduce-overhead")
    rows = torch.zeros(B, 3, 32, 32, device=cuda, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    spent = []
    for _ in range(BATCHES):
        before = calls.counts()
        with predictor.inference(cuda):
            predictor(rows, B)
        spent.append(calls.counts() - before)
    compiled = predictor._compiled
    found = {
        "reason": compiled.reason,
        "frozen": compiled._frozen is not None,
        "launches": [calls.launches(one) for one in spent],
        "graphs": [one["cudaGraphLaunch"] for one in spent],
        "waits": [calls.waits(one) for one in spent],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
