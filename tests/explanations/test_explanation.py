"""Explanations: heatmaps, files without pickle, and lime's own view of one image."""

from __future__ import annotations

import dataclasses
import json
import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from gpulime import Explanations
from gpulime.errors import GpulimeError
from gpulime.explanations import shades
from gpulime.explanations.image import ImageExplanation
from gpulime.explanations.images import ExplainedImages

N, L, K, C, H, W = 3, 2, 6, 3, 8, 7


def explanations(n=N, l=L, k=K, c=C, seed=0):
    """Random ones; image 0 has fewer segments, and the segmenter's ids start at 10 with gaps."""
    random = torch.Generator().manual_seed(seed)
    counts = torch.full((n,), k)
    counts[0] = k - 2
    segments = torch.arange(H * W).view(1, H, W) % counts[:, None, None]
    beyond = torch.arange(k) >= counts[:, None]
    coefficients = torch.randn(n, l, k, generator=random, dtype=torch.float64).masked_fill(beyond[:, None], 0)
    numbers = torch.randn(5, n, l, generator=random, dtype=torch.float64)
    return ExplainedImages(
        coefficients=coefficients,
        labels=torch.tensor([281, 285, 287, 999])[:l].expand(n, l),
        predictions=torch.rand(n, l, generator=random),
        predicted=torch.arange(n),
        predicted_probs=torch.rand(n, generator=random),
        local_predictions=numbers[0],
        intercepts=numbers[1],
        scores=numbers[2],
        scores_loo=numbers[3],
        standard_errors=coefficients.abs() / 10,
        samples=torch.arange(100, 100 + n),
        exhaustive=torch.arange(n) == 1,
        spreads=numbers[4],
        segments=segments.int(),
        counts=counts,
        segment_ids=(10 + 3 * torch.arange(k)).expand(n, k).masked_fill(beyond, -1),
        non_finite=torch.zeros(n, dtype=torch.int64),
        images=torch.randint(0, 256, (n, c, H, W), generator=random, dtype=torch.uint8),
    )


def assert_equal(actual, expected):
    assert actual.class_names == expected.class_names
    for field in dataclasses.fields(ExplainedImages):
        left, right = getattr(actual, field.name), getattr(expected, field.name)
        if field.name == "class_names":
            continue
        assert left.dtype == right.dtype, field.name
        assert torch.equal(left, right), field.name


def test_heatmaps_show_each_pixels_coefficient():
    batch = explanations()
    maps = batch.heatmaps()
    assert (maps.shape, maps.dtype) == ((N, L, H, W), torch.float64)
    for i, j, y, x in np.ndindex(N, L, H, W):
        assert maps[i, j, y, x] == batch.coefficients[i, j, batch.segments[i, y, x]]


def test_save_and_load(tmp_path):
    batch = explanations()
    for name in ("batch.npz", "batch"):
        batch.save(tmp_path / name)
        assert_equal(Explanations.load(tmp_path / name), batch)
        assert_equal(Explanations.load(str(tmp_path / name)), batch)
    with np.load(tmp_path / "batch", allow_pickle=False) as arrays:
        assert all(arrays[name].dtype.kind in "bifuU" for name in arrays)


@pytest.mark.parametrize("names", [None, ["a", "b"], {281: "tabby"}])
def test_names_are_saved_and_go_with_every_part(names, tmp_path):
    batch = dataclasses.replace(explanations(), class_names=names)
    batch.save(tmp_path / "batch")
    loaded = Explanations.load(tmp_path / "batch")
    assert_equal(loaded, batch)
    for part in (loaded[1], loaded[1:], loaded.cpu(), Explanations.cat([loaded, loaded])):
        assert part.class_names == names


def test_one_image_is_told_in_a_line():
    batch = dataclasses.replace(explanations(l=4), class_names={281: "tabby"})
    p = [f"{value:.3f}" for value in batch.predictions[1].tolist()]
    line = f"ImageExplanation(tabby {p[0]}, class 285 {p[1]}, class 287 {p[2]}, ...; 6 segments, 8 x 7 pixels, R2 left out "
    assert repr(batch[1]) == str(batch[1]) == f"{line}{batch.scores_loo[1, 0]:.2f})"
    empty = ImageExplanation(np.zeros((4, 5, 3)), np.zeros((4, 5), int))
    assert repr(empty) == "ImageExplanation(no label; 1 segments, 4 x 5 pixels)"


def test_a_file_of_an_earlier_version_has_no_later_scores(tmp_path):
    loaded = Explanations.load(saved(tmp_path, scores_loo=None, spreads=None))
    assert loaded.scores_loo.isnan().all()
    assert loaded.spreads.isnan().all()
    assert_equal(
        replace(loaded, scores_loo=loaded.scores, spreads=loaded.scores),
        replace(batch := explanations(), scores_loo=batch.scores, spreads=batch.scores),
    )
    assert np.isnan(list(loaded[0].scores_loo.values())).all()


def test_each_segment_has_the_standard_error_of_its_coefficient():
    batch = explanations()
    for i, one in enumerate(batch):
        for j, label in enumerate(one.top_labels):
            known = dict(zip(batch.segment_ids[i].tolist(), batch.standard_errors[i, j].tolist(), strict=True))
            assert one.standard_errors[label] == {segment: known[segment] for segment, _ in one.local_exp[label]}
            assert one.as_list(label) == one.local_exp[label]
            assert one.as_list(label, errors=True) == [(segment, w, known[segment]) for segment, w in one.local_exp[label]]
    assert batch[1].as_list() == batch[1].local_exp[281]
    assert batch[1].as_list(torch.tensor(285)) == batch[1].local_exp[285]
    with pytest.raises(GpulimeError, match="label must be one of '281', '285'; got 3"):
        batch[1].as_list(3)


def test_standard_errors_that_are_not_known_are_nan():
    batch = explanations()
    one = replace(batch, standard_errors=torch.full_like(batch.coefficients, torch.nan))[1]
    assert np.isnan([error for *_, error in one.as_list(errors=True)]).all()
    one.standard_errors = {}
    assert np.isnan([error for *_, error in one.as_list(errors=True)]).all()


def test_a_frame_has_a_row_for_each_part_of_each_label():
    pytest.importorskip("pandas")
    batch = explanations()
    labels = batch.labels.clone()
    labels[2] = 281  # one label, repeated
    batch = replace(batch, labels=labels, class_names={281: "tabby"})
    frame = batch.to_frame()
    columns = ["input", "label", "class_name", "part", "coefficient", "standard_error", "prediction", "score", "score_loo"]
    columns += ["samples", "exhaustive"]
    assert list(frame.columns) == columns
    assert len(frame) == 2 * (K - 2) + 2 * K + K
    expected = [
        (i, label, part, *numbers, 100 + i, i == 1)
        for i, one in enumerate(batch)
        for j, label in enumerate(one.top_labels)
        for part, numbers in sorted(
            (segment, (w, error, one.predictions[label], one.scores[label], batch.scores_loo[i, j].item()))
            for segment, w, error in one.as_list(label, errors=True)
        )
        if i < 2
    ]
    assert frame[frame["input"] < 2].drop(columns="class_name").to_records(index=False).tolist() == expected
    assert frame["coefficient"][frame["input"] == 2].tolist() == batch.coefficients[2, 0].tolist()
    assert set(frame["class_name"][frame["label"] == 281]) == {"tabby"}
    assert frame["class_name"][frame["label"] == 285].isna().all()


def test_a_frame_of_any_inputs_numbers_their_parts():
    pytest.importorskip("pandas")
    images = explanations()
    fields = {field.name: getattr(images, field.name) for field in dataclasses.fields(Explanations)}
    frame = Explanations(**fields).to_frame()
    assert "class_name" not in frame
    assert frame["part"][frame["input"] == 0].tolist() == [0, 1, 2, 3] * L


class Named(Explanations):
    def _names(self):
        return [[f"word {i}.{part}" for part in range(count)] for i, count in enumerate(self.counts.tolist())]


def test_a_frame_names_the_parts_that_have_names():
    pytest.importorskip("pandas")
    images = explanations()
    fields = {field.name: getattr(images, field.name) for field in dataclasses.fields(Explanations)}
    frame = Named(**fields | {"class_names": {281: "tabby"}}).to_frame()
    assert list(frame.columns[:5]) == ["input", "label", "class_name", "part", "name"]
    assert (frame["name"] == [f"word {i}.{part}" for i, part in zip(frame["input"], frame["part"], strict=True)]).all()


def test_without_pandas_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(GpulimeError, match=r"^to_frame needs pandas: pip install pandas$"):
        explanations().to_frame()


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


def saved(tmp_path, **changes):
    """A saved batch with some arrays changed, or removed if None."""
    explanations().save(tmp_path / "whole")
    with np.load(tmp_path / "whole") as file:
        arrays = {name: file[name] for name in file} | changes
    with (tmp_path / "changed").open("wb") as file:
        np.savez(file, **{name: array for name, array in arrays.items() if array is not None})
    return tmp_path / "changed"


def written(tmp_path, data):
    (tmp_path / "file").write_bytes(data)
    return tmp_path / "file"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda tmp: written(tmp, pickle.dumps(Bomb())), "file was not written by Explanations.save"),
        (lambda tmp: written(tmp, b"not an archive"), "file was not written by Explanations.save"),
        (lambda tmp: written(tmp, b""), "file was not written by Explanations.save"),
        (lambda tmp: written(tmp, saved(tmp).read_bytes()[:-300]), "file was not written by Explanations.save"),
        (lambda tmp: (np.save(tmp / "file.npy", np.zeros(3)), tmp / "file.npy")[1], "file.npy was not written by Explan"),
        (lambda tmp: saved(tmp, about=None), "changed was not written by Explanations.save"),
        (lambda tmp: saved(tmp, about=np.array("[]")), "changed was not written by Explanations.save"),
        (lambda tmp: saved(tmp, counts=np.array(Bomb(), dtype=object)), "changed was not written by Explanations.save"),
        (lambda tmp: saved(tmp, counts=None), r"changed lacks \['counts'\]"),
        (
            lambda tmp: saved(tmp, about=np.array(json.dumps({"gpulime.Explanations": 2}))),
            "changed has format 2; this gpulime reads up to 1: update it",
        ),
    ],
    ids=["pickle", "text", "empty", "cut off", "npy", "other npz", "other about", "pickled array", "incomplete", "newer"],
)
def test_load_refuses_what_save_did_not_write(make, message, tmp_path):
    path = make(tmp_path)
    with pytest.raises(GpulimeError, match=message):
        Explanations.load(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"coefficients": np.zeros(3)},
        {"segments": np.zeros((N, H, W), np.float32)},
        {"segments": np.full((N, H, W), K, np.int32)},
        {"segments": np.full((N, H, W), -1, np.int32)},
        {"segments": np.zeros((N, H, W), complex)},
        {"counts": np.full(N, K + 1)},
        {"counts": np.full(N, K, complex)},
        {"labels": np.full((N, L), -1)},
        {"labels": np.zeros((N, L))},
        {"labels": np.array(1)},
        {"predictions": np.ones((N, L), bool)},
        {"images": np.zeros((N, C, H), np.uint8)},
        {"about": np.array("[" * 100_000)},
        {"about": np.array('{"gpulime.Explanations": "1"}')},
    ],
    ids=lambda changes: str(changes)[:30],
)
def test_load_refuses_arrays_that_do_not_belong_together(changes, tmp_path):
    with pytest.raises(GpulimeError, match=r"changed (holds arrays whose|was not written by)"):
        Explanations.load(saved(tmp_path, **changes))


def test_load_refuses_rot(tmp_path):
    """It shows as struct.error, NotImplementedError, OSError and others."""
    whole, refused = saved(tmp_path).read_bytes(), 0
    for at in range(0, 800, 7):
        content = bytearray(whole)
        for place in (at, -at - 1):
            content[place] ^= 255
        try:
            Explanations.load(written(tmp_path, content))
        except GpulimeError:
            refused += 1
    assert refused > 0  # and no other error was raised


def test_a_file_of_an_earlier_version_has_no_predictions(tmp_path):
    loaded = Explanations.load(saved(tmp_path, predicted=None, predicted_probs=None))
    assert_equal(
        dataclasses.replace(loaded, predicted_probs=torch.zeros(N)),
        dataclasses.replace(explanations(), predicted=torch.full((N,), -1), predicted_probs=torch.zeros(N)),
    )
    assert loaded.predicted_probs.isnan().all()


def test_cat_pads_segments():
    parts = [explanations(2, k=4), explanations(3, k=6, seed=1), explanations(1, k=5, seed=2)]
    whole = Explanations.cat(parts)
    assert len(whole) == 6
    assert whole.coefficients.shape == (6, L, 6)
    start = 0
    for part in parts:
        k = part.coefficients.shape[2]
        here = slice(start, start + len(part))
        assert torch.equal(whole.coefficients[here, :, :k], part.coefficients)
        assert torch.equal(whole.segment_ids[here, :k], part.segment_ids)
        assert not whole.coefficients[here, :, k:].any()
        assert (whole.segment_ids[here, k:] == -1).all()
        assert torch.equal(whole.heatmaps()[here], part.heatmaps())
        start += len(part)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "no explanations"),
        ([explanations(l=2), explanations(l=3)], "labels"),
        ([explanations(c=3), explanations(c=1)], r"\(1, 8, 7\)"),
    ],
    ids=["nothing", "labels", "shapes"],
)
def test_what_cannot_be_put_together(parts, message):
    with pytest.raises(GpulimeError, match=message):
        Explanations.cat(parts)


def test_an_image_of_the_batch():
    batch = explanations()
    assert len(list(batch)) == len(batch) == N
    assert np.array_equal(batch[-1].image, batch[2].image)
    one = batch[0]
    assert one.top_labels == [281, 285]
    np.testing.assert_array_equal(one.image, batch.images[0].permute(1, 2, 0).numpy() / 255)
    assert sorted(np.unique(one.segments)) == [10, 13, 16, 19]
    for j, label in enumerate(one.top_labels):
        strengths = [abs(weight) for _, weight in one.local_exp[label]]
        assert strengths == sorted(strengths, reverse=True)
        assert dict(one.local_exp[label]) == {10 + 3 * i: float(batch.coefficients[0, j, i]) for i in range(4)}
        actual = [one.predictions[label], one.local_preds[label], one.intercept[label], one.scores[label]]
        expected = [batch.predictions, batch.local_predictions, batch.intercepts, batch.scores]
        assert actual == [float(tensor[0, j]) for tensor in expected]
    for index in (N, -N - 1):
        with pytest.raises(GpulimeError, match=rf"index must be in \[-3, 3\); got {index}"):
            batch[index]


@pytest.mark.parametrize("hide_rest", [False, True])
@pytest.mark.parametrize("num_features", [0, 1, 3, 100])
@pytest.mark.parametrize(("positive_only", "negative_only"), [(True, False), (False, True), (False, False)])
@pytest.mark.filterwarnings("ignore")
def test_image_and_mask_are_limes(positive_only, negative_only, num_features, hide_rest):
    lime_image = pytest.importorskip("lime.lime_image")
    for one in explanations():
        theirs = lime_image.ImageExplanation(one.image, one.segments)
        theirs.local_exp = one.local_exp
        for label in one.top_labels:
            strongest = abs(one.local_exp[label][0][1])
            for min_weight in (0.0, 0.4, strongest, 100.0):
                arguments = (label, positive_only, negative_only, hide_rest, num_features, min_weight)
                pairs = zip(one.get_image_and_mask(*arguments), theirs.get_image_and_mask(*arguments), strict=True)
                for actual, expected in pairs:
                    assert actual.dtype == expected.dtype
                    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("kind", [torch.tensor, np.array, np.int32, lambda label: torch.tensor([label]), float])
def test_a_label_is_whatever_int_takes(kind):
    one = explanations()[0]
    for label in one.top_labels:
        actual, expected = (one.get_image_and_mask(given) for given in (kind(label), label))
        assert all(map(np.array_equal, actual, expected))
        assert type(shades.chosen(one, kind(label))) is int
    with pytest.raises(KeyError, match="Label not in explanation: cat; explained were"):
        one.get_image_and_mask("cat")
    with pytest.raises(KeyError, match=r"Label not in explanation: \[281, 285\]; explained were"):
        one.get_image_and_mask([281, 285])
    with pytest.raises(KeyError, match=r"Label not in explanation: tensor\(\[281, 285\]\); explained were"):
        one.get_image_and_mask(torch.tensor([281, 285]))


def test_image_and_mask_leave_the_explanation_as_it_is():
    one = explanations()[0]
    before = one.image.copy(), one.segments.copy()
    image, mask = one.get_image_and_mask(281, positive_only=False)
    image[:], mask[:] = 0, 5
    assert np.array_equal(one.image, before[0])
    assert np.array_equal(one.segments, before[1])
    with pytest.raises(KeyError, match=r"Label not in explanation: 7; explained were \[281, 285\]"):
        one.get_image_and_mask(7)
    with pytest.raises(ValueError, match="cannot be true at the same time"):
        one.get_image_and_mask(281, positive_only=True, negative_only=True)


@pytest.mark.parametrize("c", [1, 5])
def test_image_and_mask_of_other_channels(c):
    one = explanations(c=c)[1]
    image, mask = one.get_image_and_mask(281, positive_only=False, num_features=K)
    assert image.shape == (H, W, c)
    assert set(np.unique(mask)) == {-1, 1}


def test_repr_and_devices(device):
    batch = explanations()
    assert repr(batch) == "Explanations(3 images, 2 labels, up to 6 segments, on cpu)"
    moved = batch.to(device)
    assert {tensor.device.type for tensor in vars(moved).values() if tensor is not None} == {device.type}
    assert_equal(moved.cpu(), batch)


def test_a_slice_is_a_smaller_batch():
    batch = explanations()
    part = batch[1:]
    assert len(part) == len(batch) - 1
    assert part[0].local_exp == batch[1].local_exp


def test_segments_that_were_not_selected_are_not_listed():
    batch = explanations()
    coefficients = batch.coefficients.clone()
    coefficients[0, 0, 1:] = 0
    one = dataclasses.replace(batch, coefficients=coefficients)[0]
    assert len(one.local_exp[one.top_labels[0]]) == 1
    none = dataclasses.replace(batch, coefficients=0 * coefficients)[0]
    assert len(none.local_exp[none.top_labels[0]]) == int(batch.counts[0])
