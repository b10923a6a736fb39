"""One image file -> an RGB picture, or the reason why there is none; never another picture in its place."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from gpulime.errors import GpulimeError

# The formats behind torchvision's image endings, and GIF. Not all of Pillow's: its EPS reader starts Ghostscript.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
DEEP_GRAY = ("I;16", "I;16L", "I;16B", "I;16N", "I")

_header = threading.Lock()


class DecodeError(GpulimeError):
    """A file that is not a whole image; ``kind`` is the error_type of its row."""

    kind = "decode"


class TooLargeError(DecodeError):
    """An image with more pixels than the run allows."""

    kind = "too_large"


@dataclass(frozen=True)
class Decoded:
    """An RGB ``picture`` and the ``sha256`` of the file it came from."""

    picture: Image.Image
    sha256: str


def decode(path: bytes, *, max_megapixels: float, exif: str) -> Decoded:
    """Read one file.

    Transparency is dropped, not blended: an RGBA pixel keeps its colour. Gray of 16 bits is scaled to 8. Of an animation
    the first frame is taken.

    Parameters
    ----------
    path : bytes
        An image that Pillow reads as one of `FORMATS`, or a .npy file with a uint8 array (h, w, 3).
    max_megapixels : float
        The most that the header may announce.
    exif : {"ignore", "apply"}
        Whether the camera's rotation tag turns the picture; torchvision's ImageFolder ignores it.

    Raises
    ------
    DecodeError
        Where the file is missing, empty, damaged, cut short, or not an image.
    TooLargeError
        Where the image has more pixels than allowed; they are not decoded.
    """
    if not os.path.isfile(path):
        raise DecodeError("is not a regular file" if os.path.exists(path) else "there is no such file")
    try:
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            read = _read_array if path.lower().endswith(b".npy") else _read_image
            return Decoded(read(file, max_megapixels, exif), sha256)
    except (GpulimeError, MemoryError):
        raise
    except Image.DecompressionBombError as error:  # a frame or a tile larger than its image
        raise TooLargeError(str(error)) from error
    except Exception as error:  # decoders raise SyntaxError, struct.error, IndexError ... on damaged files
        raise DecodeError(f"cannot be decoded: {type(error).__name__}: {error}") from error


def _read_image(file: BinaryIO, max_megapixels: float, exif: str) -> Image.Image:
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # training code often sets it, and then the rest of a cut file is gray
    picture = _opened(file)
    _check_size(*picture.size, max_megapixels)
    if picture.format == "PNG":  # to decode one, Pillow does not ask for its end
        picture.verify()
        file.seek(0)
        picture = _opened(file)
    picture.load()
    if exif == "apply":
        picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F":
        raise DecodeError("holds floating-point pixels, whose range is not known; save it with 8 or 16 bits")
    if picture.mode in DEEP_GRAY:
        return Image.fromarray(_eight_bits(picture)).convert("RGB")
    picture.info.pop("transparency", None)  # Pillow would warn that it is dropped
    return picture.convert("RGB")


def _opened(file: BinaryIO) -> Image.Image:
    with _without_pillows_limit():
        try:
            return Image.open(file, formats=FORMATS)
        except UnidentifiedImageError as error:
            file.seek(0)
            start = file.read(16)
            content = f"starts with {start!r}" if start else "is empty"
            raise DecodeError(f"is not an image of a known kind ({', '.join(FORMATS)}): it {content}") from error


@contextmanager
def _without_pillows_limit() -> Iterator[None]:
    """Let a header be read whatever size it announces: the limit that holds is the run's own."""
    with _header:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _check_size(width: int, height: int, max_megapixels: float) -> None:
    megapixels = width * height / 1e6
    if megapixels > max_megapixels:
        raise TooLargeError(
            f"has {width} x {height} pixels, {megapixels:.1f} megapixels; data.max_megapixels allows {max_megapixels:g}"
        )


def _eight_bits(picture: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Gray of 16 bits, 0..65535, scaled to 0..255."""
    values = np.asarray(picture).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise DecodeError(f"has gray values from {values.min()} to {values.max()}; 16 bits end at 65535")
    return np.rint(values / 257).astype(np.uint8)


def _read_array(file: BinaryIO, max_megapixels: float, _exif: str) -> Image.Image:
    # Mapped, not read: its size is checked before it takes memory.
    array = np.load(os.fsdecode(file.name), mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        given = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise DecodeError(f"must hold a uint8 array (h, w, 3); it holds {given}")
    _check_size(array.shape[1], array.shape[0], max_megapixels)
    return Image.fromarray(np.array(array))
