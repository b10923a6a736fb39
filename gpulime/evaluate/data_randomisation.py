"""Data randomisation: maps of a network that learned permuted labels must differ from those of one that learned the true ones.

Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gpulime import labels as classes
from gpulime.errors import check
from gpulime.evaluate.method_maps import check_images, explained_labels, faults, logits, maps_of
from gpulime.evaluate.methods.method import Method
from gpulime.evaluate.seeded import seeded
from gpulime.evaluate.similarity import similarities

ENOUGH = 0.95  # accuracy on its own training labels from which a network counts as trained

Train = Callable[[Tensor], nn.Module]


@dataclass(frozen=True, eq=False)
class Networks:
    """Networks of one architecture that were trained on the same images.

    Attributes
    ----------
    true, permuted, another : nn.Module
        Trained on the true labels, on permuted labels from the same start, and on the true labels from another start.
    accuracies : dict of name -> float, of each network on the labels that it was trained on, 0 to 1
    """

    true: nn.Module
    permuted: nn.Module
    another: nn.Module
    accuracies: dict[str, float]

    @property
    def are_trained(self) -> bool:
        """Tell if each network knows its labels: one that did not learn the permuted ones shows nothing."""
        return min(self.accuracies.values()) > ENOUGH


def train_networks(train: Train, images: Tensor, labels: Any, seed: int = 0) -> Networks:
    """Train the three networks of the test.

    Parameters
    ----------
    train : callable
        labels (n,) int64 -> a new model, trained on ``images`` with these labels until it knows them: permuted labels take more
        steps. It draws its start and its batches from PyTorch's global random numbers, which are seeded here.
    images : (n, c, h, w) float
        The training set, as the model takes it; only for the accuracies.
    labels : (n,) integers
        Its true labels.
    seed : int

    Raises
    ------
    GpulimeError
        If an argument is invalid, ``train`` returns no new module, or both starts are the same.

    Warns
    -----
    UserWarning
        If the accuracy of a network on its own labels is not above 0.95.
    """
    check_images(images)
    true = classes.of_batch(labels, len(images)).to(images.device)
    check(true.shape[1] == 1, f"labels must be (n,), one class for each image; got {tuple(true.shape)}")
    true = true[:, 0]
    with seeded(seed, images.device):
        permuted = true[torch.randperm(len(true)).to(true.device)]
    check(not torch.equal(permuted, true), "labels must differ between images; permuted, they are the same")
    models: dict[str, nn.Module] = {}
    for name, given, start in (("true", true, seed), ("permuted", permuted, seed), ("another", true, seed + 1)):
        with seeded(start, images.device):
            models[name] = train(given.clone())
        made = type(models[name]).__name__
        check(isinstance(models[name], nn.Module), f"train(labels) must return a trained nn.Module; got {made}")
    is_new = len({id(model) for model in models.values()}) == 3
    check(is_new, "train(labels) must return a new module in each call; it returned the same one again")
    check(
        any(not torch.equal(a, b) for a, b in zip(models["true"].parameters(), models["another"].parameters(), strict=True)),
        "train(labels) must draw its start from PyTorch's global random numbers; it returned the same weights for two seeds",
    )
    accuracies = {
        name: float((logits(model, images).argmax(1) == (permuted if name == "permuted" else true)).double().mean())
        for name, model in models.items()
    }
    networks = Networks(**models, accuracies=accuracies)
    if not networks.are_trained:
        got = ", ".join(f"{name} {accuracy:.3f}" for name, accuracy in accuracies.items())
        warnings.warn(f"networks must know the labels that they were trained on (above {ENOUGH}); got {got}", stacklevel=2)
    return networks


@dataclass(frozen=True, eq=False)
class DataRandomisation:
    """Similarity of maps to those of the network that learned the true labels.

    Attributes
    ----------
    permuted : dict of name -> (n, l) float64, for the network that learned permuted labels; low is good
    another : dict of name -> (n, l) float64, for the network that learned the true labels from another start: the ceiling
    labels : (n, l) int64, the explained classes, the same for all networks
    accuracies : dict of name -> float, as of `Networks`
    reasons : dict of (network, image, label) -> str, why a similarity is NaN
    """

    permuted: dict[str, Tensor]
    another: dict[str, Tensor]
    labels: Tensor
    accuracies: dict[str, float]
    reasons: dict[tuple[str, int, int], str]

    def __str__(self) -> str:
        rows = {"permuted labels": self.permuted, "true labels, another start": self.another}
        lines = [f"{'':28}" + "".join(f"{name:>14}" for name in self.permuted)]
        lines += [f"{name:28}" + "".join(f"{float(one.nanmean()):14.2f}" for one in row.values()) for name, row in rows.items()]
        known = ", ".join(f"{name} {accuracy:.3f}" for name, accuracy in self.accuracies.items())
        return "\n".join([*lines, f"accuracy on their own training labels: {known}"])


def data_randomisation(
    networks: Networks, images: Tensor, method: Method, labels: Any = None, seed: int = 0
) -> DataRandomisation:
    """Compare maps of the network with true labels to those of the networks with permuted labels and another start.

    Parameters
    ----------
    networks : Networks, from `train_networks`
    images : (n, c, h, w) float
        Test images, as the models take them.
    method : callable
        (model, images, labels (n, l)) -> maps (n, l, h, w); `as_method` makes one of an explainer.
    labels : as for `gpulime.Explainer.explain`, optional
        Classes to explain; by default the class that the network with true labels ranks first.
    seed : int
        Of the method's random numbers.

    Raises
    ------
    GpulimeError
        If an argument is invalid.
    """
    check_images(images)
    explained = explained_labels(labels, networks.true, images)
    maps = {name: maps_of(method, getattr(networks, name), images, explained, seed) for name in networks.accuracies}
    reasons = {
        (name, *place): why
        for name in ("permuted", "another")
        for whose in ("true", name)
        for place, why in faults(maps[whose], f"the map of the network {whose!r}").items()
    }
    compared = {name: similarities(maps["true"], maps[name]) for name in ("permuted", "another")}
    return DataRandomisation(**compared, labels=explained, accuracies=networks.accuracies, reasons=reasons)
