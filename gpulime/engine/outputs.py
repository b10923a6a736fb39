"""Find the (b, classes) tensor in the output of a user's model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from gpulime.errors import GpulimeError, check

# Hugging Face, Inception and GoogLeNet; CLIP and SigLIP; torchvision's segmentation; Lightning and plain dicts.
NAMES = ("logits", "logits_per_image", "out", "output", "outputs", "prediction", "predictions", "preds", "pred")
BOXES = ("boxes", "pred_boxes")  # torchvision and Ultralytics; DETR
NOT_TORCH = ("numpy", "tensorflow", "keras", "tf_keras", "jax", "jaxlib")
MOST_PARTS = 5  # named in a message

LIME_IMAGE = (
    "gpulime.Explainer calls PyTorch models; explain a function of NumPy arrays, such as a Keras model's predict, with "
    "gpulime.lime_image.LimeImageExplainer().explain_instance(image, model.predict)"
)


def found(output: Any) -> Any:
    """Find the part of ``output`` with a number per class: ``.logits``, a dict's entry, a tuple's only (b, classes) tensor.

    Returns ``output`` itself if there is no such part, or more than one.
    """
    if hasattr(output, "shape"):  # a tensor or an array
        return output
    for name in NAMES:
        if isinstance(part := _named(output, name), Tensor):
            return part
    if isinstance(output, tuple | list) and output:
        tables = [part for part in output if isinstance(part, Tensor) and part.ndim == 2]
        if len(tables) == 1 and tables[0] is output[0]:
            return output[0]
    return output


def read(output: Any, b: int, source: str = "model") -> Tensor:
    """Read the (b, classes) floating tensor in ``output``, detached; (b,) numbers become one column.

    Raises
    ------
    GpulimeError
        If there is none; the message names the output and shows how to return such a tensor.
    """
    values = found(output)
    if not isinstance(values, Tensor):
        wrong = f"the {source} must return a (b, classes) tensor; got {_kind(output)}"
        raise GpulimeError(f"{wrong}: {_remedy(output)}" if source == "model" else wrong)
    values = values.detach()
    if values.ndim < 2 and (b == 1 or values.shape == (b,)):  # a model may squeeze its output
        values = values.reshape(b, -1)
    right = f"the {source} must return (b, classes) or (b,) with b = {b}"
    fits = values.ndim == 2 and values.shape[0] == b and values.shape[1] > 0
    check(fits, lambda: f"{right}; got {tuple(values.shape)}{_hint(output, values, b)}")
    check(values.is_floating_point(), f"the {source} must return a floating tensor; got {values.dtype}")
    return values


def refuse_other_frameworks(model: Any) -> None:
    """Raise `GpulimeError` for a model of Keras, TensorFlow or scikit-learn, with the call to use instead."""
    packages = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    foreign = packages.intersection(NOT_TORCH) or (not callable(model) and hasattr(model, "predict"))
    check(not foreign or "torch" in packages, f"model is a {type(model).__module__}.{type(model).__name__}: {LIME_IMAGE}")


def _named(output: Any, name: str) -> Any:
    return output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)


def _finds_boxes(output: Any) -> bool:
    first = output[0] if isinstance(output, tuple | list) and output else output
    return any(_named(one, name) is not None for one in (output, first) for name in BOXES)


def _kind(value: Any) -> str:
    """Name of the type, with the shapes of its contents."""
    kind = type(value).__name__
    if isinstance(value, Mapping):
        return f"{kind} of {_listed(f'{key!r} {_shape(part)}' for key, part in value.items())}"
    if isinstance(value, tuple | list):
        return f"{kind} of {_listed(map(_shape, value))}"
    return f"{kind} {tuple(value.shape)}" if hasattr(value, "shape") else kind


def _listed(parts: Iterable[str]) -> str:
    parts = list(parts)
    return ", ".join([*parts[:MOST_PARTS], *(["..."] if len(parts) > MOST_PARTS else [])]) or "nothing"


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if hasattr(value, "shape") else type(value).__name__


def _remedy(output: Any) -> str:
    if type(output).__module__.partition(".")[0] in NOT_TORCH:
        return LIME_IMAGE
    if _finds_boxes(output):
        part = _OF_BOXES
    elif isinstance(output, Mapping):
        part = f"model(x)[key] with one of {list(output)[:MOST_PARTS]}"
    elif isinstance(output, tuple | list) and any(isinstance(one, Tensor) for one in output):
        part = "model(x)[i], with the i of the classes"
    else:
        part = "one"
    # A module rather than a function: its mode, device and dtype stay known, and lime_image passes arrays to functions.
    return f"wrap it in an nn.Module whose forward returns {part}"


_OF_BOXES = (
    "a number per image, such as the scores of class c added up: "
    "torch.stack([one['scores'][one['labels'] == c].sum() for one in model(x)])"
)


def _hint(output: Any, values: Tensor, b: int) -> str:
    """Suggest how to get (b, classes) from a known kind of output: boxes, or a map per class."""
    if _finds_boxes(output):
        return f": this model finds objects: wrap it in an nn.Module whose forward returns {_OF_BOXES}"
    if values.ndim == 4 and values.shape[0] == b:
        return ": of a map per class, return the mean: wrap the model in an nn.Module whose forward returns maps.mean((2, 3))"
    return ""
