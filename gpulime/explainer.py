"""The Explainer: which stages there are, in which order, and the queue that keeps the model's batches full."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from gpulime import fills, masks
from gpulime.errors import check
from gpulime.explanation import Explanations
from gpulime.inputs import Batch, Normalisation, outside_unit
from gpulime.ops.masked_images import masked_images
from gpulime.predict import Activation, BatchSize, Model, Predictor
from gpulime.segments import Segmenter, Segments, from_labels, segment
from gpulime.segments import resolve as resolve_segments
from gpulime.surrogate import Distance, Kernel, Moments, Settings, Surrogate, proximity

# Pieces of work that bound memory: images prepared at once, masks drawn at once, entries of Gram matrices at once.
FLIGHT_IMAGES, FLIGHT_BYTES = 64, 2**28
MASK_ENTRIES = 2**21
GRAM_ENTRIES = 2**24


class Explainer:
    """LIME for batches of images.

    Parameters
    ----------
    model : nn.Module or callable
        (b, c, h, w) tensor -> (b, classes) tensor. It is never modified and may be in train mode.
    n_samples : int
        s, the masks and so the forwards per image, the whole image among them.
    segments : str, mapping, dataclass or callable
        "slic", "quickshift", "felzenszwalb", "grid"; ``{"slic": {"n_segments": 60}}``; ``segments.Slic(n_segments=60)``;
        or a callable (h, w, c) array in [0, 1] -> (h, w) integer labels.
    fill : str, float, sequence or tensor
        What hidden segments show: "mean" of the segment, "blur", a number, a colour (c,), or images (n, c, h, w); numbers in
        the units of the images: 0..255 for uint8, normalised ones with ``normalized=True``, else 0..1.
    sampler : str
        "bernoulli": each segment shown with probability 1/2; "lime": the same, with the draws of numpy's RandomState(seed).
    top_labels : int
        l, the classes explained per image where ``explain`` is given none: those with the highest output; at most all.
    kernel_width : float or None
        Width of the proximity kernel, in distances; None means ``0.75 * sqrt(k)``, as lime documents.
    alpha : float
        The ridge penalty of the fit, on coefficients, not on the intercept.
    kernel : str, callable or None
        None or "exponential", "uniform", or a callable (distances (s,), kernel_width) -> weights (s,).
    distance : str or callable
        From each mask to the whole image: "cosine", "euclidean", "hamming", ..., or a callable masks (s, k) -> (s,).
    feature_selection : str
        "none", "forward_selection", "highest_weights", "lasso_path" or "auto" (forward selection up to 6 segments, highest
        weights beyond), by lime's rules.
    num_features : int or None
        The most segments a label's model may use; None means all.
    activation : str, callable or None
        "softmax", "sigmoid", or a callable: what turns the model's output into what is explained; None explains it as it is.
    mean, std : float or (c,) sequences, optional
        The model's normalisation, ``(image - mean) / std``.
    normalized : bool
        False: images come in [0, 1] (or uint8) and are normalised here. True: they come normalised, and mean and std only undo
        it, for segmentation and pictures.
    precision : str
        "float32" runs the model as it is; "bfloat16" and "float16" run it under autocast.
    batch_size : int or "auto"
        b, the rows of a model batch. "auto" times the first batches of the queue and keeps the fastest size.
    device : str or torch.device, optional
        By default the model's, else the images'.
    seed : int
        Of the masks.

    Raises
    ------
    GpulimeError
        If a setting is not what it must be.

    References
    ----------
    Ribeiro, Singh and Guestrin, "Why should I trust you?", KDD 2016.
    """

    def __init__(
        self,
        model: Model,
        n_samples: int = 1000,
        segments: str | Mapping[str, Any] | Segmenter = "slic",
        fill: fills.Fill = "mean",
        sampler: str = "bernoulli",
        top_labels: int = 5,
        kernel_width: float | None = 0.25,
        alpha: float = 1.0,
        kernel: Kernel | None = None,
        distance: Distance = "cosine",
        feature_selection: str = "auto",
        num_features: int | None = None,
        activation: Activation = "softmax",
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        normalized: bool = False,
        precision: str = "float32",
        batch_size: int | str = "auto",
        device: torch.device | str | None = None,
        seed: int = 0,
    ) -> None:
        check(n_samples >= 2, f"n_samples must be at least 2, the whole image and one mask; got {n_samples}")
        check(top_labels >= 1, f"top_labels must be at least 1; got {top_labels}")
        self.n_samples, self.top_labels = n_samples, top_labels
        self.normalisation = Normalisation.of(mean, std, normalized)
        self.segmenter = resolve_segments(segments)
        self.fill = fills.resolve(fill)
        self.sampler = masks.resolve(sampler, seed, n_samples)
        self.settings = Settings(alpha, kernel or "exponential", kernel_width, distance, feature_selection, num_features)
        self.predictor = Predictor(model, activation, precision, device)
        self.batch_size = BatchSize(batch_size)
        self._warned: set[str] = set()

    def explain(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        segments: Tensor | None = None,
        keys: Tensor | None = None,
    ) -> Explanations:
        """Explain images.

        Parameters
        ----------
        images : (n, c, h, w) float or uint8
            Floats in [0, 1], or normalised with ``normalized=True``.
        labels : (n,) or (n, l) int64, optional
            Classes to explain; by default the ``top_labels`` with the highest output.
        segments : (n, h, w) integers, optional
            Label maps, in place of the segmenter's.
        keys : (n,) int64, optional
            ``gpulime.key(image_id)`` of each image, which seeds its masks; 0 by default: then images with the same number of
            segments share their masks, and so the noise of the sampling, which an average over images should not.

        Returns
        -------
        Explanations, on the device that did the work

        Raises
        ------
        GpulimeError
            If an argument is not what it must be, or the model's output is not (b, classes).
        """
        explanations = Explanations.cat(list(self.stream([Batch(images, labels, segments, keys)])))
        for i in explanations.non_finite.nonzero().flatten().tolist():
            count = int(explanations.non_finite[i])
            warnings.warn(
                f"image {i}: the model's output was NaN or infinite for {count} of {self.n_samples} samples; "
                "its coefficients are NaN",
                stacklevel=2,
            )
        return explanations

    def stream(self, batches: Iterable[Batch], progress: Callable[[int], object] | None = None) -> Iterator[Explanations]:
        """Explain batches as they come, in one queue: a model batch may hold rows of the end of one and the start of the next.

        Parameters
        ----------
        batches : iterable of Batch
        progress : callable, optional
            Called with the number of rows after each model batch.

        Yields
        ------
        Explanations
            Of images in the order they came; a batch of many images may come back in several pieces.
        """
        queue = _Queue(self, progress)
        for batch in batches:
            yield from queue.put(batch)
        yield from queue.finish()

    def prepare(self, batch: Batch) -> Iterator[_Flight]:
        """Everything that is done once per image: checks, segments, fill, normalisation; a few images at a time."""
        self.normalisation.fits(batch.images)
        unit = 255.0 if batch.images.dtype == torch.uint8 else 1.0
        batch = batch.checked(self.predictor.device(batch.images))
        if not self.normalisation.normalized:
            self._warn_once("range", outside_unit(batch.images))
        images, labels, maps = batch.images, batch.labels, batch.segments
        size = max(1, min(FLIGHT_IMAGES, FLIGHT_BYTES // (4 * images[0].numel())))
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            pictures = self.normalisation.pictures(images[part])
            parts = segment(self.segmenter, pictures) if maps is None else from_labels(maps[part])
            self._enough_samples(parts.ids.shape[1])
            filled = fills.fill(self._fill_of(part), images[part], parts.labels, parts.ids.shape[1], unit)
            ready = [
                self.normalisation.ready(t).to(self.predictor.dtype, memory_format=self.predictor.memory_format)
                for t in (images[part], filled)
            ]
            yield _Flight(
                images=ready[0],
                fill=ready[1],
                parts=parts,
                keys=batch.keys[part],
                wanted=None if labels is None else labels[part],
                top=batch.top or labels is None,
                pictures=(pictures.clamp(0, 1) * 255).round().to(torch.uint8),
                n_samples=self.n_samples,
            )

    def _fill_of(self, part: slice) -> str | Tensor:
        fill = self.fill
        return fill[part] if isinstance(fill, Tensor) and fill.ndim == 4 and fill.shape[0] > 1 else fill

    def _enough_samples(self, k: int) -> None:
        if k < self.n_samples:
            return
        check(
            self.settings.alpha > 0,
            f"n_samples = {self.n_samples} cannot fit k = {k} segments with alpha = 0; take more samples or alpha > 0",
        )
        self._warn_once(
            "samples",
            f"n_samples = {self.n_samples} is not more than k = {k} segments: only alpha > 0 makes a fit possible",
        )

    def _warn_once(self, kind: str, message: str | None) -> None:
        if message and kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(message, stacklevel=2)

    def draw(self, flight: _Flight, index: Tensor, rows: Tensor) -> Tensor:
        """Masks (..., k) bool of samples ``rows`` of the images ``index``, which broadcast; False beyond an image's count."""
        counts, k = flight.parts.counts[index], flight.parts.ids.shape[1]
        masks = self.sampler(flight.keys[index], rows, counts, k)
        return masks & (torch.arange(k, device=masks.device) < counts[..., None])

    def rows(self, flight: _Flight, start: int, stop: int) -> Tensor:
        """The model's input for places ``start`` to ``stop`` of a flight's queue."""
        index, masks = flight.window(start, stop, self.draw)
        return masked_images(flight.images, flight.fill, flight.parts.labels, index, masks)

    def choose_labels(self, flight: _Flight, outputs: Tensor) -> Tensor:
        """The classes to explain (n, l), from the outputs (n, classes) for the whole images."""
        classes, wanted = outputs.shape[1], flight.wanted
        if wanted is not None:
            check(
                int(wanted.max()) < classes,
                f"labels must be below the model's {classes} classes; got {int(wanted.max())}",
            )
            if not flight.top:
                return wanted
        best = outputs.topk(min(self.top_labels, classes), dim=1).indices
        return best if wanted is None else torch.cat([best, wanted.where(wanted >= 0, best[:, :1])], dim=1)

    def solve(self, flight: _Flight) -> Explanations:
        """Fit the surrogates of a flight whose outputs are all there."""
        outputs, counts, k = flight.outputs, flight.parts.counts, flight.parts.ids.shape[1]
        finite = outputs.isfinite()
        outputs = outputs.masked_fill(~finite, 0.0)
        together = max(1, GRAM_ENTRIES // (k * k * outputs.shape[2]))
        fitted = [self._fit(flight, outputs, i) for i in torch.arange(len(counts), device=counts.device).split(together)]
        non_finite = (~finite.all(-1)).sum(1)
        fit = {f.name: torch.cat([getattr(piece, f.name) for piece in fitted]) for f in fields(Surrogate)}
        for tensor in fit.values():
            tensor[non_finite > 0] = torch.nan
        return Explanations(
            coefficients=fit["coefficients"],
            labels=flight.labels,
            predictions=flight.outputs[:, 0],
            local_predictions=fit["local_predictions"],
            intercepts=fit["intercepts"],
            scores=fit["scores"],
            segments=flight.parts.labels,
            counts=counts,
            segment_ids=flight.parts.ids,
            non_finite=non_finite,
            images=flight.pictures,
        )

    def _fit(self, flight: _Flight, outputs: Tensor, index: Tensor) -> Surrogate:
        counts, k = flight.parts.counts[index], flight.parts.ids.shape[1]
        moments = Moments(counts, k, outputs[index, 0])
        for rows in torch.arange(self.n_samples, device=index.device).split(max(1, MASK_ENTRIES // (k * len(index)))):
            masks = self.draw(flight, index[:, None], rows)
            moments.add(masks, outputs[index[:, None], rows], proximity(masks, counts, self.settings))
        return moments.solve(self.settings)


@dataclass
class _Flight:
    """Images on their way through the queue.

    Its places are (image, sample) pairs: sample 0 of every image, then the rest, image by image.
    """

    images: Tensor
    fill: Tensor
    parts: Segments
    keys: Tensor
    wanted: Tensor | None
    top: bool
    pictures: Tensor
    n_samples: int
    taken: int = 0
    first: list[Tensor] = field(default_factory=list)
    drawn: tuple[int, int, Tensor] | None = None
    labels: Tensor = field(init=False)
    outputs: Tensor = field(init=False)

    @property
    def n(self) -> int:
        return len(self.images)

    @property
    def size(self) -> int:
        return self.n * self.n_samples

    def pairs(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Image and sample of the places ``start`` to ``stop``, two (stop - start,) int64 tensors."""
        place = torch.arange(start, stop, device=self.keys.device)
        rest = place - self.n
        others = self.n_samples - 1
        return place.where(rest < 0, rest // others), (1 + rest % others).where(rest >= 0, 0)

    def window(self, start: int, stop: int, draw: Callable[[_Flight, Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Image (b,) and mask (b, k) of the places; masks are drawn for many places at a time."""
        index, _ = self.pairs(start, stop)
        if self.drawn is None or not self.drawn[0] <= start <= stop <= self.drawn[1]:
            ahead = min(self.size, max(stop, start + MASK_ENTRIES // (16 * self.parts.ids.shape[1])))
            self.drawn = (start, ahead, draw(self, *self.pairs(start, ahead)))
        offset = self.drawn[0]
        return index, self.drawn[2][start - offset : stop - offset]

    def receive(self, start: int, outputs: Tensor, choose_labels: Callable[[_Flight, Tensor], Tensor]) -> None:
        """Keep what is wanted of the outputs (b, classes) of the places from ``start`` on."""
        stop = start + len(outputs)
        whole = outputs[: max(0, self.n - start)]
        if len(whole):
            self.first.append(whole)
            if stop >= self.n:
                first = torch.cat(self.first)
                self.labels = choose_labels(self, first)
                self.outputs = first.new_empty(self.n, self.n_samples, self.labels.shape[1])
                self.outputs[:, 0] = first.gather(1, self.labels)
                self.first = []
        if stop > self.n:
            index, rows = self.pairs(max(start, self.n), stop)
            self.outputs[index, rows] = outputs[len(whole) :].gather(1, self.labels[index])


class _Queue:
    """Rows of all flights, one behind the other, passed to the model b at a time."""

    def __init__(self, explainer: Explainer, progress: Callable[[int], object] | None) -> None:
        self.explainer, self.progress = explainer, progress
        self.flights: deque[_Flight] = deque()

    def put(self, batch: Batch) -> Iterator[Explanations]:
        """Take in images; gives back what is finished by passing full model batches."""
        for flight in self.explainer.prepare(batch):
            if self.flights and self._kind(flight) != self._kind(self.flights[0]):
                yield from self.finish()
            self.flights.append(flight)
            yield from self._run(full=True)

    def finish(self) -> Iterator[Explanations]:
        """Pass what is left; the last model batch may be smaller."""
        yield from self._run(full=False)

    @staticmethod
    def _kind(flight: _Flight) -> tuple[tuple[int, ...], torch.dtype, torch.device]:
        return tuple(flight.images.shape[1:]), flight.images.dtype, flight.images.device

    def _run(self, full: bool) -> list[Explanations]:
        """Pass batches while there are rows for them, and solve the flights that are complete."""
        if not self.flights:
            return []
        explainer, kind, done = self.explainer, self._kind(self.flights[0]), []
        left = sum(flight.size - flight.taken for flight in self.flights)
        with explainer.predictor.inference(kind[2]):
            while left and (left >= (b := explainer.batch_size.get(*kind)) or not full):
                self._pass(min(b, left))
                left -= min(b, left)
                while self.flights and self.flights[0].taken == self.flights[0].size:
                    done.append(explainer.solve(self.flights.popleft()))
        return done

    def _pass(self, b: int) -> None:
        """One model batch."""
        explainer = self.explainer
        pieces = self._take(b)
        with explainer.batch_size.timed(b, *self._kind(self.flights[0])):
            rows = [explainer.rows(flight, start, stop) for flight, start, stop in pieces]
            outputs = explainer.predictor(rows[0] if len(rows) == 1 else torch.cat(rows))
        for (flight, start, stop), part in zip(pieces, outputs.split([p[2] - p[1] for p in pieces]), strict=True):
            flight.receive(start, part[: stop - start], explainer.choose_labels)
        if self.progress:
            self.progress(b)

    def _take(self, b: int) -> list[tuple[_Flight, int, int]]:
        """The next b places: (flight, start, stop), of as many flights as it needs."""
        pieces = []
        for flight in self.flights:
            start = flight.taken
            flight.taken = min(flight.size, start + b)
            pieces.append((flight, start, flight.taken))
            b -= flight.taken - start
            if not b:
                break
        return [piece for piece in pieces if piece[2] > piece[1]]
