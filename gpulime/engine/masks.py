"""(seed, key, row, k) -> masks: which segments of an image one sample shows.

Masks are a pure function, never a state: the same image gets the same masks alone, in any batch and order, on any device
and after a resume. Row 0 of every image shows everything.

References
----------
Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox4x32-10).
Ribeiro, Singh and Guestrin, "Why should I trust you?", KDD 2016 (LIME).
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from numbers import Integral
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from gpulime.errors import check, unknown
from gpulime.ops.bernoulli import bernoulli


def key(image_id: str | bytes | int) -> int:
    """A key for an image from its name: the same on every machine and in every process.

    Parameters
    ----------
    image_id : str, bytes or int
        Whatever names the image. An int is taken by its decimal digits.

    Returns
    -------
    int
        In [-2**63, 2**63): what ``Explainer.explain(keys=)`` takes, as one entry of an int64 tensor.
    """
    data = image_id if isinstance(image_id, bytes) else str(image_id).encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little", signed=True)


class Sampler(Protocol):
    """Draws masks. One object serves a whole `gpulime.Explainer`."""

    name: str

    def __call__(self, keys: Tensor, rows: Tensor, counts: Tensor, k: int) -> Tensor:
        """Draw the masks of given rows.

        Parameters
        ----------
        keys, rows, counts : int64 tensors that broadcast to (...)
            The image's key, the number of the sample in it (0 shows everything) and its number of segments.
        k : int
            Columns wanted, at least the largest count; what stands in columns beyond a count has no meaning.

        Returns
        -------
        (..., k) bool tensor, True where a segment is shown
        """
        ...


class Bernoulli:
    """Every segment shown with probability 1/2, independently: LIME's own distribution (`gpulime.ops.bernoulli`)."""

    name = "bernoulli"

    def __init__(self, seed: int, n_samples: int) -> None:
        self.seed = seed

    def __call__(self, keys: Tensor, rows: Tensor, counts: Tensor, k: int) -> Tensor:
        del counts  # a longer row begins with the shorter one's bits
        return bernoulli(keys, rows, k, self.seed)


class Lime:
    """Bit for bit what lime draws from ``numpy.random.RandomState(seed)``; the state starts anew for each image.

    It equals ``LimeImageExplainer(random_state=seed).explain_instance(..., random_seed=0)``; with ``random_seed=None`` lime
    draws one number more, for the segmenter, before its masks. Images of equal k share their masks, whatever their keys.
    The masks of the last few k are kept: s * k bytes each.
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
    """All masks of an image with k segments, (s, k) bool."""
    shown = torch.from_numpy(np.random.RandomState(seed).randint(0, 2, s * k).astype(bool)).view(s, k)
    shown[0] = True
    return shown


SAMPLERS: dict[str, type[Bernoulli] | type[Lime]] = {"bernoulli": Bernoulli, "lime": Lime}


def resolve(name: str, seed: int, n_samples: int) -> Sampler:
    """The sampler of that name.

    Raises
    ------
    GpulimeError
        For another name, or a seed that the sampler cannot take.
    """
    if not isinstance(name, str) or name not in SAMPLERS:
        raise unknown("sampler", name, SAMPLERS)
    check(isinstance(seed, Integral), f"seed must be a whole number; got {seed!r}")
    seed = int(seed)
    check(-(2**63) <= seed < 2**64, f"seed must fit 64 bits; got {seed}")
    return SAMPLERS[name](seed, n_samples)
