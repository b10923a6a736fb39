"""``python -m benchmarks.segmenters``: on how many pixels our SLIC and quickshift give the id that scikit-image gives.

Masks depend on ids, so a label map is compared as it is. scikit-image runs here as a user runs it, its colours in Lab rounded
as NumPy rounds them on this processor.
"""

from __future__ import annotations

import argparse
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

from benchmarks.pictures import photographs
from benchmarks.rows import RESULTS, Placed, keep, results_file, where
from gpulime import segments
from gpulime.device import installed
from gpulime.images.segments import OPS, segment_one
from gpulime.ops import source
from gpulime.runs.reading.transform import Transform

SHIM = Path(__file__).parents[1] / "tests" / "ops"
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
    """How two label maps of one image agree.

    Attributes
    ----------
    same_k : whether they have as many segments
    ids : the part of pixels with the same id
    partition : the same after each segment has taken the id of the one it shares most with, in the worse direction
    """

    same_k: bool
    ids: float
    partition: float


@dataclass(frozen=True)
class Row(Placed):
    """One segmenter on one side, over all photographs; ids and partition as parts of the pixels of an image."""

    segmenter: str
    side: str
    photographs: str
    n: str
    same_k: str
    ids_everywhere: str  # images
    ids_median: str
    ids_worst: str
    partition_median: str
    partition_worst: str
    ok: str
    scikit_image: str
    numpy: str


def agreement(ours: Array, theirs: Array) -> Agreement:
    """Compare two (h, w) label maps with ids from 0."""
    k, l = int(ours.max()) + 1, int(theirs.max()) + 1
    shared = np.bincount((ours * l + theirs).ravel(), minlength=k * l).reshape(k, l)
    partition = min(shared.max(1).sum(), shared.max(0).sum()) / ours.size
    return Agreement(k == l, float((ours == theirs).mean()), float(partition))


def compare(segmenter: segments.Slic | segments.Quickshift, segment: Segment, images: Sequence[Tensor]) -> list[Agreement]:
    """Segment each (3, h, w) image by itself, and as scikit-image does."""
    found = []
    for image in images:
        theirs = segment_one(segmenter, image.permute(1, 2, 0).contiguous().numpy())
        found.append(agreement(segment(image[None])[0].cpu().numpy().astype(np.int64), theirs))
    return found


def sides(segmenter: segments.Slic | segments.Quickshift) -> Iterator[tuple[str, Segment]]:
    """The reference here, and the kernel: on a GPU, or under the host shim of the tests."""
    op, options = OPS[type(segmenter)], asdict(segmenter)
    reference = getattr(importlib.import_module(op.__module__), f"{op.__name__}_reference")
    yield "reference", lambda images: reference(images, **options)
    if torch.cuda.is_available():
        yield f"kernel, {torch.cuda.get_device_name()}", lambda images: op(images.cuda(), **options)
    else:
        yield "kernel, host shim", lambda images: under_shim(lambda: op(images, **options))


def under_shim(call: Callable[[], Tensor]) -> Tensor:
    """What a call gives whose kernels g++ compiles for the CPU."""
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
    """A segmenter's name, with those of its options that are not the default."""
    name = next(name for name, kind in segments.SEGMENTERS.items() if isinstance(segmenter, kind))
    plain = asdict(type(segmenter)())
    chosen = ", ".join(f"{option}={value}" for option, value in asdict(segmenter).items() if value != plain[option])
    return f"{name}({chosen})" if chosen else name


def summary(segmenter: segments.Slic | segments.Quickshift, side: str, of: str, found: Sequence[Agreement]) -> Row:
    """One row of many images' agreement, with what was measured where."""
    ids, partitions = [a.ids for a in found], [a.partition for a in found]
    same_k = sum(a.same_k for a in found) / len(found)
    return Row(
        named(segmenter),
        side,
        of,
        str(len(found)),
        f"{same_k:.3f}",
        str(sum(share == 1 for share in ids)),
        f"{median(ids):.5f}",
        f"{min(ids):.5f}",
        f"{median(partitions):.5f}",
        f"{min(partitions):.5f}",
        "yes" if same_k >= LEAST_SAME_K and median(ids) >= LEAST_IDS else "no",
        installed("scikit-image") or "",
        np.__version__,
        **where(),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code is 1 where too few images or pixels agree."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.segmenters", description=__doc__)
    parser.add_argument("--photographs", type=Path, metavar="DIR", help="in place of scikit-image's own")
    parser.add_argument("--only", nargs="+", choices=["slic", "quickshift"], default=["slic", "quickshift"])
    parser.add_argument("--save", action="store_true", help="keep the rows in benchmarks/results/segmenters/<device>.csv")
    options = parser.parse_args(argv)

    images, of = pictures(options.photographs), options.photographs.name if options.photographs else "scikit-image"
    rows = []
    for segmenter in MEASURED:
        name = named(segmenter)
        if name.split("(")[0] not in options.only:
            continue
        for side, segment in sides(segmenter):
            row = summary(segmenter, side, of, compare(segmenter, segment, images))
            rows.append(row)
            print(
                f"{name}, {side}, {row.n} photographs of {of}: k the same on {row.same_k}, every id on {row.ids_everywhere}; "
                f"ids {row.ids_median} (worst {row.ids_worst}), partition {row.partition_median} (worst {row.partition_worst})"
                f"{'' if row.ok == 'yes' else ': TOO FEW'}",
                flush=True,
            )
    if options.save:
        save(rows)
    return int(any(row.ok == "no" for row in rows))


def save(rows: Sequence[Row]) -> None:
    """Put rows in the place of earlier ones of the same segmenter, photographs and side."""
    keep(RESULTS / "segmenters" / results_file(rows[0].device).name, rows, key)


def key(row: Row) -> tuple[str, str, str]:
    """What a row is about."""
    return row.segmenter, row.photographs, row.side


if __name__ == "__main__":
    sys.exit(main())
