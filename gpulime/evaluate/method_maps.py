"""Maps of a method: how it is called, checked, and made of an explainer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gpulime import device as devices
from gpulime import labels as classes
from gpulime.engine.batch_size import BatchSize
from gpulime.engine.eval_mode import evaluating
from gpulime.engine.model import Activation, Predictor
from gpulime.errors import GpulimeError, check, line_of
from gpulime.evaluate.methods.method import Method, suited
from gpulime.evaluate.seeded import seeded

if TYPE_CHECKING:
    from gpulime.explainer import Explainer


def as_method(make: Callable[[nn.Module], Explainer], segments: Any = None, keys: Any = None) -> Method:
    """Make a method of an explainer, so that explanations of several models differ by the models alone.

    Parameters
    ----------
    make : callable
        model -> `gpulime.Explainer`, with the same settings and seed in each call. It gets images as the model takes them: use
        ``normalized=True``, or ``mean=0, std=1`` for a model of images in [0, 1].
    segments, keys
        As for `gpulime.Explainer.explain`. Without ``segments`` they are the segmenter's, which sees the images alone.

    Examples
    --------
    >>> lime = as_method(lambda model: gpulime.Explainer(model, n_samples=64, mean=0, std=1))
    """

    def lime(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return make(model).explain(images, labels, segments, keys).heatmaps().float()

    return lime


def maps_of(method: Method, model: nn.Module, images: Tensor, labels: Tensor, seed: int = 0) -> Tensor:
    """Maps (n, l, h, w) float32 of a method, which draws the same random numbers in each call with one seed.

    Raises
    ------
    GpulimeError
        If the method cannot be called, or returns no such maps; (n, h, w) is taken for one label.
    """
    check_method(method)
    with seeded(seed, images.device), evaluating(model):
        maps = method(model, images, labels)
    name = getattr(method, "__name__", type(method).__name__)
    check(isinstance(maps, Tensor), f"method {name!r} must return a tensor; got {type(maps).__name__}")
    (n, l), (h, w) = labels.shape, images.shape[2:]
    maps = maps.detach()[:, None] if l == 1 and maps.shape == (n, h, w) else maps.detach()
    expected = f"maps (n, l, h, w) = {(n, l, h, w)}"
    check(maps.shape == (n, l, h, w), f"method {name!r} must return {expected}; got {tuple(maps.shape)}")
    return maps.float()


def check_method(method: Any, name: str = "method") -> None:
    """Raise `GpulimeError` unless a method can be called."""
    right = f"{name} must be a callable (model, images, labels (n, l)) -> maps (n, l, h, w)"
    how = "gpulime.evaluate.methods.METHODS has some by name, and gpulime.evaluate.as_method makes one of an explainer"
    got = repr(method) if isinstance(method, str) else type(method).__name__
    check(callable(method), f"{right}; got {got}; {how}")


def maps_of_each(
    method: Method, model: nn.Module, images: Tensor, labels: Tensor, segments: Tensor, activation: Activation
) -> tuple[Tensor, dict[int, str]]:
    """Maps (n, l, h, w) of images one by one, NaN for those that the method cannot explain; and the reasons of these."""
    maps = images.new_full((*labels.shape, *images.shape[2:]), torch.nan, dtype=torch.float32)
    failed: dict[int, str] = {}
    for i in range(len(images)):
        one = slice(i, i + 1)
        try:
            maps[one] = maps_of(suited(method, segments[one], activation), model, images[one], labels[one])
        except Exception as error:  # a user's method may raise anything
            if devices.lost(error, images.device):
                raise
            failed[i] = str(error) if isinstance(error, GpulimeError) else line_of(error)
    return maps, failed


def logits(model: nn.Module, images: Tensor) -> Tensor:
    """Outputs (n, classes) of a module in eval mode, without gradients.

    Outputs of all classes for images without parts: flights of the queue keep those of the explained labels only. So this is
    the queue's caller of the model, which halves a batch if memory runs out, and its batch size.
    """
    predictor, kind = Predictor(model, None, "float32", images.device), (tuple(images.shape[1:]), images.dtype, images.device)
    with predictor.inference(images.device):
        return torch.cat([predictor(rows.clone()) for rows in images.split(BatchSize("auto").get(kind, predictor.most))])


def check_images(images: Any, name: str = "images") -> None:
    """Raise `GpulimeError` unless images are a floating tensor (n, c, h, w), as the model takes them."""
    fits = isinstance(images, Tensor) and images.ndim == 4 and images.numel() > 0 and images.is_floating_point()
    got = f"{tuple(images.shape)} {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
    check(fits, f"{name} must be a floating tensor (n, c, h, w), as the model takes it; got {got}")


def explained_labels(given: Any, model: nn.Module, images: Tensor) -> Tensor:
    """Labels (n, l) int64 as `gpulime.Explainer.explain` takes them; without any, the class with the highest output.

    Raises
    ------
    GpulimeError
        If labels are invalid, or beyond the model's classes.
    """
    found = logits(model, images)
    if given is None:
        return found.argmax(1, keepdim=True)
    labels = classes.of_batch(given, len(images)).to(images.device)
    most, last = int(labels.max()), found.shape[1] - 1
    check(most <= last, f"labels must be at most {last}, the model's last class; got {most}")
    return torch.where(labels < 0, labels[:, :1], labels)


def faults(maps: Tensor, name: str) -> dict[tuple[int, int], str]:
    """Why maps (n, l, h, w) cannot be compared, by image and label; "NAME is constant" or "NAME is not finite"."""
    flat = maps.flatten(2)
    infinite, constant = ~flat.isfinite().all(2), (flat == flat[..., :1]).all(2)
    found = dict.fromkeys(_places(constant), f"{name} is constant")
    return found | dict.fromkeys(_places(infinite), f"{name} is not finite")


def _places(where: Tensor) -> list[tuple[int, int]]:
    return [(i, j) for i, j in where.nonzero().tolist()]
