"""TCAV: the share of images whose output rises in a concept's direction, through captum, with a test against chance.

Kim et al., "Interpretability Beyond Feature Attribution: Quantitative Testing with Concept Activation Vectors", ICML 2018. The
direction is the normal of a linear classifier between a layer's activations for images of the concept and random images.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from gpulime.engine.eval_mode import evaluating
from gpulime.errors import GpulimeError, check, whole
from gpulime.evaluate.method_maps import check_images, logits
from gpulime.evaluate.seeded import seeded

LEAST_SETS = 3  # of random images: their pairs are the other sample of the test
LEAST_IMAGES = 4  # of a set, of which some are left out
LEFT_OUT = 0.33  # share of images that a classifier is tested on


@dataclass(frozen=True, eq=False)
class Tcav:
    """Scores of concepts for a class, r sets of random images.

    Attributes
    ----------
    scores : dict of concept -> (r,) float64, one for each random set, 0 to 1: the share of images whose output rises
    accuracies : dict of concept -> (r,) float64, of the linear classifiers on images that they were not fitted to; near 1/2 the
        layer does not know the concept, and its scores mean nothing
    chance : (r (r - 1) / 2,) float64, scores of random sets against each other
    p_values : dict of concept -> float, of Welch's t-test of its scores against chance, two-sided; not corrected for the number
        of concepts
    """

    scores: dict[str, Tensor]
    accuracies: dict[str, Tensor]
    chance: Tensor
    p_values: dict[str, float]

    def __str__(self) -> str:
        chance = f"chance {float(self.chance.mean()):.2f} +- {float(self.chance.std()):.2f}"
        lines = [
            f"{name}: {float(scores.mean()):.2f} +- {float(scores.std()):.2f}, p = {self.p_values[name]:.2g}, "
            f"accuracy {float(self.accuracies[name].mean()):.2f}"
            for name, scores in self.scores.items()
        ]
        return "\n".join([*lines, chance])


def tcav(
    model: nn.Module,
    layer: str,
    images: Tensor,
    label: int,
    concepts: Mapping[str, Tensor],
    randoms: Sequence[Tensor],
    seed: int = 0,
) -> Tcav:
    """Test if a class of a model depends on concepts.

    Parameters
    ----------
    model : nn.Module
    layer : str
        Name of the module whose outputs are the activations, as in ``model.named_modules()``.
    images : (n, c, h, w) float
        Of the class, as the model takes them.
    label : int
        The class, a column of the model's output.
    concepts : mapping of name to (m, c, h, w) float
        Images that show a concept.
    randoms : sequence of r >= 3 tensors (m, c, h, w) float
        Sets of random images, about as many as of a concept.
    seed : int
        Of the classifiers.

    Raises
    ------
    GpulimeError
        If an argument is invalid, or captum is missing.
    """
    try:
        from captum.concept import TCAV
    except ModuleNotFoundError as error:
        raise GpulimeError("tcav needs captum: pip install 'gpulime[compare]'") from error
    label, names = whole("label", label, 0), [name for name, _ in model.named_modules()]
    known = ", ".join(names[1:21])
    check(layer in names[1:], f"layer must be a module of the model: {known}; got {layer!r}")
    check(len(concepts) > 0, "concepts must be a mapping of name to images; got none")
    few = f"randoms must be at least {LEAST_SETS} sets of random images, whose scores against each other are chance"
    check(len(randoms) >= LEAST_SETS, f"{few}; got {len(randoms)}")
    given = {"images": images, **{f"concept {name!r}": one for name, one in concepts.items()}}
    for name, one in [*given.items(), *((f"randoms[{i}]", one) for i, one in enumerate(randoms))]:
        check_images(one, name)
        check(name == "images" or len(one) >= LEAST_IMAGES, f"{name} must have at least {LEAST_IMAGES} images; got {len(one)}")
    last = logits(model, images[:1]).shape[1] - 1
    check(label <= last, f"label must be at most {last}, the model's last class; got {label}")
    sets = [_concept(i, one) for i, one in enumerate([*concepts.values(), *randoms])]
    named, drawn = dict(zip(concepts, sets, strict=False)), sets[len(concepts) :]
    pairs = [[concept, other] for concept in named.values() for other in drawn]
    pairs += [list(pair) for pair in combinations(drawn, 2)]
    with tempfile.TemporaryDirectory() as folder, evaluating(model), seeded(seed, images.device):
        made = TCAV(model, layer, classifier=_classifier(seed), save_path=folder)
        found = made.interpret(images, pairs, target=label)
    keys = ["-".join(str(one.id) for one in pair) for pair in pairs]
    scores = torch.tensor([float(found[key][layer]["sign_count"][0]) for key in keys], dtype=torch.float64)
    right = torch.tensor([float(made.cavs[key][layer].stats["accs"]) for key in keys], dtype=torch.float64)
    r, chance = len(drawn), scores[len(named) * len(drawn) :]
    by_concept = dict(zip(named, scores.split(r), strict=False))
    return Tcav(
        scores=by_concept,
        accuracies=dict(zip(named, right.split(r), strict=False)),
        chance=chance,
        p_values={name: p_value(one, chance) for name, one in by_concept.items()},
    )


def p_value(scores: Tensor, chance: Tensor) -> float:
    """Two-sided p-value of Welch's t-test; 0 or 1 if neither sample varies."""
    from scipy.stats import ttest_ind_from_stats

    if float(scores.var()) == float(chance.var()) == 0:
        return float(scores[0] == chance[0])
    samples = [value for one in (scores, chance) for value in (float(one.mean()), float(one.std()), len(one))]
    return float(ttest_ind_from_stats(*samples, equal_var=False).pvalue)


def _concept(number: int, images: Tensor) -> Any:
    from captum.concept import Concept

    return Concept(number, f"set-{number}", torch.utils.data.DataLoader(images, batch_size=64))  # type: ignore[arg-type]


def _classifier(seed: int) -> Any:
    """The authors' linear classifier as captum calls it: captum's own reports a wrong accuracy for two sets."""
    from captum.concept import Classifier
    from sklearn.linear_model import SGDClassifier
    from sklearn.model_selection import train_test_split

    class Linear(Classifier):  # type: ignore[misc]
        def __init__(self) -> None:
            self.fitted = SGDClassifier(alpha=0.01, max_iter=1000, tol=1e-3, random_state=seed)

        def train_and_eval(self, dataloader: Iterable[tuple[Tensor, Tensor]], **kwargs: Any) -> dict[str, float]:
            rows, numbers = (torch.cat(parts).cpu().numpy() for parts in zip(*dataloader, strict=True))
            rest, left_out, known, right = train_test_split(
                rows, numbers, test_size=LEFT_OUT, stratify=numbers, random_state=seed
            )
            self.fitted.fit(rest, known)
            return {"accs": float(self.fitted.score(left_out, right))}

        def weights(self) -> Tensor:
            normal = torch.from_numpy(self.fitted.coef_[0])
            return torch.stack([-normal, normal])

        def classes(self) -> list[int]:
            return list(self.fitted.classes_)

    return Linear()
