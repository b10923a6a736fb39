"""Judge: the images, labels and settings by which all compared methods are judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from gpulime import device as devices
from gpulime.errors import GpulimeError, line_of
from gpulime.evaluate.attributions import Attributions
from gpulime.evaluate.comparison import Compared, not_judged
from gpulime.evaluate.cost import Cost, counted
from gpulime.evaluate.curves import curves
from gpulime.evaluate.held_out import held_out
from gpulime.evaluate.method_maps import maps_of, maps_of_each
from gpulime.evaluate.methods import NotAvailableError
from gpulime.evaluate.methods.activations import noted
from gpulime.evaluate.methods.method import Classifier, Method, suited
from gpulime.evaluate.scores import Reasons, Scores, without
from gpulime.explainer import Explainer
from gpulime.explanations.images import ExplainedImages
from gpulime.images.batch import Batch


@dataclass(frozen=True, eq=False)
class Row:
    """A method's row; its maps (n, l, h, w), NaN for labels without one, if it has any; and why labels are not judged."""

    row: Compared
    maps: Tensor | None = None
    reasons: Reasons = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Judge:
    """The images and labels on which all methods are judged."""

    explainer: Explainer
    batch: Batch
    ready: Tensor  # (n, c, h, w), as the model takes them
    labels: Tensor  # (n, l)
    segments: Tensor  # (n, h, w)
    game: tuple[str, int | None, Any]  # unit, steps and fill of the curves
    fresh: tuple[int, int]  # samples and seed of the held-out fit

    def row(self, name: str, method: Any) -> Row:
        """The row of a method."""
        try:
            if isinstance(method, ExplainedImages | Tensor):
                return self.judged(name, method)
            with noted() as notes:
                given, cost, failed = self._explained(method)
            return self.judged(name, given, cost, failed, notes)
        except NotAvailableError as error:
            return Row(Compared(name, status=f"not available: {error}"))
        except Exception as error:  # a user's method may raise anything
            if devices.lost(error, self.ready.device):
                raise
            why = str(error) if isinstance(error, GpulimeError) else line_of(error)
            return Row(Compared(name, status=f"failed: {why}"))

    def maps(self, method: Method) -> Tensor:
        """Maps (n, l, h, w) of a method, on the CPU."""
        return self._maps(method)[0].float().cpu()

    def _explained(self, method: Any) -> tuple[ExplainedImages | Tensor, Cost, Mapping[int, str]]:
        """Explanations or maps of a method, their cost, and why images have none."""
        if not isinstance(method, Explainer):
            return self._maps(method)
        before = method.predictor.forwards
        with counted(self.ready.device) as cost:
            explained = method.explain(self.batch.images, self.labels, self.batch.segments, self.batch.keys)
        if not isinstance(method.predictor.model, nn.Module):  # a function, which is seen by no hook
            cost.forwards = method.predictor.forwards - before
        return explained, cost, {}

    def _maps(self, method: Method) -> tuple[Tensor, Cost, Mapping[int, str]]:
        """Maps of a method, of all images together or, if that fails, of one after the other."""
        model = self.explainer.predictor.model
        module = model if isinstance(model, nn.Module) else Classifier(model)
        activation = self.explainer.predictor.activation
        try:
            with counted(self.ready.device) as cost:
                return maps_of(suited(method, self.segments, activation), module, self.ready, self.labels), cost, {}
        except Exception as error:
            if len(self.labels) == 1 or devices.lost(error, self.ready.device):
                raise
            failure = error
        with counted(self.ready.device) as cost:
            maps, failed = maps_of_each(method, module, self.ready, self.labels, self.segments, activation)
        if len(failed) == len(self.labels):
            raise failure
        return maps, cost, failed

    def judged(
        self,
        name: str,
        given: ExplainedImages | Tensor,
        cost: Cost | None = None,
        failed: Mapping[int, str] | None = None,
        notes: Sequence[str] = (),
    ) -> Row:
        """The row of explanations or maps; ``failed`` has the reasons of images that a method could not explain."""
        images, total = self.batch.images, self.labels.numel()
        segments = None if isinstance(given, ExplainedImages) else self.segments
        attributions = Attributions.of(self.explainer, images, given, self.labels)
        maps = without(attributions.pixels(slice(None)).float(), attributions.reasons)
        played = curves(self.explainer, images, given, *self.game, self.labels, segments)
        known = ~played.gap.isnan()
        deletion, insertion, gap = (float(one[known].mean()) for one in (played.deletion_auc, played.insertion_auc, played.gap))
        reasons = {(i, j): (failed or {}).get(i, why) for (i, j), why in _missing(played, "gap").items()}
        row, notes = Compared(name, deletion, insertion, gap, judged=total - len(reasons)), list(notes)
        if reasons:
            notes.append(not_judged(reasons, total))
        if self.fresh[0]:
            held = held_out(self.explainer, images, given, *self.fresh, self.labels, segments, keys=self.batch.keys)
            row = replace(row, held_out_r2=float(held.r2[known].nanmean()))
            lacking = {place: why for place, why in _missing(held, "r2").items() if place not in reasons}
            if lacking:
                notes.append(f"held-out R2: {not_judged(lacking, row.judged)}")
        if cost is not None:
            n = len(self.labels)
            row = replace(row, forwards=cost.forwards / n, backwards=cost.backwards / n, seconds=cost.seconds / n)
        return Row(row.noted(*notes), maps.cpu(), reasons)


def _missing(scores: Scores, name: str) -> Reasons:
    """Why a score is missing, by image and label."""
    places = [(i, j) for i, j in getattr(scores, name).isnan().nonzero().tolist()]
    return {(i, j): scores.reason(name, i, j) or "" for i, j in places}
