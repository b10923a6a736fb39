"""Sampling of a run: presets and the settings beside them."""

from __future__ import annotations

import dataclasses
import typing

import pytest
import torch
from test_run import Tiny, config

import gpulime
from gpulime.config import LimeConfig
from gpulime.engine.model import Predictor
from gpulime.engine.quality import QUALITIES
from gpulime.errors import GpulimeError
from gpulime.runs import from_config, sampling
from gpulime.runs.store import store

GRID = {"segments": gpulime.segments.Grid(3, 3), "top_labels": 1, "report": False}
FAST = dataclasses.asdict(QUALITIES["fast"])
OTHER = rf"lime\.n_samples was {FAST['n_samples']}, is {QUALITIES['high'].n_samples}\. Choose"
AUTO = {"n_samples": "auto", "max_samples": 129}


def fixed(out):
    return {name: value for name, value in store.manifest(out)["fixed"].items() if name.removeprefix("lime.") in sampling.ALL}


def ran(out, **settings):
    """The entries about sampling in run.json of a run from Python, and the settings' hash."""
    gpulime.runs.explain(Tiny(), [torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(0))], out, **GRID, **settings)
    return fixed(out), store.manifest(out)["config_hash"]


def test_a_preset_is_any_of_the_explainer_s():
    kinds = typing.get_type_hints(LimeConfig)["quality"]
    assert set(typing.get_args(typing.get_args(kinds)[0])) == set(QUALITIES)


def test_a_run_is_the_same_by_a_preset_or_by_its_settings(tmp_path):
    assert ran(tmp_path, quality="fast") == ran(tmp_path, **FAST) == ran(tmp_path, quality="high", n_samples=FAST["n_samples"])
    assert fixed(tmp_path) == {f"lime.{name}": value for name, value in FAST.items()}
    with pytest.raises(GpulimeError, match=OTHER):
        ran(tmp_path, quality="high")


def test_a_preset_s_numbers_are_part_of_a_run(tmp_path, monkeypatch):
    ran(tmp_path, quality="fast")
    monkeypatch.setitem(QUALITIES, "fast", QUALITIES["high"])
    with pytest.raises(GpulimeError, match=OTHER):
        ran(tmp_path, quality="fast")


@pytest.mark.parametrize(("n_samples", "used", "exhaustive"), [(512, 512, True), (511, 511, False)])
def test_rows_tell_if_all_masks_were_seen(n_samples, used, exhaustive, tmp_path):
    ran(tmp_path, sampler="blocks", n_samples=n_samples)
    (row,) = store.read(tmp_path, ["n_samples", "exhaustive"]).to_pylist()
    assert row == {"n_samples": used, "exhaustive": exhaustive}


def test_lime_s_own_settings_add_nothing(tmp_path):
    """Runs of earlier versions have only these two entries, and go on."""
    assert ran(tmp_path) == ran(tmp_path, quality="lime", confidence=0.95)
    assert fixed(tmp_path) == {"lime.n_samples": 1000, "lime.sampler": "bernoulli"}


def test_a_stopping_rule_is_part_of_a_run(tmp_path):
    ran(tmp_path, quality="fast", **AUTO)
    rule = {"tolerance": None, "confidence": 0.95, "max_samples": 129}
    assert fixed(tmp_path) == {f"lime.{name}": value for name, value in (FAST | AUTO | rule).items()}
    with pytest.raises(GpulimeError, match=r"lime\.tolerance was None, is 0\.5\. Choose"):
        ran(tmp_path, quality="fast", tolerance=0.5, **AUTO)


def test_the_command_is_fast_unless_told_otherwise(photographs, tmp_path):
    from_config.run(config(photographs, tmp_path / "fast", quality="fast", n_samples=None))
    assert fixed(tmp_path / "fast") == {f"lime.{name}": value for name, value in FAST.items()}
    assert LimeConfig().quality == "fast"
    from_config.run(config(photographs, tmp_path / "wls", quality="fast", n_samples=None, estimator="wls", link="identity"))
    wls = {"n_samples": FAST["n_samples"], "sampler": "blocks", "estimator": "wls"}
    assert fixed(tmp_path / "wls") == {f"lime.{name}": value for name, value in wls.items()}


def test_a_sampler_that_does_not_fit_the_preset_is_refused_before_the_model_is_made(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(from_config.models, "load", None)
    message = r"got 'lime' \(lime\.quality is 'fast'; with 'lime' any sampler will do\)"
    with pytest.raises(GpulimeError, match=message):
        from_config.run(config(photographs, tmp_path, quality="fast", sampler="lime"))
    with pytest.raises(GpulimeError, match=r"n_samples must be at least 2, the whole input .*; got 1$"):
        from_config.run(config(photographs, tmp_path, quality="fast", n_samples=1))


def test_the_rows_to_come_are_corrected_as_images_finish(tmp_path, monkeypatch):
    """Compiling is decided by them: at first by what "auto" expects, at the end by nothing."""
    told = []
    monkeypatch.setattr(Predictor, "announce", lambda self, rows, tell: told.append(rows))
    images = list(torch.rand(5, 3, 12, 12, generator=torch.Generator().manual_seed(1)))
    gpulime.runs.explain(Tiny(), images, tmp_path, **GRID, quality="fast", **AUTO)
    assert (told[0], told[-1], len(told)) == (5 * 257, 0, 6)
    assert told[1] <= 5 * 33, "as the first image, which is settled after one block"


def test_a_run_of_as_many_as_it_takes_is_resumed(tmp_path):
    images = list(torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(1)))
    settings = GRID | {"quality": "fast", "n_samples": "auto", "seed": 1}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    gpulime.runs.explain(Tiny(), images, whole, **settings)
    gpulime.runs.explain(Tiny(), images, parts, shard="1/2", **settings)
    first = {row["image_id"]: row for row in store.read(parts).to_pylist()}
    assert 0 < len(first) < 4
    gpulime.runs.explain(Tiny(), images, parts, **settings)
    wanted, found = ({row["image_id"]: row for row in store.read(run).to_pylist()} for run in (whole, parts))
    assert found.keys() == wanted.keys()
    for image_id, row in found.items():
        assert first.get(image_id, row) == row, "finished rows stay"
        assert row["n_samples"] == wanted[image_id]["n_samples"]
        largest = abs(torch.tensor(row["coef"])).max()
        torch.testing.assert_close(
            torch.tensor(row["coef"]), torch.tensor(wanted[image_id]["coef"]), rtol=0, atol=1e-5 * largest
        )
