"""Explanations: the tensors that a batch of any kind of inputs has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import torch
from torch import Tensor

from gpulime import device as devices
from gpulime.classes import Names, name_of
from gpulime.errors import GpulimeError, check
from gpulime.explanations import saved

if TYPE_CHECKING:
    import pandas

INTEGERS = (torch.bool, torch.uint8, torch.int32, torch.int64)


@dataclass(frozen=True, eq=False, kw_only=True)
class Explanations:
    """The explanations of n inputs; every tensor is on the device that did the work.

    Images have more (`gpulime.explanations.images.ExplainedImages`): segments, pictures, heat maps, lime's methods for each.

    Attributes
    ----------
    coefficients : (n, l, k) float64, how much each part adds to each label; 0 beyond an input's count
    standard_errors : (n, l, k) float64, of the coefficients, from the sampling of masks: the coefficients of ever more samples
        are within 1.96 of these with a probability of about 95 %. 0 if an input's masks are all that exist; NaN if not known
    labels : (n, l) int64, classes; an input with fewer labels than another repeats its first one
    predictions : (n, l) float32, the model's (activated) output for sample 0, the input as it is
    predicted : (n,) int64, the class with the highest output for sample 0, the input as it is, also if it is not explained;
        -1 if not known, or if the model has one output
    predicted_probs : (n,) float32, that output; NaN if not known
    local_predictions : (n, l) float64, the linear model's
    intercepts : (n, l) float64
    scores : (n, l) float64, weighted R2 of the linear model on the samples it was fitted to, as lime's; NaN if the output is
        constant or not finite
    scores_loo : (n, l) float64, weighted leave-one-out R2: each sample is predicted by the model fitted to all others. 1 is
        exact, 0 no better than the mean, below 0 worse. ``1 - sum(w (y - y_left_out)**2) / sum(w (y - mean)**2)``, with the
        weighted mean of all samples. NaN if ``scores`` is, and if a sample fixes a coefficient alone, as with a kernel so
        narrow that sample 0 has all the weight. Equal to ``scores`` if the samples are all masks that exist
    spreads : (n, l) float64, weighted standard deviation of the output over samples 1 to s - 1; NaN if none has any weight
    counts : (n,) int64, parts of each input
    samples : (n,) int64, masks that the fit used, with the one that shows everything; 0 if not known
    exhaustive : (n,) bool, True if these are all ``2**counts`` masks that exist, so that coefficients have no error; False if
        not known
    non_finite : (n,) int64, samples whose output was NaN, infinite, beyond 1e30 or, with ``link="logit"``, no probabilities;
        then coefficients are NaN
    class_names : sequence of str or mapping of int to str, or None if they are not known
    """

    coefficients: Tensor
    standard_errors: Tensor
    labels: Tensor
    predictions: Tensor
    predicted: Tensor
    predicted_probs: Tensor
    local_predictions: Tensor
    intercepts: Tensor
    scores: Tensor
    scores_loo: Tensor
    spreads: Tensor
    counts: Tensor
    samples: Tensor
    exhaustive: Tensor
    non_finite: Tensor
    class_names: Names | None = None

    PADDED: ClassVar[dict[str, float]] = {
        "coefficients": 0.0,
        "standard_errors": 0.0,
    }  # tensors (n, ..., k), and their value beyond an input's count
    # Tensors of whole numbers or bools; the rest are floats.
    WHOLE: ClassVar[tuple[str, ...]] = ("labels", "predicted", "counts", "samples", "exhaustive", "non_finite")

    def __len__(self) -> int:
        return self.labels.shape[0]

    def __repr__(self) -> str:
        n, l, k = self.coefficients.shape
        return f"{type(self).__name__}({n} inputs, {l} labels, up to {k} parts, on {self.labels.device})"

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        return self._with({name: tensor.to(device) for name, tensor in self._tensors().items()})

    def cpu(self) -> Self:
        """The same on the CPU."""
        here = self.fetching()()
        return here._with({name: tensor.clone() for name, tensor in here._tensors().items() if tensor.is_pinned()})

    def fetching(self) -> Callable[[], Self]:
        """Begin to copy to the CPU; the returned function waits for the copy alone and returns it.

        Tensors of a GPU arrive in pinned memory, which is scarce: use them soon, or keep those of `cpu`.
        """
        tensors = self._tensors()
        arrived = devices.fetching(list(tensors.values()))
        return lambda: self._with(dict(zip(tensors, arrived(), strict=True)))

    def part(self, where: slice) -> Self:
        """Explanations of some of the inputs."""
        parts: dict[str, Any] = {**self._tensors(), **self._lists()}
        return self._with({name: values[where] for name, values in parts.items()})

    def to_frame(self) -> pandas.DataFrame:
        """A table with a row for each part of each label of each input; needs pandas.

        Returns
        -------
        pandas.DataFrame
            ``input`` (0 ... n - 1), ``label``, ``class_name`` (only if ``class_names`` are known), ``part`` (for images the
            segment's id), ``name`` (only if parts have names, as words and columns do), ``coefficient``, ``standard_error``,
            of the input and label ``prediction``, ``score`` and ``score_loo``, and of the input ``samples`` and
            ``exhaustive``. In the order of the tensors, without what they repeat or pad.

        Raises
        ------
        GpulimeError
            If pandas is missing.
        """
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise GpulimeError("to_frame needs pandas: pip install pandas") from error
        l, k = self.coefficients.shape[1:]
        labels, counts, parts = (tensor.cpu() for tensor in (self.labels, self.counts, self._parts()))
        again = torch.stack([(labels[:, :j] == labels[:, j : j + 1]).any(1) for j in range(l)], 1)
        i, j, part = (~again[..., None] & (torch.arange(k) < counts[:, None, None])).nonzero(as_tuple=True)
        columns = {"input": i, "label": labels[i, j], "part": parts[i, part]}
        columns |= {name: getattr(self, f"{name}s").cpu()[i, j, part] for name in ("coefficient", "standard_error")}
        of_labels = {"prediction": self.predictions, "score": self.scores, "score_loo": self.scores_loo}
        columns |= {name: tensor.cpu()[i, j] for name, tensor in of_labels.items()}
        columns |= {name: getattr(self, name).cpu()[i] for name in ("samples", "exhaustive")}
        frame = pandas.DataFrame({name: column.numpy() for name, column in columns.items()})
        if (named := self._names()) is not None:
            each = zip(i.tolist(), part.tolist(), strict=True)
            frame.insert(3, "name", [named[number][which] for number, which in each])
        if self.class_names is not None:
            names = {label: name_of(label, self.class_names) for label in labels.unique().tolist()}
            frame.insert(2, "class_name", frame["label"].map(names))
        return frame

    def save(self, path: str | Path) -> None:
        """Write to a NumPy .npz file, without pickle; `load` or `numpy.load` reads it.

        Raises
        ------
        GpulimeError
            Unless these are explanations of images, texts or rows.
        """
        saved.save(self, path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what ``save`` wrote; ``gpulime.Explanations.load`` reads explanations of every kind.

        Raises
        ------
        GpulimeError
            If the file holds something else, or was written by a newer version.
        """
        return cast(Self, saved.load(cls, path))

    @classmethod
    def cat(cls, parts: list[Self]) -> Self:
        """Concatenate batches; parts are padded, as within a batch.

        Raises
        ------
        GpulimeError
            If there is no batch, or they have different numbers of labels.
        """
        check(len(parts) > 0, "there are no explanations to put together")
        if len(parts) == 1:
            return parts[0]
        if type(parts[0]) is not cls:
            return type(parts[0]).cat(parts)
        labels = {part.labels.shape[1] for part in parts}
        check(len(labels) == 1, f"parts must have the same number of labels; got {sorted(labels)}")
        first, k = parts[0], max(part.coefficients.shape[2] for part in parts)
        widened = [{name: _widen(getattr(part, name), k, value) for name, value in first.PADDED.items()} for part in parts]
        together = [part._tensors() | wide for part, wide in zip(parts, widened, strict=True)]
        lists = {name: [one for part in parts for one in getattr(part, name)] for name in first._lists()}
        return first._with({name: torch.cat([part[name] for part in together]) for name in first._tensors()} | lists)

    def _with(self, changes: dict[str, Any]) -> Self:
        return replace(self, **changes)

    def _parts(self) -> Tensor:
        """The id of each part, (n, k)."""
        n, _, k = self.coefficients.shape
        return torch.arange(k).expand(n, k)

    def _names(self) -> list[list[str]] | None:
        """The names of each input's parts, such as the words of a text; None if parts have no names."""
        return None

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the tensors that are not (n, l)."""
        n, l, k = self.coefficients.shape
        of_inputs = ("counts", "exhaustive", "non_finite", "predicted", "predicted_probs", "samples")
        return {"coefficients": (n, l, k), "standard_errors": (n, l, k), **dict.fromkeys(of_inputs, (n,))}

    def _sound(self) -> bool:
        """Tell if shapes, types and values belong together, as they do unless a file was changed."""
        n, l, k = self.coefficients.shape
        shapes, tensors = self._shapes(), self._tensors()
        shaped = all(tensor.shape == shapes.get(name, (n, l)) for name, tensor in tensors.items())
        typed = all(one.dtype in INTEGERS if name in self.WHOLE else one.is_floating_point() for name, one in tensors.items())
        if not (shaped and typed) or min(n, l, k) < 1:
            return False
        listed = all(len(values) == n for values in self._lists().values())
        return bool(listed and (self.counts <= k).all() and (self.counts >= 0).all() and (self.labels >= 0).all())

    @classmethod
    def _of_json(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The fields as they were before they became JSON, which has no tuples."""
        return values

    def _tensors(self) -> dict[str, Tensor]:
        """The fields that are tensors (n, ...)."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def _lists(self) -> dict[str, list[Any]]:
        """The fields that are lists of n, such as the words of each text."""
        return {name: value for name, value in vars(self).items() if isinstance(value, list) and name != "class_names"}


def _widen(tensor: Tensor, k: int, value: float) -> Tensor:
    return torch.nn.functional.pad(tensor, (0, k - tensor.shape[-1]), value=value)
