"""Normalisation of images for the model, and its inverse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpulime import arrays
from gpulime import device as devices
from gpulime.errors import GpulimeError, check, stage
from gpulime.images import pretrained


@dataclass(frozen=True)
class Normalisation:
    """Normalisation ``(image - mean) / std``.

    Attributes
    ----------
    mean, std : (1,) or (c,) float32
    normalized : bool, True if images are already normalised
    source : "given"; "model" if mean and std are the model's own; "none" if they are unknown and images stay unchanged
    """

    mean: Tensor
    std: Tensor
    normalized: bool
    source: str = "given"

    @classmethod
    def of(
        cls,
        mean: float | Sequence[float] | None,
        std: float | Sequence[float] | None,
        normalized: bool,
        own: pretrained.Both | None = None,
    ) -> Normalisation:
        """Make it from an Explainer's arguments, or from the model's ``own`` mean and std if neither is given.

        Raises
        ------
        GpulimeError
            If ``normalized`` lacks a mean or a std, or a std is not positive.
        """
        source = "given"
        if mean is None and std is None:
            source = "none" if own is None else "model"
            mean, std = own or (None, None)
        check(
            not normalized or (mean is not None and std is not None),
            "normalized=True needs mean and std, to undo the normalisation",
        )
        both = []
        for name, value in (("mean", 0.0 if mean is None else mean), ("std", 1.0 if std is None else std)):
            found = arrays.tensor(value)
            if found is None:
                raise GpulimeError(f"{name} must be a number or one per channel; got {value!r}")
            both.append(found.float().flatten())
        check(bool(both[0].isfinite().all()), f"mean must be finite; got {mean}")
        check(bool((both[1] > 0).all() and both[1].isfinite().all()), f"std must be positive; got {std}")
        return cls(both[0], both[1], normalized, source)

    def __str__(self) -> str:
        if self.source == "none":
            return "none"
        mean, std = (" ".join(f"{value:.4g}" for value in both.tolist()) for both in (self.mean, self.std))
        own = ", the model's own" if self.source == "model" else ""
        return f"mean {mean}, std {std}{own}{', done already' if self.normalized else ''}"

    @stage("image")
    def fits(self, images: Tensor) -> None:
        """Raise `GpulimeError` if mean or std does not fit the channels, or images given as normalised are uint8."""
        c = images.shape[1]
        for name, value in (("mean", self.mean), ("std", self.std)):
            check(value.numel() in (1, c), f"{name} must have one entry per channel, c = {c}; got {value.numel()}")
        check(
            not (self.normalized and images.dtype == torch.uint8),
            "normalized=True needs floating images; got torch.uint8, which cannot have been normalised",
        )

    @stage("image")
    def pictures(self, images: Tensor) -> Tensor:
        """Images in [0, 1], for segmentation and display."""
        if not self.normalized:
            return images
        mean, std = self._columns(images)
        return (images * std + mean).clamp(0, 1)

    @stage("image")
    def ready(self, images: Tensor) -> Tensor:
        """Images normalised for the model."""
        if self.normalized:
            return images
        mean, std = self._columns(images)
        return (images - mean) / std

    def _columns(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (devices.sent(value, images.device)[:, None, None] for value in (self.mean, self.std))
        return mean, std
