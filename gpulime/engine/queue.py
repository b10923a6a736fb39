"""Queue of the rows of all inputs in flight, packed so that every model batch is full."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import torch
from torch import Tensor

from gpulime import device as devices
from gpulime.engine.batch_size import BatchSize, Kind
from gpulime.engine.flight import Flight
from gpulime.engine.model import Predictor

T = TypeVar("T")  # the result of a solved flight
Piece = tuple[Flight, int, int]  # places start to stop of a flight


def _halves(pieces: list[Piece], b: int) -> tuple[list[Piece], list[Piece]]:
    """Split the pieces into the first b places and the rest."""
    first: list[Piece] = []
    for i, (flight, start, stop) in enumerate(pieces):
        if stop - start >= b:
            first.append((flight, start, start + b))
            rest = [(flight, start + b, stop)] if stop - start > b else []
            return first, rest + pieces[i + 1 :]
        first.append(pieces[i])
        b -= stop - start
    return first, []


class Queue(Generic[T]):
    """Passes the places of all flights to the model, b at a time, and solves each flight once it is complete.

    Parameters
    ----------
    solve : callable flight -> T or None
        Called with each flight whose outputs are complete; None if it has got more places.
    progress : callable, optional
        Called with the number of rows after each model batch.
    """

    def __init__(
        self,
        predictor: Predictor,
        batch_size: BatchSize,
        solve: Callable[[Flight], T | None],
        progress: Callable[[int], object] | None = None,
    ) -> None:
        self.predictor, self.batch_size = predictor, batch_size
        self.solve = solve
        self.progress = progress or (lambda b: None)
        self.flights: deque[Flight] = deque()

    def put(self, flight: Flight, is_last: bool = False) -> Iterator[T]:
        """Add a flight and pass full model batches, or all rows if it is the last; yield results of finished flights."""
        if self.flights and not flight.joins(self.flights[0]):
            yield from self.finish()
        self.flights.append(flight)
        yield from self._run(full=not is_last)

    def finish(self) -> Iterator[T]:
        """Pass the remaining rows; the last model batch may be smaller."""
        return self._run(full=False)

    def _run(self, full: bool) -> Iterator[T]:
        while self.flights:
            # The context ends before the yield, so that the caller never sees the model in eval mode, or autocast on.
            with self.predictor.inference(self.flights[0].kind[2]):
                done, b = self._advance(full)
            yield from done  # before `progress`, which may raise: finished results are not lost
            if not b:
                return
            self.progress(b)

    def _advance(self, full: bool) -> tuple[list[T], int]:
        """Pass model batches until one finishes flights: their results, and the rows of that batch; 0 if no rows are left."""
        kind = self.flights[0].kind
        while b := self._next(full):
            self._pass(b, kind)
            done: list[T] = []
            while self.flights and self.flights[0].taken == self.flights[0].size:
                flight = self.flights.popleft()
                if (result := self.solve(flight)) is None:
                    self.flights.appendleft(flight)  # it has more places now, which go first
                else:
                    done.append(result)
            if done:
                return done, b
            self.progress(b)
        return [], 0

    def _next(self, full: bool) -> int:
        """Number of rows in the next model batch; 0 if too few are left."""
        left = sum(flight.size - flight.taken for flight in self.flights)
        b = self.batch_size.get(self.flights[0].kind, self.predictor.most)
        return b if left >= b else 0 if full else left

    def _pass(self, b: int, kind: Kind) -> None:
        """Pass one model batch of b rows and hand the outputs to their flights."""
        pieces = list(self._take(b))
        # The search uses each size three times only: not worth compiling.
        full = self.batch_size.get(kind, self.predictor.most) if self.batch_size.is_found(kind) else None
        with self.batch_size.timed(b, kind, self.predictor.left):
            outputs = self._outputs(pieces, full)
        parts = [outputs] if len(pieces) == 1 else outputs.split([stop - start for _, start, stop in pieces])
        for (flight, start, _), part in zip(pieces, parts, strict=True):
            flight.receive(start, part)

    def _outputs(self, pieces: list[Piece], full: int | None) -> Tensor:
        """Outputs (b, classes) for pieces; in halves if memory runs out before the model is called."""
        b = sum(stop - start for _, start, stop in pieces)
        try:
            parts = [flight.rows(*where) for flight, *where in pieces]
            rows = parts[0] if len(parts) == 1 else torch.cat(parts)
            extra = tuple(map(torch.cat, zip(*(flight.extra_rows(*where) for flight, *where in pieces), strict=True)))
        except (RuntimeError, MemoryError) as error:
            if b == 1 or not devices.out_of_memory(error):
                raise
        else:
            return self.predictor(rows, full, extra)
        self.predictor.shrink(b)
        return torch.cat([self._outputs(half, full).clone() for half in _halves(pieces, b // 2)])  # cloned as in the predictor

    def _take(self, b: int) -> Iterator[Piece]:
        """Take the next b places as (flight, start, stop), from as many flights as needed."""
        for flight in self.flights:
            start = flight.taken
            flight.taken = min(flight.size, start + b)
            b -= flight.taken - start
            if flight.taken > start:
                yield flight, start, flight.taken
