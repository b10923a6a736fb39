"""Masks: the parts that each sample of an input shows, as a function of (seed, key, row, k).

Masks are a pure function without state: an input gets the same masks alone, in any batch and order, on any device and after a
resume. Row 0 of every input shows everything.

References
----------
Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox4x32-10).
Ribeiro, Singh and Guestrin, "Why should I trust you?", KDD 2016 (LIME).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from numbers import Integral
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gpulime.engine.designs import DESIGNS, Design
from gpulime.errors import check, unknown
from gpulime.ops.bernoulli import bernoulli


def key(image_id: str | bytes | int) -> int:
    """Hash an image id to the key that seeds its masks; the same on every machine and in every process.

    Parameters
    ----------
    image_id : str, bytes or int
        Name of the image. An int is hashed by its decimal digits.

    Returns
    -------
    int
        In [-2**63, 2**63): an entry of the int64 tensor for ``Explainer.explain(keys=)``.
    """
    data = image_id if isinstance(image_id, bytes) else str(image_id).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)


class Sampler(Protocol):
    """Draws masks; a `gpulime.Explainer` has one."""

    name: str

    def __call__(self, keys: Tensor, rows: Tensor, counts: Tensor, k: int) -> Tensor:
        """Draw the masks of given rows.

        Parameters
        ----------
        keys, rows, counts : int64 tensors that broadcast to (...)
            Key of the input, number of the sample (0 shows everything) and number of parts.
        k : int
            Columns of the masks, at least the largest count; values beyond an input's count have no meaning.

        Returns
        -------
        (..., k) bool tensor, True if a part is shown
        """
        ...


class Bernoulli:
    """Shows every part with probability 1/2, independently: LIME's distribution (`gpulime.ops.bernoulli`)."""

    name = "bernoulli"

    def __init__(self, seed: int, n_samples: int) -> None:
        self.seed = seed

    def __call__(self, keys: Tensor, rows: Tensor, counts: Tensor, k: int) -> Tensor:
        del counts  # a longer row begins with the shorter one's bits
        return bernoulli(keys, rows, k, self.seed)


class Lime:
    """Draws the same masks, bit for bit, as lime from ``numpy.random.RandomState(seed)``; the state restarts for each image.

    They equal those of ``LimeImageExplainer(random_state=seed).explain_instance(..., random_seed=0)``; with
    ``random_seed=None`` lime draws one more number, for the segmenter, before its masks. Images of equal k share their masks,
    regardless of their keys. The masks of the last 8 k are cached: s * k bytes each.
    """

    name = "lime"

    def __init__(self, seed: int, n_samples: int) -> None:
        check(0 <= seed < 2**32, f"sampler='lime' needs a seed in [0, 2**32), as numpy's RandomState does; got {seed}")
        self.seed, self.n_samples = seed, n_samples

    def __call__(self, keys: Tensor, rows: Tensor, counts: Tensor, k: int) -> Tensor:
        rows, counts, _ = torch.broadcast_tensors(rows.cpu(), counts.cpu(), keys.cpu())
        masks = torch.zeros(*rows.shape, k, dtype=torch.bool)
        for count in counts.unique().tolist():
            of_count = counts == count
            masks[..., :count][of_count] = _lime_table(self.seed, self.n_samples, count)[rows[of_count]]
        return masks.to(keys.device)


@lru_cache(maxsize=8)
def _lime_table(seed: int, s: int, k: int) -> Tensor:
    """Draw all masks of an image with k segments, (s, k) bool."""
    shown = torch.from_numpy(np.random.RandomState(seed).randint(0, 2, s * k).astype(bool)).view(s, k)
    shown[0] = True
    return shown


SAMPLERS: dict[str, Callable[[int, int], Sampler | Design]] = {"bernoulli": Bernoulli, "lime": Lime, **DESIGNS}


def resolve(name: str, seed: int, n_samples: int) -> Sampler | Design:
    """Make the sampler or the design of a given name.

    Raises
    ------
    GpulimeError
        If the name is unknown, or the seed is out of the sampler's range.
    """
    if not isinstance(name, str) or name not in SAMPLERS:
        raise unknown("sampler", name, SAMPLERS)
    check(isinstance(seed, Integral), f"seed must be a whole number; got {seed!r}")
    seed = int(seed)
    check(-(2**63) <= seed < 2**64, f"seed must fit 64 bits; got {seed}")
    return SAMPLERS[name](seed, n_samples)
