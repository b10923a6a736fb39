"""open_run: explanations by image id, read when asked for."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rows import LABELS, at, explained, failed, picture, run

import gpulime
from gpulime.errors import GpulimeError
from gpulime.runs import open_run
from gpulime.runs.store import compact, shards, store
from gpulime.runs.store.explanations import GRAY


def write(folder, *rows, flush_rows):
    with store.Store(folder, flush_rows=flush_rows) as results:
        for row in rows:
            results.append(row)


def test_it_is_a_mapping_of_what_is_explained(tmp_path):
    folder = run(tmp_path, explained("a"), failed("bad"), explained("c"), failed("a", attempt=2))
    explanations = open_run(folder)
    assert list(explanations) == list(explanations.keys()) == ["a", "c"]
    assert len(explanations) == 2
    assert "a" in explanations
    assert "bad" not in explanations
    assert {image_id: one.top_labels for image_id, one in explanations.items()} == {"a": [1, 2], "c": [1, 2]}
    assert explanations.failed == {"bad": ("decode", "is empty")}
    assert explanations.get("bad") is explanations.get("nowhere") is None
    assert repr(explanations) == f"Run({str(folder)!r}, 2 images explained, 1 failed)"


def test_one_is_what_its_row_holds(tmp_path):
    one = open_run(run(tmp_path, explained("a")))["a"]
    np.testing.assert_array_equal(one.segments, LABELS)
    assert one.local_exp[1] == [(0, 0.5), (1, -0.25), (2, 0.125)]
    assert one.predictions == {1: 0.75, 2: 0.125}
    assert one.intercept == {1: 0.1, 2: 0.2}
    assert one.local_pred == pytest.approx(0.1 + 0.375)
    assert one.scores[1] == 0.5
    assert np.isnan(one.scores[2])
    assert one.image.shape == (24, 20, 3)
    assert one.class_names == ["tench", "tabby", "lynx"]
    assert repr(one).startswith("ImageExplanation(tabby 0.750, lynx 0.125; 4 segments, 24 x 20 pixels, R2 fitted 0.50")
    assert ">tabby<" in one._repr_html_()


def test_it_is_what_the_explainer_gave(tmp_path, cnn, pictures):
    images = pictures(3)
    settings = {"n_samples": 60, "segments": gpulime.segments.Grid(3, 4), "top_labels": 2}
    gpulime.runs.explain(cnn, list(images), tmp_path / "run", report=False, **settings)
    keys = torch.tensor([gpulime.key(str(i)) for i in range(3)])
    wanted = gpulime.Explainer(cnn, **settings).explain(images, keys=keys)
    found = open_run(tmp_path / "run").explanations(["0", "1", "2"])
    for name in ("labels", "segments", "counts", "segment_ids", "non_finite"):
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name), check_dtype=False)
    for name in ("coefficients", "predictions", "local_predictions", "intercepts", "scores", "scores_loo", "spreads"):
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.standard_errors, wanted.standard_errors, atol=1e-6, rtol=1e-5, equal_nan=True)
    assert found.samples.tolist() == wanted.samples.tolist() == [60] * 3
    assert (found.standard_errors > 0).all()
    assert found[1].get_image_and_mask(found[1].top_labels[0])[1].any()


def test_an_error_that_is_not_known_is_nan(tmp_path):
    errors = [[0.5, None, 0.0, 0.25], [None] * 4]
    found = open_run(run(tmp_path, explained("a", coef_se=errors))).explanations(["a"]).standard_errors
    assert [[None if np.isnan(value) else value for value in values] for values in found[0].tolist()] == errors


def test_samples_are_those_that_the_image_took(tmp_path, cnn, pictures):
    """A grid of 2 x 2 has only 16 masks, and one of 5 x 5 takes as many as its answer needs."""
    images = list(pictures(2))
    for i, (grid, settings) in enumerate([(2, {"sampler": "blocks"}), (5, {"sampler": "blocks", "n_samples": "auto"})]):
        settings = {"segments": gpulime.segments.Grid(grid, grid), "top_labels": 2, "seed": 3} | settings
        gpulime.runs.explain(cnn, images, tmp_path / f"{i}", report=False, **settings)
        keys = torch.tensor([gpulime.key("0"), gpulime.key("1")])
        wanted = gpulime.Explainer(cnn, **settings).explain(torch.stack(images), keys=keys)
        found = open_run(tmp_path / f"{i}").explanations(["0", "1"])
        assert found.samples.tolist() == wanted.samples.tolist()
        assert (found.samples != gpulime.Explainer(cnn, **settings).n_samples).any()


def test_the_picture_is_looked_up_where_it_was(tmp_path):
    path, pixels = picture(tmp_path)
    now = hashlib.sha256((tmp_path / "cat.png").read_bytes()).hexdigest()
    other, _ = picture(tmp_path, "other.png", (30, 20))
    rows = explained("a", path=path, image_sha256=now), explained("changed", path=path, image_sha256="0" * 64)
    folder = run(tmp_path / "run", *rows, explained("gone", path=b"/nowhere.png"), explained("other size", **at(other)))
    explanations = open_run(folder)
    np.testing.assert_array_equal(explanations["a"].image, pixels / 255)
    for image_id in ("changed", "gone", "other size"):
        assert np.unique(explanations[image_id].image).tolist() == [GRAY / 255]
    assert np.unique(open_run(folder, pictures=False)["a"].image).tolist() == [GRAY / 255]


@pytest.mark.parametrize(
    ("image_id", "message"),
    [
        ("bad", "image 'bad' has no explanation: decode: is empty"),
        ("cats/1.jpeg", r"'cats/1.jpeg' is none of the 2 images explained in .* \(did you mean 'cats/1.jpg'\?\)"),
        (7, "7 is none of the 2 images"),
    ],
)
def test_what_has_no_explanation_says_why(tmp_path, image_id, message):
    explanations = open_run(run(tmp_path, explained("cats/1.jpg"), explained("b"), failed("bad")))
    for error in (KeyError, GpulimeError):
        with pytest.raises(error, match=message) as caught:
            explanations[image_id]
    assert not str(caught.value).startswith('"')


def test_a_damaged_row_is_named(tmp_path):
    explanations = open_run(run(tmp_path, explained("a", seg=b"junk")))
    with pytest.raises(GpulimeError, match="image 'a': seg must be a zlib stream"):
        explanations["a"]


@pytest.mark.parametrize(
    "changes",
    [
        *({"transform": odd} for odd in ({"resize": "big"}, {"crop": 10**9}, {"size": 3}, {"interpolation": 7})),
        {"config": {"data": 7}},
    ],
    ids=str,
)
def test_a_run_json_that_does_not_say_how_images_were_read_is_damaged(changes, tmp_path):
    folder = run(tmp_path, explained("a"))
    store.write_manifest(folder, store.read_manifest(folder) | changes)
    with pytest.raises(GpulimeError, match=r"run.json is damaged, it does not say how images were read: ."):
        open_run(folder)
    assert list(open_run(folder, pictures=False)) == ["a"]


def test_a_path_with_a_null_byte_has_no_picture(tmp_path):
    assert open_run(run(tmp_path, explained("a", path=b"a\0b")))["a"].top_labels == [1, 2]


def test_only_the_row_group_that_is_needed_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(compact, "GROUP", 4)
    folder = run(tmp_path)
    write(folder, *(explained(f"{i}", target=i) for i in range(10)), flush_rows=3)
    compact.compact(folder)
    read = []
    real = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda shard, i: read.append(i) or real(shard, i))
    explanations = open_run(folder)
    monkeypatch.setattr(pq.ParquetFile, "read", None)
    assert [explanations.row(f"{i}")["target"] for i in (9, 8, 4, 5, 0, 1, 6)] == [9, 8, 4, 5, 0, 1, 6]
    assert read == [2, 1, 0, 2]  # of 4, 2 and 4 rows; neighbours are not read again


def test_labels_of_each_image_stay_with_it(tmp_path):
    folder = run(tmp_path)
    write(folder, *(explained(f"{i}", labels=[i, 50 + i]) for i in range(9)), flush_rows=4)
    explanations = open_run(folder)
    assert [explanations[f"{i}"].top_labels for i in reversed(range(9))] == [[i, 50 + i] for i in reversed(range(9))]


def test_shards_merged_since_are_found_again(tmp_path):
    folder = run(tmp_path)
    write(folder, *(explained(f"{i}", target=i) for i in range(6)), flush_rows=1)
    explanations = open_run(folder)
    assert explanations.row("3")["target"] == 3
    compact.compact(folder)
    assert explanations.row("5")["target"] == 5
    assert list(explanations) == [f"{i}" for i in range(6)]


def test_damage_since_it_was_opened_is_named(tmp_path):
    folder = run(tmp_path, explained("a"))
    explanations = open_run(folder)
    (shard,) = store.shards(folder)
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(GpulimeError, match=f"{shard.name} is corrupt"):
        explanations["a"]
    with pytest.warns(UserWarning, match=shard.name):
        assert len(open_run(folder)) == 0


def test_a_shard_that_is_gone_is_named(tmp_path):
    folder = run(tmp_path, explained("a"), explained("b"))
    explanations = open_run(folder)
    (shard,) = store.shards(folder)
    shard.rename(tmp_path / "elsewhere")
    with pytest.raises(GpulimeError, match=r"'a' is not among the results of .* any more"):
        explanations["a"]
    assert shards.shards(folder) == []


def test_a_batch_needs_ids(tmp_path):
    explanations = open_run(run(tmp_path, explained("a")))
    for ids in ([], "a"):
        with pytest.raises(GpulimeError, match="ids must be a list of at least one id"):
            explanations.explanations(ids)
    with pytest.raises(GpulimeError, match="holds no run"):
        open_run(tmp_path / "nowhere")
