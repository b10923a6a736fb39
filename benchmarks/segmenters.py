"""``python -m benchmarks.segmenters``: the share of pixels to which our SLIC and quickshift give scikit-image's id.

Masks depend on ids, so label maps are compared as they are. scikit-image runs as users run it, with colours in Lab rounded as
NumPy rounds them on this processor.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.rows import HERE, columns, parser, save, where, yes
from benchmarks.setups import photographs
from gpulime import segments
from gpulime.device import installed
from gpulime.images.segments import OPS, segment_one
from gpulime.ops import source
from gpulime.runs.reading.transform import Transform

SHIM = HERE.parent / "tests" / "ops"
MEASURED: tuple[segments.Slic | segments.Quickshift, ...] = (
    segments.Slic(),
    segments.Slic(n_segments=60),
    segments.Slic(n_segments=256),
    segments.Quickshift(),
)
LEAST_SAME_K = 0.95  # of images
LEAST_IDS = 0.999  # of pixels, in the median image

Array = np.ndarray[tuple[int, int], np.dtype[np.int64]]
Segment = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Agreement:
    """The agreement of two label maps of one image."""

    same_k: bool  # as many segments
    ids: float  # the share of pixels with the same id
    partition: float  # the same, if each segment takes the id of the one it shares most with, in the worse direction


COLUMNS = (
    "segmenter side photographs n same_k ids_everywhere ids_median ids_worst partition_median partition_worst ok "
    "scikit_image numpy"
)


class Row(columns(COLUMNS)):
    """One segmenter on one side, over all photographs; ids and partition are shares of an image's pixels."""

    FOLDER, KEY = "segmenters", ("segmenter", "photographs", "side")

    def __str__(self) -> str:
        return (
            f"{self.segmenter}, {self.side}, {self.n} photographs of {self.photographs}: k the same on {self.same_k}, "
            f"every id on {self.ids_everywhere}; ids {self.ids_median} (worst {self.ids_worst}), "
            f"partition {self.partition_median} (worst {self.partition_worst}){'' if self.ok == 'yes' else ': TOO FEW'}"
        )


def agreement(ours: Array, theirs: Array) -> Agreement:
    """Compare two (h, w) label maps with ids from 0."""
    k, l = int(ours.max()) + 1, int(theirs.max()) + 1
    shared = np.bincount((ours * l + theirs).ravel(), minlength=k * l).reshape(k, l)
    partition = min(shared.max(1).sum(), shared.max(0).sum()) / ours.size
    return Agreement(k == l, float((ours == theirs).mean()), float(partition))


def compare(segmenter: segments.Slic | segments.Quickshift, segment: Segment, images: Sequence[Tensor]) -> list[Agreement]:
    """Segment each (3, h, w) image alone, and as scikit-image does."""
    found = []
    for image in images:
        theirs = segment_one(segmenter, image.permute(1, 2, 0).contiguous().numpy())
        found.append(agreement(segment(image[None])[0].cpu().numpy().astype(np.int64), theirs))
    return found


def sides(segmenter: segments.Slic | segments.Quickshift) -> Iterator[tuple[str, Segment]]:
    """The reference, and the kernel: on a GPU, or under the host shim of the tests."""
    op, options = OPS[type(segmenter)], asdict(segmenter)
    reference = getattr(importlib.import_module(op.__module__), f"{op.__name__}_reference")
    yield "reference", lambda images: reference(images, **options)
    if torch.cuda.is_available():
        yield f"kernel, {torch.cuda.get_device_name()}", lambda images: op(images.cuda(), **options)
    else:
        yield "kernel, host shim", lambda images: under_shim(lambda: op(images, **options))


def under_shim(call: Callable[[], Tensor]) -> Tensor:
    """The result of a call whose kernels g++ compiles for the CPU."""
    if str(SHIM) not in sys.path:
        sys.path.insert(0, str(SHIM))
    shim = importlib.import_module("host")
    compiled = mock.patch.object(source, "compiled", lambda wanted, device: shim.Library(wanted))
    with compiled, mock.patch.object(source, "available", return_value=True):
        return call()


def pictures(folder: Path | None) -> list[Tensor]:
    """(3, 224, 224) float32 in [0, 1]: the photographs of a folder, or scikit-image's own."""
    if folder is None:
        return list(photographs())
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in (".jpeg", ".jpg", ".png"))
    transform = Transform(resize=256, crop=224)
    arrays = [transform(Image.open(path).convert("RGB")) for path in files]
    return [torch.from_numpy(array).permute(2, 0, 1).float() / 255 for array in arrays]


def named(segmenter: segments.Slic | segments.Quickshift) -> str:
    """A segmenter's name, with its options that are not the default."""
    name = next(name for name, kind in segments.SEGMENTERS.items() if isinstance(segmenter, kind))
    plain = asdict(type(segmenter)())
    chosen = ", ".join(f"{option}={value}" for option, value in asdict(segmenter).items() if value != plain[option])
    return f"{name}({chosen})" if chosen else name


def summary(segmenter: segments.Slic | segments.Quickshift, side: str, of: str, found: Sequence[Agreement]) -> Row:
    """One row for the agreement on many images."""
    ids, partitions = [a.ids for a in found], [a.partition for a in found]
    same_k, everywhere = sum(a.same_k for a in found) / len(found), sum(share == 1 for share in ids)
    shares = [f"{pick(values):.5f}" for values in (ids, partitions) for pick in (median, min)]
    ok = yes(same_k >= LEAST_SAME_K and median(ids) >= LEAST_IDS)
    counts, versions = (str(len(found)), f"{same_k:.3f}", str(everywhere)), (installed("scikit-image") or "", np.__version__)
    return Row(named(segmenter), side, of, *counts, *shares, ok, *versions, **where())


def main(argv: Sequence[str] | None = None) -> int:
    """Return 1 if too few images or pixels agree."""
    made = parser("segmenters", __doc__, ("slic", "quickshift"))
    made.add_argument("--photographs", type=Path, metavar="DIR", help="instead of scikit-image's own")
    options = made.parse_args(argv)
    images, of = pictures(options.photographs), options.photographs.name if options.photographs else "scikit-image"
    rows = []
    for segmenter in MEASURED:
        if options.only and named(segmenter).split("(")[0] not in options.only:
            continue
        for side, segment in sides(segmenter):
            rows.append(summary(segmenter, side, of, compare(segmenter, segment, images)))
            print(rows[-1], flush=True)
    if options.save:
        save(rows)
    return int(any(row.ok == "no" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
