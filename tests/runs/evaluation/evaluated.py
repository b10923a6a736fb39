"""A small model and a configuration for runs to evaluate."""

from __future__ import annotations

import torch
from torch import nn

from gpulime import config as configs


class Tiny(nn.Module):
    """A classifier of any image: a fixed random projection of its 4 x 4 average colours."""

    def __init__(self, seed=0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(48, 4, generator=torch.Generator().manual_seed(seed)))

    def forward(self, x):
        return nn.functional.adaptive_avg_pool2d(x, 4).flatten(1) @ self.weight


def config(photographs, out, **lime):
    lime = {"quality": "lime", "n_samples": 40, "segments": {"grid": {"rows": 3, "columns": 3}}, "top_labels": 2, **lime}
    return configs.from_dict(
        {
            "model": {"factory": "evaluated.Tiny"},
            "data": {"source": str(photographs), "crop": 32, "batch_size": 4},
            "lime": lime,
            "out": str(out),
        }
    )
