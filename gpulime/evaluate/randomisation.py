"""Model parameter randomisation: maps must change if the model loses its weights.

Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018. A map that stays the same does not depend on the weights, so it
cannot explain them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gpulime.errors import GpulimeError, check, line_of, unknown
from gpulime.evaluate.entropy import entropies
from gpulime.evaluate.layers import can_reset, reset, staged
from gpulime.evaluate.method_maps import check_images, check_method, explained_labels, faults, logits, maps_of
from gpulime.evaluate.methods.method import Method
from gpulime.evaluate.similarity import similarities, undefined

ORDERS = ("cascading", "independent")


@dataclass(frozen=True, eq=False)
class Randomisation:
    """Similarity of the maps of randomised models to those of the trained one; m stages.

    Attributes
    ----------
    stages : tuple of str, m names
    similarities : dict of name -> (m, n, l) float64: "spearman_abs", "spearman", "ssim" and "hog"; NaN with a reason
    ceiling : dict of name -> (n, l) float64, similarity of the method's maps to those of another seed, with the trained model;
        empty if no other seed was given. A similarity is low only in comparison to its ceiling
    spreads : (m + 1,) float64, of the outputs, first those of the trained model: standard deviation over images, root mean
        square over classes. Near 0 a model no longer depends on its input, and maps show rounding errors
    entropies : (m + 1, n, l) float64, of the maps, first those of the trained model; in nats
    labels : (m + 1, n, l) int64, the explained classes
    kept : tuple of str, layers whose weights no stage changes
    reasons : dict of (stage, image, label) -> str, why a similarity is NaN; the keys are places in ``similarities``
    """

    stages: tuple[str, ...]
    similarities: dict[str, Tensor]
    ceiling: dict[str, Tensor]
    spreads: Tensor
    entropies: Tensor
    labels: Tensor
    kept: tuple[str, ...]
    reasons: dict[tuple[int, ...], str]

    @property
    def entropy_rise(self) -> Tensor:
        """Relative rise of the map's entropy in the last stage, (n, l): the score of the efficient test (eMPRT); high is good.

        It needs a last stage in which all layers are random, so cascading stages.
        """
        first, last = self.entropies[0], self.entropies[-1]
        return torch.where(first > 0, (last - first) / first, torch.nan)

    def __str__(self) -> str:
        lines = [f"{'':24}{'spread':>10}" + "".join(f"{name:>14}" for name in self.similarities)]
        names = ["trained, another seed" if self.ceiling else "trained", *self.stages]
        rows = [list(self.ceiling.values()), *zip(*self.similarities.values(), strict=True)]
        for name, spread, row in zip(names, self.spreads.tolist(), rows, strict=True):
            lines.append(f"{name:24}{spread:10.3g}" + "".join(f"{float(one.nanmean()):14.2f}" for one in row))
        counts = {why: list(self.reasons.values()).count(why) for why in self.reasons.values()}
        return "\n".join([*lines, *(f"NaN for {count} maps: {why}" for why, count in counts.items())])


def randomisation(
    model: nn.Module,
    images: Tensor,
    method: Method,
    labels: Any = None,
    order: str = "cascading",
    stages: Mapping[str, str | Sequence[str]] | None = None,
    batch_norm: bool = True,
    rechoose: bool = False,
    another: Method | None = None,
    least_spread: float = 1e-6,
    seed: int = 0,
) -> Randomisation:
    """Compare maps of a trained model with those of copies of it whose layers were re-initialised.

    Parameters
    ----------
    model : nn.Module
        It is never changed.
    images : (n, c, h, w) float
        As the model takes them.
    method : callable
        (model, images, labels (n, l)) -> maps (n, l, h, w); `as_method` makes one of an explainer. It gets the same random
        numbers for each model.
    labels : as for `gpulime.Explainer.explain`, optional
        Classes to explain; by default the class that the trained model ranks first.
    order : str
        "cascading" re-initialises stage after stage, from the logits down. "independent" re-initialises each stage alone.
    stages : mapping of names to module names, optional
        Stages in their order, such as ``{"logits": "fc", "top": ["layer4", "layer3"]}``. The name of a module covers all
        inside it. By default each layer is a stage.
    batch_norm : bool
        False keeps the weights and statistics of BatchNorms. True resets both. The reset statistics do not fit the outputs of
        the layer below, so the spread of the logits may collapse.
    rechoose : bool
        False explains the same classes throughout, as Quantus does. True explains the classes that each randomised model ranks
        first, as the authors' code does.
    another : callable, optional
        The method with another seed, for the ceiling of each similarity.
    least_spread : float
        Below this share of the trained model's spread, similarities are NaN, and a cascade ends.
    seed : int
        Seed of the new weights. A layer gets the same ones in each stage and order.

    Raises
    ------
    GpulimeError
        If an argument is invalid, or no layer can be re-initialised.

    Warns
    -----
    UserWarning
        If layers keep their weights since they have no ``reset_parameters``.
    """
    check(isinstance(model, nn.Module), f"model must be an nn.Module, whose layers get new weights; got {type(model).__name__}")
    if order not in ORDERS:
        raise unknown("order", order, ORDERS)
    check_images(images)
    check_method(method)
    if another is not None:
        check_method(another, "another")
    layers, kept = staged(model, images, batch_norm, stages)
    if stages is None:
        _warn(model, kept)
    explained = [explained_labels(labels, model, images)]
    maps = [maps_of(method, copied(model), images, explained[0], seed)]
    spreads, ended = [spread(model, images)], [False]
    randomised = copied(model)
    for names in layers.values():
        randomised = randomised if order == "cascading" else copied(model)
        reset(randomised, names, seed)
        spreads.append(spread(randomised, images))
        ended.append(not spreads[-1] >= least_spread * spreads[0] or (order == "cascading" and ended[-1]))
        top = logits(randomised, images).topk(explained[0].shape[1]).indices
        explained.append(top if rechoose else explained[0])
        maps.append(maps[0] * torch.nan if ended[-1] else maps_of(method, randomised, images, explained[-1], seed))
    compared = [similarities(maps[0], one) for one in maps[1:]]
    ceiling = {} if another is None else similarities(maps[0], maps_of(another, copied(model), images, explained[0], seed))
    found = {name: torch.stack([one[name] for one in compared]) for name in compared[0]}
    collapse = f"the spread of the logits fell below {least_spread:g} of the trained model's, {spreads[0]:.3g}"
    return Randomisation(
        stages=tuple(layers),
        similarities=found,
        ceiling=ceiling,
        spreads=torch.tensor(spreads, dtype=torch.float64),
        entropies=torch.stack([entropies(one) for one in maps]),
        labels=torch.stack(explained),
        kept=tuple(kept),
        reasons=undefined(found) | dict(_reasons(maps, ended, collapse)),
    )


def spread(model: nn.Module, images: Tensor) -> float:
    """Standard deviation of a model's outputs over images, root mean square over classes; a bias of a class does not count.

    A single image is compared with its mean colour.
    """
    blank = images.mean((2, 3), keepdim=True).expand_as(images)
    outputs = logits(model, images if len(images) > 1 else torch.cat([images, blank]))
    return float(outputs.double().var(0).mean().sqrt())


def copied(model: nn.Module) -> nn.Module:
    """A deep copy of a model in eval mode.

    Raises
    ------
    GpulimeError
        If it cannot be copied.
    """
    try:
        return deepcopy(model).eval()
    except Exception as error:
        raise GpulimeError(f"the model cannot be copied, so its layers cannot get new weights: {line_of(error)}") from error


def _warn(model: nn.Module, kept: Sequence[str]) -> None:
    parts = dict(model.named_modules())
    stuck = [f"{name or 'the model itself'} ({type(parts[name]).__name__})" for name in kept if not can_reset(parts[name])]
    if stuck:
        some = ", ".join(stuck[:5]) + ", ..." * (len(stuck) > 5)
        warnings.warn(f"{len(stuck)} modules have weights but no reset_parameters(), and keep them: {some}", stacklevel=3)


def _reasons(maps: Sequence[Tensor], ended: Sequence[bool], collapse: str) -> Iterator[tuple[tuple[int, ...], str]]:
    """Why a similarity is NaN, by stage, image and label."""
    n, l = maps[0].shape[:2]
    for stage, one in enumerate(maps[1:]):
        if ended[stage + 1]:
            yield from (((stage, i, j), collapse) for i in range(n) for j in range(l))
        else:
            found = {**faults(one, "the randomised model's map"), **faults(maps[0], "the trained model's map")}
            yield from (((stage, *place), why) for place, why in found.items())
