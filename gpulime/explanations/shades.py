"""Colours of an explanation: blue for a label, orange against it, with the opacity of the coefficient's size.

Functions take and return arrays. They need NumPy and Pillow, and `rgb` needs torch.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageColor, ImageDraw, ImageFont

from gpulime.errors import check, unknown

if TYPE_CHECKING:
    from gpulime.explanations.explanation import Explanation
    from gpulime.explanations.image import ImageExplanation

Array = np.ndarray[Any, np.dtype[Any]]
Picture = npt.NDArray[np.uint8]
Weighted = Sequence[tuple[int, float]]

# Blue and orange stay apart for every common kind of colour blindness, on photographs and on either theme.
FOR = "#2b7fff"
AGAINST = "#ff7a1a"
DEEPEST = 0.75  # opacity of the strongest segment, in [0, 1]
LIGHTER = 0.2  # how much white veils the gray picture below the colours
OUTLINE = 0.43  # opacity of the white lines between segments

INTERVAL = 1.96  # standard errors on each side of a coefficient: its 95 % interval
FADED = 0.5  # of its opacity keeps a colour whose sign is not certain
HATCHED = "hatched: the sign is not certain at 95 %"
STRIPES = 1 / 32  # of a picture's longer side, from one stripe of a hatching to the next
STRIPE = 0.3  # opacity of a stripe

FIGURES = 3  # of the largest coefficient of a scale; all others have the same decimals, to be compared at a glance
MOST_DECIMALS = 12  # a value that prints as 0 is rounding noise: it has no colour, number or rank


def score(one: Explanation | ImageExplanation, label: int) -> str:
    """Text of a label's R2: left out if known, else fitted; empty if it has neither."""
    found = {"R² left out": one.scores_loo, "R² fitted": one.scores}
    known = ((name, float(scores.get(label, np.nan))) for name, scores in found.items())
    return next((f"{name} {value:.2f}".replace("-", "\N{MINUS SIGN}") for name, value in known if np.isfinite(value)), "")


def labels_of(one: Explanation | ImageExplanation) -> list[int]:
    """The explained labels; labels of ``top_labels`` come first, in their order."""
    top = [label for label in getattr(one, "top_labels", None) or () if label in one.local_exp]
    return [int(label) for label in top or one.local_exp]


def chosen(one: Explanation | ImageExplanation, label: int | None) -> int:
    """``label``, or the first explained label.

    Raises
    ------
    GpulimeError
        If the label was not explained.
    """
    labels = labels_of(one)
    if label is not None and label not in labels:
        raise unknown("label", label, map(str, labels))
    check(bool(labels), "the explanation holds no label")
    return labels[0] if label is None else labels[labels.index(label)]  # an int, if a tensor or an array equals one


def strongest(weights: Weighted, most: int) -> list[tuple[int, float]]:
    """The ``most`` largest coefficients, without noise and non-finite ones, as (segment id, coefficient)."""
    kept = [(int(segment), float(w)) for segment, w in weights if math.isfinite(w) and round(float(w), MOST_DECIMALS) != 0]
    return sorted(kept, key=lambda pair: -abs(pair[1]))[: max(0, most)]


def scale(weights: Weighted) -> float:
    """The largest size of a coefficient, which gets the deepest colour; 1 if there is none."""
    return max((abs(w) for _, w in strongest(weights, 1)), default=1.0)


def errors(one: Explanation | ImageExplanation, label: int) -> dict[int, float]:
    """Part -> standard error, of a label's coefficients; empty if one of them is not known."""
    found = one.standard_errors.get(label, {})
    known = {int(part): float(found.get(part, math.nan)) for part, _ in one.local_exp[label]}
    return known if all(map(math.isfinite, known.values())) else {}


def unsure(weights: Weighted, of: Mapping[int, float]) -> list[int]:
    """Segments with a colour whose 95 % interval holds 0, by their standard errors; none if these are not known."""
    return [segment for segment, w in strongest(weights, len(weights)) if abs(w) < INTERVAL * of.get(segment, 0.0)]


def stripes(shape: tuple[int, ...]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """The white stripes of a hatching, and the dark ones beside them, to be seen on any ground: (h, w) each."""
    period = max(6, round(STRIPES * max(shape[:2])))
    width = max(1, period // 6)
    phase = np.add.outer(np.arange(shape[0]), np.arange(shape[1])) % period
    return phase < width, (phase >= width) & (phase < 2 * width)


def heat(segments: Array, weights: Weighted) -> npt.NDArray[np.float64]:
    """Each pixel's coefficient, (h, w) float64; missing segments and non-finite coefficients count as 0."""
    of = dict(strongest(weights, len(weights)))
    ids, inverse = np.unique(segments, return_inverse=True)
    return np.array([of.get(int(segment), 0.0) for segment in ids])[inverse].reshape(segments.shape)


def rgb(image: Array) -> Picture:
    """Any image (h, w) or (h, w, c) as a picture: (h, w, 3) uint8.

    Whole numbers in [0, 255], floats in [0, 1] or in [0, 255] as they are; any other range from its least to its largest value.
    One or two channels are shown gray, by their mean; of three or four the first three are shown. Of more channels the first
    three are shown, each from its 2nd to its 98th percentile. Deep images that use little of their range get a window
    (`gpulime.explanations.window`).
    """
    import torch

    from gpulime.explanations.window import MOST_PLAIN, bounds, stretched, windowed

    values = np.nan_to_num(np.atleast_3d(image).astype(np.float64), posinf=0, neginf=0)
    low, high = values.min(initial=0), values.max(initial=0)
    unit = np.issubdtype(image.dtype, np.floating) or image.dtype == bool
    rounding = 1e-3
    if unit and low >= -rounding and high <= 1 + rounding:
        values = 255 * values
    elif low < 0 or high > 255:
        values = 255 * (values - values.min()) / max(np.ptp(values), 1e-300)
    three = values[..., :3] if values.shape[2] >= 3 else values.mean(2, keepdims=True).repeat(3, 2)
    pictures = torch.from_numpy(three.clip(0, 255) / 255).permute(2, 0, 1)
    shown = windowed(pictures, *bounds(pictures)) if values.shape[2] > MOST_PLAIN else stretched(pictures[None])[0]
    picture: Picture = np.rint(255 * shown.permute(1, 2, 0).numpy()).astype(np.uint8)
    return picture


def blank(shape: tuple[int, ...]) -> Picture:
    """A gray placeholder for a missing picture: (h, w, 3) uint8."""
    return np.full((*shape, 3), 138, np.uint8)


def blend(picture: Picture, segments: Array, heatmap: Array, largest: float, hatched: Iterable[int] = ()) -> Picture:
    """The colours of an explanation on its picture in gray, with thin outlines of the segments: (h, w, 3) uint8.

    ``heatmap`` is (h, w) and finite; the coefficient ``largest``, which is positive, gets the deepest colour. Segments of
    ``hatched`` are hatched and faded.
    """
    gray = (picture @ np.array([0.299, 0.587, 0.114]))[..., None]
    ground = gray + LIGHTER * (255 - gray)
    hue = np.where(heatmap[..., None] > 0, ImageColor.getrgb(FOR), ImageColor.getrgb(AGAINST))
    faded = np.isin(segments, list(hatched))[..., None]
    depth = DEEPEST * np.minimum(np.abs(heatmap) / largest, 1)[..., None] * np.where(faded, FADED, 1)
    colours = ground + depth * (hue - ground)
    white, dark = (faded & lines[..., None] for lines in stripes(segments.shape))
    colours += STRIPE * (white * (255 - colours) - dark * colours)
    edge = OUTLINE * outlines(segments)[..., None]
    blended: Picture = np.rint(colours + edge * (255 - colours)).astype(np.uint8)
    return blended


def transparent(segments: Array, heatmap: Array, largest: float, hatched: Iterable[int] = ()) -> Picture:
    """The colours of an explanation alone, to lay over any picture: (h, w, 4) uint8, with the coefficient's size as opacity.

    Arguments are those of `blend`.
    """
    faded = np.isin(segments, list(hatched))
    depth = DEEPEST * np.minimum(np.abs(heatmap) / largest, 1) * np.where(faded, FADED, 1)
    hue = np.where(heatmap[..., None] > 0, ImageColor.getrgb(FOR), ImageColor.getrgb(AGAINST))
    white, dark = (faded & lines for lines in stripes(segments.shape))
    edge = outlines(segments)
    alpha = np.where(edge, np.maximum(depth, OUTLINE), np.where(white | dark, np.maximum(depth, STRIPE), depth))
    hue = np.where((edge | white)[..., None], 255, np.where(dark[..., None], 0, hue))
    colours: Picture = np.dstack([hue, np.rint(255 * alpha)]).astype(np.uint8)
    return colours


def outlines(segments: Array) -> npt.NDArray[np.bool_]:
    """True on the last pixel before another segment begins, to the right or below: (h, w)."""
    edge = np.zeros(segments.shape, dtype=bool)
    edge[:, :-1] |= segments[:, :-1] != segments[:, 1:]
    edge[:-1] |= segments[:-1] != segments[1:]
    return edge


def centre(segments: Array, segment: int) -> tuple[float, float]:
    """The pixel of a segment nearest to its middle, as (across, down) in pixels."""
    down, across = np.divmod(np.flatnonzero(segments == segment), segments.shape[1])
    nearest = (np.square(down - down.mean()) + np.square(across - across.mean())).argmin()
    return float(across[nearest]), float(down[nearest])


def numbered(picture: Picture, segments: Array, ids: Iterable[int]) -> Picture:
    """A picture with the ids of some segments at their middles, the most important first; overlapping ids are left out."""
    image = Image.fromarray(picture)
    draw, font = ImageDraw.Draw(image, "RGBA"), ImageFont.load_default()
    drawn: list[tuple[float, float, float, float]] = []
    for segment in ids:
        if not (segments == segment).any():  # too small for a picture of this size
            continue
        x, y = centre(segments, segment)
        left, top, right, bottom = draw.textbbox((0, 0), str(segment), font=font)
        across, down = (right - left) / 2 + 3, (bottom - top) / 2 + 2
        x = min(max(x, across), max(picture.shape[1] - 1 - across, across))
        y = min(max(y, down), max(picture.shape[0] - 1 - down, down))
        box = (x - across, y - down, x + across, y + down)
        if any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in drawn):
            continue
        drawn.append(box)
        draw.rounded_rectangle(box, radius=4, fill=(0, 0, 0, 158))
        draw.text((x - (left + right) / 2, y - (top + bottom) / 2), str(segment), fill="white", font=font)
    return np.array(image)


def resized(arrays: Iterable[Array], least: int, most: int) -> list[Array]:
    """Pictures and maps of one size with the longer side brought into [least, most], by nearest neighbours."""
    arrays = list(arrays)
    h, w = arrays[0].shape[:2]
    side = min(max(h, w, least), most)
    rows, columns = (np.arange(n) * length // n for length, n in ((n, max(1, round(n * side / max(h, w)))) for n in (h, w)))
    return [array.take(columns, 1).take(rows, 0) for array in arrays]


def uri(picture: Picture | Image.Image, kind: str = "JPEG", quality: int = 85) -> str:
    """A picture as a data URI, "JPEG" or "PNG"."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    file = io.BytesIO()
    # A compress_level of 8 takes three times as long for 4 % less.
    image.save(file, kind, quality=quality, optimize=kind == "JPEG", compress_level=6)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def signed(value: float, largest: float) -> str:
    """A coefficient with a true minus sign and the decimals of its scale."""
    return f"{value:+.{decimals(largest)}f}".replace("-", "\N{MINUS SIGN}")


def decimals(largest: float) -> int:
    """The decimals of all coefficients of a scale: `FIGURES` figures of the largest, `MOST_DECIMALS` at most."""
    return min(max(0, FIGURES - 1 - math.floor(math.log10(largest))), MOST_DECIMALS) if largest else 0
