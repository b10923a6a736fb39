"""Files that decode, files that must not, and no invented pixels."""

from __future__ import annotations

import hashlib
import os
import signal
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile
from torchvision.datasets.folder import default_loader

from gpulime.runs.progress import signals
from gpulime.runs.reading.decode import decode
from gpulime.runs.reading.pixels import DecodeError, NonFiniteError, TooLargeError
from gpulime.runs.reading.transform import Transform


def read(path, max_megapixels=50.0, max_megabytes=1000.0, exif="ignore"):
    return decode(os.fsencode(path), max_megapixels=max_megapixels, max_megabytes=max_megabytes, exif=exif)


def pixels(path, channels=None, **settings):
    return Transform(channels=channels)(read(path, **settings).picture)


@pytest.fixture
def photograph():
    """An RGB picture of 60 x 40 pixels with structure everywhere."""
    y, x = np.mgrid[:40, :60]
    noise = np.random.default_rng(0).integers(0, 60, (40, 60, 3))
    array = np.stack([3 * x, 5 * y, 255 - 2 * x - 3 * y], axis=-1).clip(0, 195) + noise
    return Image.fromarray(array.astype(np.uint8))


@pytest.fixture
def save(tmp_path, photograph):
    def to_file(name, picture=None, **settings):
        path = tmp_path / name
        (photograph if picture is None else picture).save(path, **settings)
        return path

    return to_file


def test_decoded_is_the_picture_with_the_digest_of_the_file(save, photograph):
    path = save("a.png")
    decoded = read(path)
    assert (decoded.size, decoded.turned) == ((60, 40), False)
    assert np.array_equal(decoded.picture, photograph)
    assert decoded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


CUT = [
    ("a.jpg", {}),
    ("a.jpg", {"progressive": True}),
    ("a.png", {}),
    ("a.webp", {}),
    ("a.bmp", {}),
    ("a.ppm", {}),
    ("a.tif", {}),
    ("a.gif", {}),
]


@pytest.mark.parametrize("lenient", [False, True], ids=["strict", "LOAD_TRUNCATED_IMAGES"])
@pytest.mark.parametrize(("name", "settings"), CUT)
def test_a_file_cut_short_is_an_error(save, monkeypatch, name, settings, lenient):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)  # as much training code does
    path = save(name, **settings)
    whole = path.read_bytes()
    assert pixels(path).shape == (40, 60, 3)
    for length in (len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:length])
        with pytest.raises(DecodeError) as caught:
            read(path)
        assert caught.value.kind == "decode"


def test_an_array_cut_short_is_an_error(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((4, 4, 3), np.uint8))
    whole = path.read_bytes()
    for length in (0, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:length])
        with pytest.raises(DecodeError, match="cannot be decoded"):
            read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><title>404</title>", r"it starts with b'<!DOCTYPE html>"),
        (b"\xff\xd8\xff\xe0" + bytes(20), "is not an image|cannot be decoded"),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "is not an image|cannot be decoded"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "is not an image of a known kind"),
    ],
    ids=["empty", "html", "jpeg header", "png header", "postscript"],
)
def test_what_is_not_an_image_is_an_error(tmp_path, content, message):
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(DecodeError, match=message):
        read(path)


def test_a_damaged_png_is_an_error(save):
    path = save("a.png")
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DecodeError):
        read(path)


def test_missing_and_special_files_are_errors(tmp_path):
    with pytest.raises(DecodeError, match="there is no such file"):
        read(tmp_path / "a.jpg")
    with pytest.raises(DecodeError, match="is not a regular file"):
        read(tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(DecodeError, match="is not a regular file"):
        read(tmp_path / "pipe.jpg")


def _bomb(side):
    """A one-bit PNG of side x side black pixels, without holding them in memory."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packer, row = zlib.compressobj(9), bytes(1 + side // 8)
    data = b"".join([*(packer.compress(row) for _ in range(side)), packer.flush()])
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_a_bomb_is_refused_by_its_header(tmp_path):
    path, limit = tmp_path / "a.png", Image.MAX_IMAGE_PIXELS
    path.write_bytes(_bomb(20000))
    assert path.stat().st_size < 60_000
    with pytest.raises(TooLargeError) as caught:
        read(path)
    assert caught.value.kind == "too_large"
    assert str(caught.value) == "has 20000 x 20000 pixels, 400.0 megapixels; data.max_megapixels allows 50"
    assert limit == Image.MAX_IMAGE_PIXELS


def test_the_limit_is_the_runs_own_not_pillows(save, monkeypatch):
    path = save("a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # 2400 pixels would be an error of Pillow's, 15 a warning
    assert pixels(path).shape == (40, 60, 3)
    assert Image.MAX_IMAGE_PIXELS == 10
    with pytest.raises(TooLargeError, match=r"60 x 40 pixels, 0\.0 megapixels; data\.max_megapixels allows 0\.002"):
        read(path, max_megapixels=0.002)


def test_a_large_array_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((30, 40, 3), np.uint8))
    with pytest.raises(TooLargeError, match="40 x 30"):
        read(path, max_megapixels=0.001)


def test_exif_rotation_is_ignored_as_imagefolder_does_or_applied(save):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the stored picture must be turned by 90 degrees, clockwise
    path = save("a.jpg", exif=exif)
    stored = np.asarray(default_loader(str(path)))
    assert stored.shape == (40, 60, 3)
    assert np.array_equal(pixels(path), stored)
    assert np.array_equal(pixels(path, exif="apply"), np.rot90(stored, -1))
    assert (read(path).turned, read(path, exif="apply").turned, read(save("b.jpg")).turned) == (True, False, False)


def test_damaged_tags_are_no_damage_to_the_pixels(save, monkeypatch):
    path = save("a.jpg")

    def broken(self):
        raise struct.error("unpack requires a buffer of 8 bytes")

    monkeypatch.setattr(Image.Image, "getexif", broken)
    assert (read(path).turned, pixels(path).shape) == (False, (40, 60, 3))


def test_colours_of_16_bits_are_known_to_be_cut(tmp_path, save):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    lines = b"\0" + bytes(range(12))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b""))
    assert (read(path).cut, pixels(path).tolist()) == (True, [[[0, 2, 4], [6, 8, 10]]])
    deep = Image.fromarray(np.zeros((4, 4), np.uint16))
    assert not any(read(save(f"b{ending}", picture)).cut for ending in (".png", ".tif") for picture in (None, deep))


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_deep_gray_is_scaled_not_clipped(save, name):
    values = np.linspace(0, 65535, 60 * 40).astype(np.uint16).reshape(40, 60)
    path = save(name, Image.fromarray(values))
    expected = (values.astype(np.float32) / 65535)[..., None]
    assert len(np.unique(expected)) == 2400
    np.testing.assert_array_equal(pixels(path, channels=1), expected)
    np.testing.assert_array_equal(pixels(path), np.repeat(expected, 3, axis=-1))


def test_values_without_a_known_range_are_refused(save):
    unit = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
    np.testing.assert_array_equal(pixels(save("a.tif", Image.fromarray(unit)), channels=1)[..., 0], unit)
    with pytest.raises(DecodeError, match=r"floating-point values from 0 to 255; they must lie in 0\.\.1"):
        pixels(save("a.tif", Image.fromarray(255 * unit)))
    with pytest.raises(DecodeError, match="from 0 to 70000; 16 bits end at 65535"):
        pixels(save("b.tif", Image.fromarray(np.array([[0, 70000]], np.int32))))


@pytest.mark.parametrize(
    ("mode", "name", "settings"),
    [
        ("1", "a.png", {}),
        ("L", "a.png", {}),
        ("L", "a.png", {"transparency": 7}),
        ("LA", "a.png", {}),
        ("P", "a.png", {}),
        ("P", "a.png", {"transparency": 3}),
        ("P", "a.png", {"transparency": bytes(range(256))}),
        ("RGB", "a.png", {"transparency": (1, 2, 3)}),
        ("RGBA", "a.png", {}),
        ("RGBA", "a.tif", {}),
        ("RGBA", "a.webp", {"lossless": True, "exact": True}),
        ("CMYK", "a.jpg", {}),
        ("CMYK", "a.tif", {}),
        ("YCbCr", "a.jpg", {}),
    ],
)
def test_all_modes_become_the_rgb_of_imagefolder(save, photograph, mode, name, settings):
    picture = photograph.convert(mode)
    if mode.endswith("A"):
        picture.putalpha(Image.fromarray(np.arange(2400, dtype=np.uint8).reshape(40, 60)))
    path = save(name, picture, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of transparency that it drops
        expected = np.asarray(default_loader(str(path)))
    assert np.array_equal(pixels(path), expected)


def test_alpha_is_dropped_not_blended(save):
    path = save("a.png", Image.new("RGBA", (2, 2), (10, 20, 30, 0)))
    assert np.array_equal(pixels(path), np.broadcast_to([10, 20, 30], (2, 2, 3)))


def test_of_an_animation_the_first_frame_is_taken(save):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    path = save("a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert np.array_equal(pixels(path), np.broadcast_to([255, 0, 0], (8, 8, 3)))


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7, 13), (5, 7, 1), (5, 7, 2)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64, ">u2"])
def test_arrays_are_read_with_all_their_bands_and_levels(tmp_path, dtype, shape):
    most = {"u": 255 if dtype == np.uint8 else 65535}.get(np.dtype(dtype).kind, 1)
    array = (np.random.default_rng(0).random(shape) * most).astype(dtype)
    path = tmp_path / "a.npy"
    np.save(path, array)
    expected = array if dtype == np.uint8 else array.astype(np.float32) / np.float32(most)
    np.testing.assert_array_equal(pixels(path), expected)
    assert pixels(path).dtype == (np.uint8 if dtype == np.uint8 else np.float32)
    assert read(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_array_without_channels_is_gray(tmp_path):
    np.save(tmp_path / "a.npy", np.full((5, 7), 9, np.uint8))
    assert np.array_equal(pixels(tmp_path / "a.npy"), np.full((5, 7, 1), 9))
    assert np.array_equal(pixels(tmp_path / "a.npy", channels=3), np.full((5, 7, 3), 9))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((1, 3, 5, 7), np.uint8), r"must hold an array \(h, w\) or .*; it holds uint8 \(1, 3, 5, 7\)"),
        (np.zeros((0, 0, 3), np.uint8), r"it holds uint8 \(0, 0, 3\)"),
        (np.zeros((5, 7), np.int64), r"it holds int64 \(5, 7\)"),
        (np.full((5, 7, 3), 9.5), r"from 9\.5 to 9\.5; they must lie in 0\.\.1"),
        (np.array([{}], dtype=object), "it holds object"),
    ],
)
def test_other_arrays_are_errors(tmp_path, array, message):
    path = tmp_path / "a.npy"
    np.save(path, array, allow_pickle=True)
    with pytest.raises(DecodeError, match=message):
        read(path)


def test_an_array_that_is_not_finite_is_an_error(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[0.5, np.nan]]))
    with pytest.raises(NonFiniteError, match="1 of its 2 values are NaN or infinite"):
        read(tmp_path / "a.npy")


def test_a_huge_file_is_refused_before_it_is_hashed(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    with path.open("wb") as file:
        file.truncate(60_000_000_000)  # sparse: it takes no room
    monkeypatch.setattr(hashlib, "sha256", lambda: 1 / 0)
    with pytest.raises(TooLargeError, match=r"has 60,000 megabytes; data\.max_megabytes allows 1000"):
        read(path)
    with pytest.raises(DecodeError, match="is not an image"):  # the header tells
        read(path, max_megabytes=1e6)


def test_a_run_that_is_asked_to_stop_stops_while_a_file_is_hashed(save):
    path = save("a.png")
    with signals.Stop() as asked:
        asked.signal = signal.SIGTERM
        with pytest.raises(signals.Stopped):
            read(path)
    assert read(path)
