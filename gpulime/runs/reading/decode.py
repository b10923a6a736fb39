"""Decode one image file to its picture, or fail with a reason; never return a different picture."""

from __future__ import annotations

import hashlib
import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from gpulime.errors import GpulimeError
from gpulime.runs.progress import signals
from gpulime.runs.reading.pixels import DEEP_GRAY, DEPTHS, Array, DecodeError, TooLargeError, check_unit

# The formats of torchvision's image extensions, and GIF. Not all of Pillow's, whose EPS reader starts Ghostscript.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
ROTATION, TURNS = 0x0112, range(2, 9)  # the EXIF tag, and its values for rotated pictures
MEGABYTE = 10**6
CHUNK = 1 << 20  # bytes that are hashed at a time
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}  # of .npy files

_header = threading.Lock()


@dataclass(frozen=True)
class Decoded:
    """A picture as the file holds it, and the file's digest."""

    picture: Image.Image | Array  # of any mode, or (h, w) or (h, w, c) of a .npy file
    sha256: str  # of the file, as hex digits
    turned: bool = False  # it has a rotation tag, which was ignored
    cut: bool = False  # its colours have 16 bits, of which Pillow reads 8

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return (self.picture.shape[1], self.picture.shape[0]) if isinstance(self.picture, np.ndarray) else self.picture.size


def decode(path: bytes, *, max_megapixels: float, max_megabytes: float, exif: str) -> Decoded:
    """Read one file: its header, then its digest, then its pixels. Of an animation the first frame is taken.

    It is an image that Pillow reads as one of `FORMATS`, or a .npy file with an array (h, w) or (h, w, c) of uint8, uint16, or
    floats in 0..1. The limits and ``exif`` are those of `DataConfig`.

    Raises
    ------
    DecodeError
        If the file is missing, empty, damaged, cut short, or not an image.
    TooLargeError
        If the file has more pixels or bytes than allowed; they are not read.
    """
    if not os.path.isfile(path):
        raise DecodeError("is not a regular file" if os.path.exists(path) else "there is no such file")
    try:
        with open(path, "rb") as file:
            _check_bytes(file, max_megabytes)
            read = _read_array if path.lower().endswith(b".npy") else _read_image
            return read(file, max_megapixels, exif)
    except (GpulimeError, MemoryError):
        raise
    except Image.DecompressionBombError as error:  # a frame or a tile larger than its image
        raise TooLargeError(str(error)) from error
    except Exception as error:  # decoders raise SyntaxError, struct.error, IndexError ... on damaged files
        raise DecodeError(f"cannot be decoded: {type(error).__name__}: {error}") from error


def digest(file: BinaryIO, heed: Callable[[], object] = signals.check) -> str:
    """The sha256 of a file from its start, as hex digits; ``heed`` is called often and may raise to stop."""
    found, place = hashlib.sha256(), file.tell()
    file.seek(0)
    while chunk := file.read(CHUNK):
        found.update(chunk)
        heed()
    file.seek(place)
    return found.hexdigest()


def _read_image(file: BinaryIO, max_megapixels: float, exif: str) -> Decoded:
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # training code often sets it, which fills truncated files with gray
    picture = _opened(file)
    _check_size(*picture.size, max_megapixels)
    sha256 = digest(file)
    if picture.format == "PNG":  # since Pillow decodes without checking the end
        picture.verify()
        file.seek(0)
        picture = _opened(file)
    cut = picture.mode not in (*DEEP_GRAY, "F") and any(";16" in str(tile) for tile in getattr(picture, "tile", ()))
    picture.load()
    if exif == "apply":
        return Decoded(ImageOps.exif_transpose(picture), sha256, cut=cut)
    return Decoded(picture, sha256, _turned(picture), cut)


def _turned(picture: Image.Image) -> bool:
    try:
        return picture.getexif().get(ROTATION, 1) in TURNS
    except Exception:  # damaged tags do not damage the pixels
        return False


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
    """Lift Pillow's limit of pixels; the run's own limit applies."""
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


def _check_bytes(file: BinaryIO, max_megabytes: float) -> None:
    megabytes = os.fstat(file.fileno()).st_size / MEGABYTE
    if megabytes > max_megabytes:
        raise TooLargeError(f"has {megabytes:,.0f} megabytes; data.max_megabytes allows {max_megabytes:g}")


def _read_array(file: BinaryIO, max_megapixels: float, _exif: str) -> Decoded:
    shape, _, dtype = HEADERS[np.lib.format.read_magic(file)](file)
    if dtype.type not in DEPTHS or len(shape) not in (2, 3) or 0 in shape:
        raise DecodeError(f"must hold an array (h, w) or (h, w, c) of uint8, uint16 or floats; it holds {dtype} {shape}")
    _check_size(shape[1], shape[0], max_megapixels)
    there, announced = os.fstat(file.fileno()).st_size - file.tell(), math.prod(shape) * dtype.itemsize
    if there < announced:
        raise DecodeError(f"cannot be decoded: it is cut short, {there} of {announced} bytes")
    sha256 = digest(file)
    file.seek(0)
    array = np.load(file, allow_pickle=False)  # read, not mapped: a mapped file that is truncated meanwhile crashes the process
    if array.dtype.kind == "f":
        check_unit(array)
    return Decoded(array, sha256)
