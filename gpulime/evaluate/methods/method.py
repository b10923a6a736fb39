"""Method: explains labels of images by heat maps; the base of methods that explain one label at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, is_dataclass, replace
from importlib import import_module
from itertools import chain
from typing import Any, ClassVar, Protocol, cast

import torch
from torch import Tensor, nn

from gpulime import device as devices
from gpulime import labels as classes
from gpulime.engine import outputs
from gpulime.engine.eval_mode import evaluating
from gpulime.engine.home import home
from gpulime.engine.model import Activation
from gpulime.errors import GpulimeError, check, line_of, unknown

Attributor = Callable[[Tensor, Tensor], Tensor]  # images (b, c, h, w) and a label each (b,) -> (b, c | 1, h, w)

OWN_ACTIVATION = "own"  # the activation of the explainer that a method stands beside

CHANNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda found: found.sum(1),
    "abs": lambda found: found.abs().sum(1),
    "positive": lambda found: found.clamp(min=0).sum(1),
}


class NotAvailableError(GpulimeError):
    """A method cannot explain this model; the message is the reason."""


class Method(Protocol):
    """Explains labels of images; an entry of `METHODS`, or any callable like it."""

    def __call__(self, model: Any, images: Tensor, labels: Tensor) -> Tensor:
        """Explain.

        Parameters
        ----------
        model : nn.Module
            (b, c, h, w) -> (b, classes), in general scores before a softmax.
        images : (n, c, h, w) float, as the model takes them: normalised
        labels : (n, l) int64

        Returns
        -------
        (n, l, h, w) float32, larger for pixels that are more important for the label

        Raises
        ------
        NotAvailableError
            If the method cannot explain this model.
        """
        ...


class Classifier(nn.Module):
    """A model whose output is always a tensor (b, classes)."""

    def __init__(self, model: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """(b, c, h, w) -> (b, classes)."""
        found: Tensor = outputs.found(self.model(images))
        return found.reshape(images.shape[0], -1)


@dataclass(frozen=True)
class Attribution:
    """Base of methods that explain one label of each image at a time.

    Parameters
    ----------
    channels : str
        Turns the attributions of a pixel's channels into one number: "sum"; "abs", the sum of absolute values; "positive", the
        sum of the positive ones.
    at_once : int
        Images that pass through the model together.
    """

    channels: str = "sum"
    at_once: int = 16

    packages: ClassVar[tuple[str, ...]] = ()  # modules of the extra ``compare``

    def attributor(self, classifier: Classifier, example: Tensor) -> Attributor:
        """Prepare a model (b, c, h, w) -> (b, classes); ``example`` (1, c, h, w) is one of its inputs."""
        raise NotImplementedError

    def __call__(self, model: Any, images: Tensor, labels: Tensor) -> Tensor:
        """Explain, as `Method` says."""
        if self.channels not in CHANNELS:
            raise unknown("channels", self.channels, CHANNELS)
        for package in self.packages:
            needed(package)
        with prepared(model, images, labels) as (classifier, inputs, wanted), reported(model):
            attribute = self.attributor(classifier, inputs[:1])
            maps = []
            for column in wanted.T:
                pairs = zip(inputs.split(self.at_once), column.split(self.at_once), strict=True)
                parts = [CHANNELS[self.channels](attribute(part, targets).detach()) for part, targets in pairs]
                maps.append(torch.cat(parts))
            return torch.stack(maps, 1).float()


@contextmanager
def prepared(model: Any, images: Any, labels: Any) -> Iterator[tuple[Classifier, Tensor, Tensor]]:
    """Check a method's arguments; the model is in eval mode meanwhile, with gradients and without autocast.

    Yields
    ------
    Classifier, images in the model's dtype and labels (n, l), on the model's device
    """
    fits = isinstance(images, Tensor) and images.ndim == 4 and images.numel() > 0 and images.is_floating_point()
    got = f"{tuple(images.shape)} {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
    check(fits, f"images must be (n, c, h, w), normalised for the model, none of them 0; got {got}")
    weights = list(chain(model.parameters(), model.buffers())) if isinstance(model, nn.Module) else []
    device, dtype = home(weights, None, images), next((one.dtype for one in weights if one.is_floating_point()), torch.float32)
    wanted = classes.of_batch(labels, len(images)).to(device)
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        if isinstance(model, nn.Module):
            stack.enter_context(evaluating(model))
        images = images.detach().to(device, dtype, copy=True)
        wanted = wanted.where(wanted >= 0, wanted[:, :1])  # -1 pads rows
        classifier = Classifier(model).eval()
        with torch.no_grad():
            columns = classifier(images[:1]).shape[1]
        fits = int(wanted.min()) >= 0 and int(wanted.max()) < columns
        check(fits, lambda: f"labels must be in [0, {columns}), the model's classes; got {wanted.min()} to {wanted.max()}")
        yield classifier, images, wanted


@contextmanager
def reported(model: Any) -> Iterator[None]:
    """Turn errors of a library into `NotAvailableError`; its warnings about hooks are ignored."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*(hooks|requires_grad|required_grads)")
            yield
    except GpulimeError:
        raise
    except Exception as error:
        if devices.out_of_memory(error):
            raise
        raise NotAvailableError(f"it fails for {type(model).__name__}: {line_of(error)}") from error


def check_outputs(outputs: Tensor) -> None:
    """Raise `NotAvailableError` unless the model's outputs are finite."""
    if not bool(outputs.isfinite().all()):
        raise NotAvailableError("the model's output is NaN or infinite")


def suited(method: Method, segments: Tensor, activation: Activation) -> Method:
    """The method with label maps (n, h, w) and an explainer's activation, if it has such settings and leaves them open."""
    if not is_dataclass(method) or isinstance(method, type):
        return method
    open_ones: dict[str, Any] = {}
    if getattr(method, "segments", segments) is None:
        open_ones["segments"] = segments
    if getattr(method, "activation", None) == OWN_ACTIVATION:
        open_ones["activation"] = activation
    return cast(Method, replace(method, **open_ones)) if open_ones else method


def chosen(activation: Activation) -> Activation:
    """The activation of a method that is called without an explainer."""
    return "softmax" if activation == OWN_ACTIVATION else activation


def needed(package: str) -> Any:
    """Import a module of the extra ``compare``.

    Raises
    ------
    NotAvailableError
        If it is not installed.
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        name = package.partition(".")[0]
        raise NotAvailableError(f'{name} is not installed: pip install "gpulime[compare]"') from error
