"""Rounds: estimate the inputs of a planned flight; with a stopping rule, draw more samples for those that are not settled."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gpulime import device as devices
from gpulime.engine import pairs, shapley, surrogate
from gpulime.engine.designs import Design, exhaustive
from gpulime.engine.flight import Drawn
from gpulime.engine.logit import probabilities
from gpulime.engine.masked import Masked
from gpulime.engine.plan import Plan
from gpulime.engine.planned_flight import PlannedFlight
from gpulime.engine.proximity import proximity
from gpulime.engine.settings import SHAPLEY, Settings
from gpulime.engine.stopping import Stopping, first_of
from gpulime.engine.surrogate import FITTED, LARGEST, Moments, Surrogate
from gpulime.errors import check, stage

GROWTH = 0.25  # of an input's samples in another round, at least a block
# Entries of covariances of the inputs that are estimated at once: few on a CPU, to stay in its cache. On a GPU the
# launches of an estimate take longer than the work for an input.
ENTRIES = defaultdict(lambda: 2**24, cpu=2**19)


@dataclass
class DesignedFlight(PlannedFlight):
    """Inputs in the queue with the masks of a design; some may go on for further rounds."""

    design: Design = field(kw_only=True)
    stopping: Stopping | None = field(kw_only=True, default=None)
    most: int = field(kw_only=True)  # samples of an input that does not get all masks; with a stopping rule, at most
    looks: int = field(init=False, default=0)
    going: list[int] = field(init=False)  # inputs that are not settled
    found: dict[str, Tensor] = field(init=False, default_factory=dict)

    @classmethod
    def of(
        cls,
        inputs: Masked,
        n_samples: int | None,
        design: Design,
        top_labels: int,
        stopping: Stopping | None,
        in_pairs: bool = False,
    ) -> DesignedFlight:
        """Plan ``n_samples``; None stands for a block, after which the stopping rule is asked.

        Inputs with few parts get all of their masks if these are no more. ``in_pairs`` leaves a last row without a partner out.
        """
        counts, k = inputs.counts, inputs.k
        sizes, blocks = inputs.sizes.tolist(), (design.outside + design.steps(inputs.sizes)).tolist()
        most = stopping.max_samples if stopping is not None else n_samples or 0
        whole = [count < 31 and 2**count <= most for count in sizes]
        if n_samples is not None and in_pairs:
            n_samples -= (n_samples - design.outside) % 2
        used = [2**count if all_ else n_samples or block for count, block, all_ in zip(sizes, blocks, whole, strict=True)]
        if stopping is not None:
            least = max([0, *(block for block, all_ in zip(blocks, whole, strict=True) if not all_)])
            few = f"max_samples = {stopping.max_samples} is below the {least} samples of a first block"
            with stage("masks"):
                check(least <= stopping.max_samples, f"{few} for {max(sizes)} {inputs.parts}; take at least {least}")
        s = max(used)
        masks = design.draw(inputs.keys, inputs.sizes, k, 0, s)
        if any(whole):
            all_masks = devices.sent(torch.tensor(whole), counts.device)[:, None, None]
            masks = torch.where(all_masks, exhaustive(counts, k, s), masks)
        plan = Plan(masks, counts, inputs.sizes, used, whole, design.repeats)
        return cls(inputs, s, masks, top_labels, plan=plan, design=design, stopping=stopping, most=most)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.all_classes, self.going = True, list(range(self.n))

    def _begin(self, first: Tensor) -> None:
        super()._begin(first)
        self.whole = first

    def go_on(self, going: list[int]) -> None:
        """Plan another block for some inputs; several if they have many, so that estimates do not cost more and more."""
        steps, used = self.design.steps(self.inputs.sizes).tolist(), list(self.plan.used)
        for i in going:
            more = max(1, int(GROWTH * used[i]) // steps[i]) * steps[i]
            most = self.stopping.max_samples if self.stopping else used[i] + more
            used[i] += min(more, (most - used[i]) // steps[i] * steps[i])
        start = self.plan.masks.shape[1]
        inputs, stop = self.inputs, max(start, *used)
        self.plan.extend(self.design.draw(inputs.keys, inputs.sizes, inputs.k, start, stop), used)
        self.going, self.size = going, len(self.plan.index)
        self.rest = torch.cat([self.rest, self.rest.new_empty(self.size - self.n - len(self.rest), self.classes)])
        self.drawn, self.composed = Drawn(), None


@stage("surrogate")
def solve(flight: DesignedFlight, settings: Settings) -> dict[str, Tensor] | None:
    """Estimate the inputs of a round; None if some of them go on for another one.

    Returns
    -------
    The tensors of `gpulime.explanations.batch.Explanations` by name; NaN for an input with a non-finite output.
    """
    stopping = flight.stopping
    selected_later = stopping is not None and settings.selects  # a part that is not selected has no error
    _estimate_all(flight, flight.going, settings.of_all_parts() if selected_later else settings)
    flight.looks += 1
    if stopping is not None and (going := _unsettled(flight, stopping)):
        flight.go_on(going)
        return None
    if selected_later:
        _estimate_all(flight, list(range(flight.n)), settings)
    of_inputs = {"samples": flight.plan.used, "exhaustive": flight.plan.exhaustive}
    return flight.found | {name: devices.sent(torch.tensor(all_), flight.labels.device) for name, all_ in of_inputs.items()}


def _estimate_all(flight: DesignedFlight, inputs: list[int], settings: Settings) -> None:
    """Estimate some inputs, and put the tensors into ``flight.found``."""
    plan, device = flight.plan, flight.labels.device
    outputs = torch.cat([flight.whole, flight.rest])  # by place
    groups: dict[tuple[int, bool], list[int]] = defaultdict(list)
    for i in inputs:
        groups[plan.used[i], plan.exhaustive[i]].append(i)
    for (s, whole), members in groups.items():
        for some in _batched(members, max(1, ENTRIES[device.type] // (s * s))):
            where = devices.sent(torch.tensor(some), device)
            samples = plan.masks[where, :s], outputs[plan.source[where, :s]]
            of_inputs = flight.labels[where], flight.inputs.counts[where]
            found = _estimated(*samples, *of_inputs, settings, flight.most if whole else None)
            if not flight.found:
                flight.found = {name: value.new_empty(flight.n, *value.shape[1:]) for name, value in found.items()}
            for name, value in found.items():
                flight.found[name][where] = value


def _unsettled(flight: DesignedFlight, stopping: Stopping) -> list[int]:
    found, counts, plan = flight.found, flight.inputs.counts, flight.plan
    settled = stopping.settled(found["coefficients"], found["standard_errors"], flight.labels, counts, flight.looks).tolist()
    steps = flight.design.steps(flight.inputs.sizes).tolist()
    return [
        i for i in flight.going if not (settled[i] or plan.exhaustive[i]) and plan.used[i] + steps[i] <= stopping.max_samples
    ]


def _estimated(
    masks: Tensor, outputs: Tensor, labels: Tensor, counts: Tensor, settings: Settings, stands_for: int | None
) -> dict[str, Tensor]:
    """Estimate as `estimate` does; NaN for inputs with outputs that cannot be used.

    These are non-finite outputs of a label and, with the logit link, samples whose outputs are no probabilities.
    """
    usable = outputs.abs() <= LARGEST  # not NaN
    if settings.link == "logit" and stands_for is None:
        usable = usable & probabilities(outputs)[..., None]
    outputs = outputs.where(usable, 0.0)
    finite = usable.gather(2, labels[:, None].expand(-1, masks.shape[1], -1)).all(-1)
    found = estimate(masks, outputs, labels, counts, settings, stands_for)
    non_finite = (~finite).sum(1)
    values = {name: getattr(found, name) for name in FITTED}
    bad = non_finite > 0
    known = {name: value.masked_fill(bad.view(-1, *[1] * (value.ndim - 1)), torch.nan) for name, value in values.items()}
    return known | {"non_finite": non_finite}


def estimate(
    masks: Tensor, outputs: Tensor, labels: Tensor, counts: Tensor, settings: Settings, stands_for: int | None
) -> Surrogate:
    """Estimate the surrogates of inputs with s samples each.

    Parameters
    ----------
    masks : (n, s, k) bool; outputs : (n, s, classes); labels : (n, l); counts : (n,)
    stands_for : None if the masks are pairs; if they are all that exist, the samples that they stand for: the ridge penalty is
        that of a fit to so many
    """
    first = first_of(labels)  # an input with fewer labels than another repeats its first one
    fresh = first == torch.arange(labels.shape[1], device=labels.device)
    if settings.kernel == SHAPLEY:
        return shapley.solved(masks, outputs, labels, fresh, counts, settings, stands_for is not None).of_labels(first)
    if settings.estimator == "gp" and stands_for is None:
        return pairs.solved(masks, outputs, labels, fresh, counts, settings).of_labels(first)
    s = masks.shape[1]
    y = outputs.gather(2, labels[:, None].expand(-1, s, -1))
    weights = proximity(masks, counts, settings)
    if stands_for is not None:
        weights = weights * (stands_for / s)
    elif settings.estimator != "ridge":
        weights = weights * (torch.arange(s, device=weights.device) > 0)  # the limit does not know row 0
    samples = (masks.double(), y.double(), weights, partners(s, masks.device) if stands_for is None else None)
    found = surrogate.solved(Moments(counts, masks.shape[2], y[:, 0]), [...], lambda _: samples, settings)
    return found if stands_for is None else found.exact(weights)


def partners(s: int, device: torch.device) -> Tensor:
    """Place of each row's complement, (s,): 1 and 2, 3 and 4, ...; its own for row 0 and for a last row that is alone."""
    rows = torch.arange(s, device=device)
    other = torch.where(rows % 2 == 1, rows + 1, rows - 1)
    return torch.where((rows == 0) | (other >= s), rows, other)


def _batched(members: list[int], size: int) -> Iterator[list[int]]:
    return (members[start : start + size] for start in range(0, len(members), size))
