"""Masks that come with images become their segments; ids that are never hidden do not appear in rows."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from PIL import Image
from test_run import Tiny, rows_of

import gpulime
from gpulime import config as configs
from gpulime.errors import GpulimeError
from gpulime.runs import from_config
from gpulime.runs.progress import exits
from gpulime.runs.reading import sources
from gpulime.runs.reading.label_maps import MaskFolder
from gpulime.runs.reading.read import DatasetReader, FileReader
from gpulime.runs.reading.sources import Item
from gpulime.runs.reading.transform import Transform
from gpulime.runs.store import store, verify
from gpulime.runs.store.open_run import open_run

H, W, N = 24, 20, 4
MAP = np.arange(H * W).reshape(H, W) * 5 // (H * W) * 50  # ids 0, 50, 100, 150, 200


def images():
    return torch.rand(N, 3, H, W, generator=torch.Generator().manual_seed(1))


def run(dataset, out, **settings):
    settings = {"n_samples": 30, "segments": {"grid": {"rows": 2, "columns": 2}}, "report": False} | settings
    return gpulime.runs.explain(Tiny(), dataset, out, **settings)


def maps_of(out):
    return [store.decode_segments(row["seg"], row["seg_dtype"], row["h"], row["w"]) for row in rows_of(out).values()]


def read(example, masks=None):
    return DatasetReader([example], masks=masks)(Item("image 0", b"0"))


@pytest.mark.parametrize(
    "mask",
    [
        MAP,
        torch.from_numpy(MAP),
        torch.from_numpy(MAP)[None].to(torch.uint8),
        MAP.astype(">i4"),
        MAP[:, ::-1],
        Image.fromarray(MAP.astype(np.uint8)),
        Image.fromarray(MAP.astype(np.int32)),
        Image.fromarray(MAP.astype(np.uint16)),
        Image.fromarray(MAP.astype(np.uint8)).convert("P"),
        MAP > 50,
        Image.fromarray(MAP > 50),
        -MAP,
    ],
    ids=str,
)
@pytest.mark.parametrize("form", ["second", "third", "mask", "segments"])
def test_a_dataset_may_give_a_mask(form, mask):
    image = torch.rand(3, H, W)
    tuples = {"second": (image, mask, 1), "third": (image, 1, mask)}
    example = tuples.get(form, {"image": image, "label": 1, form: mask})
    found = read(example)
    assert (found.error, found.segmenter) == (None, "masks")
    assert np.array_equal(found.segments, np.asarray(mask).astype(np.int64).reshape(H, W))


@pytest.mark.parametrize(
    "third", [None, 5, "a caption", {"boxes": []}, torch.rand(H, W), [[1, 2]], torch.zeros(3, H, W).long()]
)
def test_other_third_items_are_no_masks(third):
    found = read((torch.rand(3, H, W), 1, third))
    assert (found.error, found.segments, found.segmenter) == (None, None, None)


@pytest.mark.parametrize("mask", [MAP.T, torch.zeros(H, W - 1, dtype=torch.int64), Image.new("L", (H, W))], ids=str)
def test_a_mask_of_another_size_is_an_error_that_names_both(mask):
    found = read((torch.rand(3, H, W), 1, mask))
    assert found.kind == "segments"
    h, w = np.asarray(mask).shape
    assert f"must have the image's size (h, w) = (24, 20); got ({h}, {w})" in found.error


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (lambda image_id: {}[image_id], "masks('image 0') failed: KeyError: 'image 0'"),
        (lambda image_id: None, "masks('image 0') is None"),
        (lambda image_id: torch.rand(H, W), "masks('image 0') must be integers (h, w) = (24, 20)"),
        (lambda image_id: MAP[:5], "must have the image's size (h, w) = (24, 20); got (5, 20)"),
    ],
)
def test_a_function_that_gives_no_mask_is_an_error_of_its_image(masks, message):
    found = read((torch.rand(3, H, W), 1), masks)
    assert (found.pixels, found.kind) == (None, "segments")
    assert message in found.error


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("segments", [{"grid": {"rows": 2, "columns": 2}}, {"slic": {"n_segments": 4}}], ids=str)
def test_masks_of_a_dataset_are_its_segments(segments, workers, tmp_path, capsys):
    dataset = [(image, 1, MAP + i) for i, image in enumerate(images())]
    run(dataset, tmp_path, workers=workers, segments=segments)
    assert [row["segmenter"] for row in rows_of(tmp_path).values()] == ["masks"] * N
    assert all(np.array_equal(found, MAP // 50) for found in maps_of(tmp_path))
    assert capsys.readouterr().err.count("the masks that come with the images are used as their segments") == 1
    expected = gpulime.Explainer(Tiny(), 30).explain(
        images(), segments=np.stack([MAP] * N), keys=torch.tensor([gpulime.key(str(i)) for i in range(N)])
    )
    coefficients = torch.tensor([row["coef"] for row in rows_of(tmp_path).values()])
    torch.testing.assert_close(coefficients, expected.coefficients.float(), rtol=1e-4, atol=1e-7)


def test_an_image_without_a_mask_beside_others_is_segmented(tmp_path):
    dataset = [(image, 1, MAP) if i % 2 else (image, 1) for i, image in enumerate(images())]
    run(dataset, tmp_path)
    assert [(row["segmenter"] == "masks", row["n_segments"]) for row in rows_of(tmp_path).values()] == [
        (False, 4),
        (True, 5),
    ] * 2


def by_name(image_id):
    return MAP // 50 % (int(image_id) + 2)


def test_masks_by_the_ids_of_images(tmp_path):
    run([(image, 1, MAP) for image in images()], tmp_path, masks=by_name)
    for i, found in enumerate(maps_of(tmp_path)):
        assert np.array_equal(found, by_name(i))
    with pytest.raises(GpulimeError, match=r"data\.masks was '.*by_name.*', is not set"):
        run([(image, 1, MAP) for image in images()], tmp_path)


def test_which_function_gives_masks_must_be_named_on_a_rerun(tmp_path):
    run(images(), tmp_path, masks=lambda image_id: MAP)
    with pytest.raises(GpulimeError, match="give a model_id"):
        run(images(), tmp_path, masks=lambda image_id: MAP)


def test_kept_ids_are_no_part_of_the_rows(tmp_path):
    bordered = np.where(MAP == 100, -1, MAP)
    dataset = [(image, 1, bordered if i else MAP) for i, image in enumerate(images())]
    run(dataset, tmp_path, keep=(-1, 200), report=True)
    expected = gpulime.Explainer(Tiny(), 30).explain(
        images(),
        segments=np.stack([MAP] + [bordered] * (N - 1)),
        keys=torch.tensor([gpulime.key(str(i)) for i in range(N)]),
        keep=[200, -1],
    )
    assert expected.counts.tolist() == [4, 3, 3, 3]
    rows = list(rows_of(tmp_path).values())
    for i, (row, found) in enumerate(zip(rows, maps_of(tmp_path), strict=True)):
        kept = (MAP == 200) | (MAP == 100 if i else False)
        count = int(expected.counts[i])
        assert np.array_equal(found == count, kept)
        assert row["n_segments"] == count + 1
        coefficients = np.array(row["coef"])
        assert not coefficients[:, count].any()
        assert np.allclose(coefficients[:, :count], expected.coefficients[i, :, :count], rtol=1e-4, atol=1e-7)
    assert (tmp_path / "report.html").exists()
    assert verify.verify(tmp_path).damaged == {}
    explanations = open_run(tmp_path).explanations([str(i) for i in range(N)])
    for i, one in enumerate(explanations):
        _, mask = one.get_image_and_mask(one.top_labels[0], positive_only=False, num_features=99)
        kept = (MAP == 200) | (MAP == 100 if i else False)
        assert not mask[kept].any()
        assert mask[~kept].all()
    with pytest.raises(GpulimeError, match=r"data\.keep was \[-1, 200\], is not set"):
        run(dataset, tmp_path)


def test_an_image_of_kept_pixels_alone_is_an_error_row(tmp_path):
    dataset = [(image, 1, MAP * 0 if i == 2 else MAP) for i, image in enumerate(images())]
    run(dataset, tmp_path, keep=0)
    rows = list(rows_of(tmp_path).values())
    assert [row["status"] for row in rows] == ["ok", "ok", "error", "ok"]
    assert (rows[2]["error_type"], rows[2]["error"]) == ("segments", "keep = [0] leaves no segment that could be hidden")


# Folders


def config(photographs, masks, out, **data):
    return configs.from_dict(
        {
            "model": {"factory": "test_run.make_tiny"},
            "data": {"source": str(photographs), "crop": 32, "batch_size": 3, "masks": str(masks), **data},
            "lime": {"quality": "lime", "n_samples": 30, "top_labels": 2},
            "out": str(out),
            "report": False,
        }
    )


def save(path, labels, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, labels)
    else:
        Image.fromarray(labels).convert(mode).save(path)


@pytest.fixture
def photograph(tmp_path):
    """A folder with one image of 40 x 60 pixels, and one class."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 40, 3), dtype=np.uint8)
    save(tmp_path / "images" / "ant" / "1.jpg", pixels)
    return tmp_path / "images"


LABELS = np.arange(60 * 40).reshape(60, 40) * 6 // (60 * 40)


@pytest.mark.parametrize(
    ("name", "labels", "mode"),
    [
        ("1.png", LABELS.astype(np.uint8), None),
        ("1.PNG", LABELS.astype(np.uint8), "P"),
        ("1.png", LABELS.astype(np.uint16) * 1000, None),
        ("1.tif", LABELS.astype(np.int32) * 100_000, None),
        ("1.npy", LABELS - 1, None),
        ("1.npy", LABELS * 10**12, None),
        ("1.png", LABELS > 2, "1"),
    ],
)
@pytest.mark.parametrize(
    "geometry", [{"crop": 32}, {"crop": None, "resize": 20}, {"crop": 16, "resize": 20}, {"crop": 48}], ids=str
)
def test_masks_of_files_take_the_way_of_their_images(name, labels, mode, geometry, photograph, tmp_path):
    save(tmp_path / "masks" / "ant" / name, labels, mode)
    masks = MaskFolder.of(str(tmp_path / "masks"), configs.DataConfig())
    way = Transform(**geometry)
    path = photograph / "ant" / "1.jpg"
    read = FileReader(configs.DataConfig(), way, masks)(Item("ant/1.jpg", bytes(path)))
    assert (read.error, read.segmenter) == (None, "masks")
    assert read.segments.shape == tuple(read.pixels.shape[1:])
    picture = Image.fromarray(np.dstack([LABELS * 40] * 3).astype(np.uint8))  # as an image it goes the same way
    expected = Transform(**geometry, interpolation="nearest")(picture)[..., 0] // 40
    value = {index: 0 if index == 0 else labels.astype(np.int64)[index == LABELS].max() for index in range(6)}
    inside = expected > 0  # 0 is also what lies beyond the picture
    assert np.array_equal(read.segments[inside], np.vectorize(value.get)(expected)[inside])


def test_a_run_with_a_folder_of_masks(photographs, tmp_path, capsys):
    """Each image has a row, with its mask's segments or with an error."""
    for path in photographs.rglob("*.*"):
        name = path.relative_to(photographs).with_suffix(".png")
        with contextlib.suppress(OSError):
            with Image.open(path) as image:
                w, h = image.size
            labels = np.full((h, w), 255, np.uint8)
            labels[h // 4 : h // 2], labels[h // 2 :] = 7, 3
            save(tmp_path / "masks" / name, labels)
    names = sorted(path.relative_to(tmp_path / "masks").as_posix() for path in (tmp_path / "masks").rglob("*.png"))
    missing, other, twice, *good = names
    (tmp_path / "masks" / missing).unlink()
    save(tmp_path / "masks" / other, np.zeros((5, 6), np.uint8))
    save((tmp_path / "masks" / twice).with_suffix(".npy"), np.zeros((5, 6), np.uint8))
    assert from_config.run(config(photographs, tmp_path / "masks", tmp_path / "run", keep=255)) == exits.ERROR_ROWS
    rows = {image_id.rpartition(".")[0] + ".png": row for image_id, row in rows_of(tmp_path / "run").items()}
    explained = [name for name in good if rows[name]["status"] == "ok"]
    assert len(explained) >= 3
    for name in explained:
        row = rows[name]
        assert row["segmenter"] == "masks"
        assert row["n_segments"] == 3  # 3, 7 and the kept pixels
        assert not np.array(row["coef"])[:, 2].any()
    for name, message in ((missing, "found none"), (twice, f"found {twice[4:-4]}.npy, {twice[4:]}"), (other, "got (5, 6)")):
        assert (rows[name]["status"], rows[name]["error_type"]) == ("error", "segments")
        assert message in rows[name]["error"]
    assert capsys.readouterr().err.count("the masks that come with the images are used as their segments") == 1
    with pytest.raises(GpulimeError, match=r"data\.keep was 255, is \[255, 1\]"):
        from_config.run(config(photographs, tmp_path / "masks", tmp_path / "run", keep=[255, 1]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"not a picture", "is not an image of a known kind"),
    ],
)
def test_a_damaged_mask_is_an_error_of_its_image(content, message, photograph, tmp_path):
    (tmp_path / "masks" / "ant").mkdir(parents=True)
    (tmp_path / "masks" / "ant" / "1.png").write_bytes(content)
    masks = MaskFolder.of(str(tmp_path / "masks"), configs.DataConfig())
    read = FileReader(configs.DataConfig(), Transform(crop=32), masks)(Item("ant/1.jpg", bytes(photograph / "ant" / "1.jpg")))
    assert (read.pixels, read.kind) == (None, "segments")
    assert "its mask" in read.error
    assert message in read.error


def test_folders_without_masks_are_refused(photograph, tmp_path):
    with pytest.raises(GpulimeError, match=r"data.masks '.*nowhere': there is no such folder"):
        from_config.run(config(photograph, tmp_path / "nowhere", tmp_path / "run"))
    with pytest.raises(GpulimeError, match=r"data.masks '.*images': holds no mask \(.png, .npy"):
        from_config.run(config(photograph, photograph, tmp_path / "run"))
    save(tmp_path / "masks" / "1.png", LABELS.astype(np.uint8))
    with pytest.raises(GpulimeError, match="no image has a mask there"):
        from_config.run(config(photograph, tmp_path / "masks", tmp_path / "run"))


def test_a_folder_that_cannot_be_listed_is_refused(monkeypatch, tmp_path):
    def denied(folder):
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(sources, "files_in", denied)
    with pytest.raises(GpulimeError, match=r"data.masks '.*': cannot be read: .*Permission denied"):
        MaskFolder.of(str(tmp_path), configs.DataConfig())


def test_a_folder_of_masks_for_a_dataset(tmp_path):
    for i in range(N):
        save(tmp_path / "masks" / f"{i}.npy", MAP + i)
    run(images(), tmp_path / "run", masks=tmp_path / "masks")
    assert all(np.array_equal(found, MAP // 50) for found in maps_of(tmp_path / "run"))
    assert store.manifest(tmp_path / "run")["fixed"]["segmenter"] == "masks"
