"""Outcomes of images in order, and their rows; errors of the model or the device that end the run."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from torch import Tensor

from gpulime import device as devices
from gpulime.engine.engine import Engine
from gpulime.engine.isolate import DeviceError, Explained, Failed, Isolate
from gpulime.engine.model import Activation
from gpulime.errors import GpulimeError, line_of
from gpulime.explanations.batch import Explanations
from gpulime.runs.progress.exits import DeviceLostError, EndOfRunError, ModelFailsError
from gpulime.runs.progress.signals import Stopped
from gpulime.runs.reading.read import Read
from gpulime.runs.source import Group
from gpulime.runs.store import row
from gpulime.runs.store.row import DEVICE

# Pieces of explanations in flight to the CPU while the device works on the next ones.
AHEAD = defaultdict(int, cuda=1)
UNPROVEN_IMAGES = 8  # if this many images fail before any is explained, the model is at fault
MOST_BEHIND = 64  # unreadable images that wait for an earlier image, until this is explained in a smaller model batch
MESSAGE_LENGTH = 1000
ELSEWHERE = "explainer"
ALONE = re.compile("^(image|text|row) 0: ")  # its number in a batch of one


Row = dict[str, Any]
Outcome = Explained[Read, Explanations] | Read  # a `Read` with its error


class Isolation:
    """Explains images and isolates failing ones.

    Parameters
    ----------
    explainer : Engine
    alone : callable Read -> the batch of one image
    progress : callable
        Called with the number of rows after each model batch; it may raise `EndOfRunError`, which ends the run.
    proven : bool
        True if the model has already explained images of this run; errors are then the images'.
    suspects : collection of str
        Ids of images that were in flight when a process lost its device. If it happens again with such an image alone, the
        image is at fault.
    one : str
        The kind of inputs, in messages.
    """

    def __init__(
        self,
        explainer: Engine[Any],
        alone: Callable[[Read], Any],
        progress: Callable[[int], None],
        proven: bool,
        suspects: Collection[str] = (),
        one: str = "image",
    ) -> None:
        self.explainer, self.proven, self.suspects, self.one = explainer, proven, suspects, one
        self._isolate = Isolate[Read, Explanations](
            explainer.predictor,
            explainer.device,
            queue=lambda alone: explainer.queue(progress),
            flights=lambda read: explainer.prepare(alone(read)),
            size=len,
            fetching=lambda explanations: explanations.fetching(),
            passes=(EndOfRunError,),
        )
        self._held: list[Read] = []  # failures held back until the model has explained an image
        self._first: BaseException | None = None

    def explain(self, groups: Iterable[Group]) -> Iterator[Outcome]:
        """Yield the outcome of each image, in order; an unreadable one is passed on unchanged.

        Raises
        ------
        DeviceLostError
            If the device is unusable in this process.
        ModelFailsError
            If the model has failed for the first `UNPROVEN_IMAGES` images, and so would fail for all. Out-of-memory errors do
            not count, since they may be temporary.
        """
        ahead = AHEAD[self.explainer.device.type]
        try:
            for reads, batch in groups:  # an error of reading is not the model's
                items = [read if read.error is None else Failed(read, GpulimeError(read.error)) for read in reads]
                flights = () if batch is None else self.explainer.prepare(batch)
                yield from self._outcomes(self._isolate.put(items, flights, ahead))
                if self._isolate.behind >= MOST_BEHIND:  # the row of each is due, and the end of too many in a row
                    yield from self._outcomes(self._isolate.finish())
            yield from self._outcomes(self._isolate.finish())
        except (Exception, Stopped):  # outside the queue, so the pieces in flight belong to the first waiting images
            yield from self._outcomes(self._isolate.arrive())
            raise

    def end(self) -> None:
        """Raise `ModelFailsError` if the model has failed for all images; call it after the last one."""
        if self._first is not None:
            few = len(self._held) < UNPROVEN_IMAGES
            images = f"each {self.one}" if few else f"each of the first {UNPROVEN_IMAGES} {self.one}s"
            reason = reason_of(self._first) if isinstance(self._first, GpulimeError) else line_of(self._first)
            at = kind(self._first)
            failure = f"the model fails for {images}" if at == "model" else f"{images} fails in the stage {at!r}"
            raise ModelFailsError(f"{failure}, also alone: {reason}") from self._first

    def _outcomes(self, found: Iterator[Explained[Read, Explanations] | Failed[Read]]) -> Iterator[Outcome]:
        try:
            for one in found:
                yield from self._failed(one) if isinstance(one, Failed) else self._explained(one)
        except DeviceError as error:
            yield from self._lost(error.__cause__ or error, error.items)

    def _explained(self, one: Explained[Read, Explanations]) -> Iterator[Outcome]:
        self.proven, self._first = True, None
        yield from self._held
        self._held = []
        yield one

    def _failed(self, one: Failed[Read]) -> Iterator[Read]:
        if one.item.error is not None:  # it could not be read
            yield one.item
            return
        failure = dataclasses.replace(one.item, error=reason_of(one.error)[:MESSAGE_LENGTH], kind=kind(one.error))
        if self.proven or devices.out_of_memory(one.error):
            yield failure
            return
        self._held.append(failure)
        self._first = self._first or one.error
        if len(self._held) == UNPROVEN_IMAGES:
            self.end()

    def _lost(self, error: BaseException, in_hand: Sequence[Read]) -> Iterator[Read]:
        """End this process's part; a suspect that was alone when the device was lost again becomes a failure."""
        reason = str(error).partition("\n")[0]
        if self.proven and len(in_hand) == 1 and in_hand[0].item.image_id in self.suspects:
            why = f"the device is lost whenever it is explained, also alone: {reason}"
            yield dataclasses.replace(in_hand[0], error=why[:MESSAGE_LENGTH], kind=DEVICE)
            in_hand = ()
        end = "finished rows are kept, and a new process resumes"
        raise DeviceLostError(f"the device is lost: {reason}; {end}", [read.item.image_id for read in in_hand]) from error


def reason_of(error: BaseException) -> str:
    message = ALONE.sub("", str(error))
    return message if isinstance(error, GpulimeError) else f"{type(error).__name__}: {message}"


def kind(error: BaseException) -> str:
    """Return the ``error_type`` of a failure: "out_of_memory", or the stage that failed; "model" for the model itself."""
    if devices.out_of_memory(error):
        return "out_of_memory"
    return getattr(error, "stage", ELSEWHERE)


@dataclass(frozen=True)
class Recorder:
    """Make the rows of one run.

    They share ``seed``, ``config_hash`` and ``activation``; ``columns`` gives those of the kind of inputs. ``n_samples`` stands
    in the rows of failed inputs, whose number of samples is not known.
    """

    n_samples: int
    seed: int
    config_hash: str
    activation: Activation
    columns: Callable[[Any, int, Read], Row]

    def row(self, outcome: Outcome) -> Row:
        """The row of an explained or a failed image; an image with a non-finite output has failed."""
        if not isinstance(outcome, Explained):
            return self._error(outcome)
        bad = int(outcome.piece.non_finite[outcome.i])
        if bad:
            message = f"the model's output was NaN or infinite for {bad} of {outcome.piece.samples[outcome.i]} samples"
            return self._non_finite(outcome, message)
        explained = self._explained(outcome)
        try:
            row.check_numbers(explained)
        except GpulimeError as error:
            message = f"numbers beyond 3.4e38, which a row cannot hold: {error}"
            return self._non_finite(outcome, message)
        return explained

    def _explained(self, outcome: Explained[Read, Explanations]) -> Row:
        batch, i = outcome.piece, outcome.i
        columns, labels = self.columns(batch, i, outcome.item), batch.labels[i].tolist()
        once = [labels.index(label) for label in dict.fromkeys(labels)]  # a target may be among the top labels
        count = columns["n_segments"]

        def of(values: Tensor) -> list[Any]:
            each = values[i].tolist()
            return [each[j] for j in once]

        def known(values: Tensor) -> list[Any]:
            return [_known(value) for value in of(values)]

        scores, spreads, predictions = known(batch.scores), of(batch.spreads), of(batch.predictions.float())
        is_probability = self.activation in ("softmax", "sigmoid")
        constant = [str(labels[j]) for j, score in zip(once, scores, strict=True) if score is None]
        unweighted = math.isnan(spreads[0])
        unseen = row.never_seen(columns.get(row.UNSEEN) or [], columns.get("parts") or [])
        why = "the kernel gives every mask a weight of 0" if unweighted else "their output is the same for all samples"
        return {
            **self._common(outcome.item),
            "status": "ok",
            **columns,
            **_prediction(int(batch.predicted[i]), float(batch.predicted_probs[i].float())),
            "labels": of(batch.labels),
            "pred_probs": predictions,
            "coef": of(batch.coefficients[..., :count].float()),  # as it is stored
            "coef_se": [list(map(_known, errors)) for errors in of(batch.standard_errors[..., :count].float())],
            "intercept": of(batch.intercepts),
            "local_pred": known(batch.local_predictions),
            "r2": scores,
            "r2_loo": known(batch.scores_loo),
            "spread": known(batch.spreads),
            "note": [
                "; ".join(filter(None, (row.note(*one, is_probability), unseen))) or None
                for one in zip(spreads, predictions, strict=True)
            ],
            "error": f"no r2 for classes {', '.join(constant)}: {why}" if constant else None,
            "n_samples": int(batch.samples[i]),
            "exhaustive": bool(batch.exhaustive[i]),
        }

    def _non_finite(self, outcome: Explained[Read, Explanations], message: str) -> Row:
        failure = self._error(dataclasses.replace(outcome.item, error=message, kind="non_finite"))
        return failure | {"n_samples": int(outcome.piece.samples[outcome.i])}

    def _error(self, read: Read) -> Row:
        return {**self._common(read), "status": "error", "error_type": read.kind, "error": read.error}

    def _common(self, read: Read) -> Row:
        return {
            "image_id": read.item.image_id,
            "path": os.path.abspath(read.item.path) if read.item.path else b"",
            "target": read.item.target,
            "attempt": read.item.attempt,
            "written_at": datetime.now(UTC),
            "n_samples": self.n_samples,
            "seed": self.seed,
            "config_hash": self.config_hash,
            "image_sha256": read.sha256,
        }


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _prediction(label: int, prob: float) -> Row:
    """The class with the highest output.

    Null if the model has one output, or if the highest is NaN or infinite.
    """
    return {"prediction": label, "predicted_prob": prob} if label >= 0 and math.isfinite(prob) else {}
