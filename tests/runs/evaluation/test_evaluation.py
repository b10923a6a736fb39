"""An evaluation: a row for each metric, method and image; a rerun resumes; what cannot be measured is said."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import replace

import numpy as np
import pandas
import pytest
import torch
from evaluated import Tiny, config
from PIL import Image
from torch import nn

import gpulime
from gpulime import evaluate
from gpulime.cli import main
from gpulime.errors import GpulimeError
from gpulime.evaluate import methods
from gpulime.runs import from_config, open_run
from gpulime.runs.evaluation import calls, measure, rows, summary
from gpulime.runs.evaluation.rows import EVALUATION, METRICS
from gpulime.runs.evaluation.settings import Settings
from gpulime.runs.progress import exits
from gpulime.runs.store import shards

ALL = [metric for of_one in METRICS.values() for metric in of_one]


def frame(run):
    """The rows as pandas reads them."""
    return pandas.read_parquet(run / "evaluation")


def command(*arguments):
    return main.main(["evaluate", *map(str, arguments)])


def test_rows_are_what_the_metrics_give(run, pictures_of_run):
    assert command(run) == exits.OK
    found = frame(run)
    keys = found[list(rows.KEY)]
    assert not keys.duplicated().any()
    names = [f"{folder}/{i}.png" for i, folder in enumerate(["ant"] * 3 + ["bee"] * 3)]
    assert set(found.image_id) == set(names)
    assert set(zip(found.method, found.metric, strict=True)) == {(m, one) for m in ("lime", "random", "centre") for one in ALL}
    assert set(found.unit) == {"segments"}
    assert set(found.fill) == {"mean"}
    explainer = gpulime.Explainer(Tiny(), 40, {"grid": {"rows": 3, "columns": 3}}, top_labels=2)
    opened = open_run(run)
    explained = replace(opened.explanations(names))
    images = torch.stack([_picture(pictures_of_run / name) for name in names])
    keys = torch.tensor([gpulime.key(name) for name in names])
    curves, held = evaluate.curves(explainer, images, explained), evaluate.held_out(explainer, images, explained, keys=keys)
    own = found[found.method == "lime"].set_index(["image_id", "label", "metric"])
    scores = {"deletion": curves.deletion_auc, "insertion": curves.insertion_auc, "gap": curves.gap, "irof": curves.irof}
    scores |= {"minimal_deletion": curves.minimal_deletion, "held_out_r2": held.r2, "infidelity": held.infidelity}
    for i, name in enumerate(names):
        best = int(explained.predictions[i].argmax())
        for metric, values in scores.items():
            row = own.loc[name, int(explained.labels[i, best]), metric]
            expected = float(values[i, best])
            assert row.value == pytest.approx(expected, abs=1e-5, nan_ok=True)
            assert isinstance(row.reason, str) == math.isnan(expected)
    row = own.loc[names[0], int(explained.labels[0, int(explained.predictions[0].argmax())]), "deletion"]
    np.testing.assert_allclose(np.trapezoid(row.curve, row.area), row.value, atol=1e-5)
    assert len(row.curve) == 1 + 9
    assert len(row["map"]) == rows.SIDE**2


def _picture(path):
    picture = np.asarray(Image.open(path))[4:36, 9:41]
    return torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 255


def test_lime_beats_random_and_the_summary_is_that_of_pandas(run, capsys):
    assert command(run, "--json", "--labels", "all") == exits.OK
    found = frame(run)
    summary = json.loads(capsys.readouterr().out)
    assert summary == json.loads((run / "evaluation-summary.json").read_text())
    by = ["metric", "method", "unit", "fill"]
    of_images = found.groupby([*by, "image_id"]).value.mean().groupby(by)
    expected = pandas.DataFrame({"mean": of_images.mean(), "standard_error": of_images.sem(), "inputs": of_images.count()})
    shown = pandas.DataFrame(summary["scores"]).set_index(by)
    pandas.testing.assert_frame_equal(
        shown[list(expected)].astype(float).sort_index(), expected.astype(float).sort_index(), check_index_type=False
    )
    undefined = found.value.isna().groupby([found[name] for name in by]).sum()
    assert (shown.undefined.sort_index() == undefined.sort_index()).all()
    assert summary["inputs"] == 6
    gaps = shown.loc["gap"]["mean"].droplevel(["unit", "fill"])
    assert gaps["lime"] > gaps["random"]
    assert gaps["lime"] > gaps["centre"]


def test_the_terminal_names_unit_and_fill(run, capsys):
    assert command(run, "--unit", "pixels", "--fill", "0.5", "--steps", "6", "--samples", "20") == exits.OK
    shown = capsys.readouterr().out
    assert "deletion and insertion by pixels, fill 0.5: mean ± standard error" in shown
    assert "on 20 masks that were not fitted, by segments, fill 0.5" in shown
    found = frame(run)
    assert {len(curve) for curve in found.curve.dropna()} == {7}
    assert set(found[found.metric == "gap"].unit) == {"pixels"}


def test_a_rerun_measures_only_what_is_left(run, monkeypatch):
    settings = Settings(measurements=("curves",))
    calls.evaluate(run, settings, limit=2)
    first = frame(run)
    assert first.image_id.nunique() == 2
    seen, forward = [], Tiny.forward
    monkeypatch.setattr(Tiny, "forward", lambda self, x: seen.append(len(x)) or forward(self, x))
    calls.evaluate(run, settings)
    again = frame(run)
    assert again.image_id.nunique() == 6
    assert len(again) == 3 * len(first)
    assert not again[list(rows.KEY)].duplicated().any()
    del seen[:]
    assert calls.evaluate(run, settings).inputs == 6
    assert not seen
    calls.evaluate(run, replace(settings, methods=("gradient",)))
    assert set(frame(run).method) == {"lime", "random", "centre", "gradient"}
    assert (frame(run).method == "lime").sum() == (again.method == "lime").sum()
    whole = shutil.copytree(run, run.with_name("whole"))
    shutil.rmtree(whole / "evaluation")
    calls.evaluate(whole, settings)
    index = list(rows.KEY)
    once, resumed = (one.set_index(index).value.sort_index() for one in (frame(whole), again))
    pandas.testing.assert_series_equal(once, resumed, rtol=1e-5)


def test_other_settings_are_refused_and_other_fills_have_rows_of_their_own(run, capsys):
    assert command(run, "--metrics", "held_out", "--samples", "20") == exits.OK
    assert command(run, "--metrics", "held_out", "--samples", "30") == exits.BAD_USAGE
    assert "samples was 20, is 30. Take the same, or delete" in capsys.readouterr().err
    assert command(run, "--metrics", "held_out", "--samples", "20", "--fill", "blur") == exits.OK
    assert set(frame(run).fill) == {"mean", "blur"}
    shutil.rmtree(run / "evaluation")
    assert command(run, "--metrics", "held_out", "--samples", "30") == exits.OK


def test_messages_say_what_the_default_of_steps_is_and_how_many_forwards_are_to_come(run, capsys):
    assert command(run, "--metrics", "held_out", "--labels", "all", "--samples", "20", "--limit", "1") == exits.OK
    shown = capsys.readouterr()
    assert f"about {3 * 21} forwards: 1 image, lime, random, centre" in shown.err  # labels share the masks
    assert shown.out.startswith("1 image measured\n")
    assert command(run, "--metrics", "curves", "--steps", "5", "--samples", "20") == exits.BAD_USAGE
    assert "steps was one for each segment, is 5. Take the same" in capsys.readouterr().err


def test_a_changed_image_is_a_row_with_its_reason(photographs, tmp_path, capsys):
    run = tmp_path / "run"
    from_config.run(config(photographs, run))
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(photographs / "ant" / "1.png")
    (photographs / "bee" / "4.png").unlink()
    assert command(run, "--metrics", "curves") == exits.ERROR_ROWS
    found = frame(run)
    lost = found[found.error_type.notna()]
    assert set(zip(lost.image_id, lost.error_type, strict=True)) == {("ant/1.png", "changed"), ("bee/4.png", "missing")}
    assert lost.value.isna().all()
    assert lost.reason.str.contains("it has changed since it was explained: its sha256 was").sum() == 3 * 5
    assert found[found.error_type.isna()].image_id.nunique() == 4
    said = capsys.readouterr().out
    assert "4 images measured; failed: changed 1, missing 1\nant/1.png: it has changed since it was explained" in said
    assert "bee/4.png: there is no such file" in said
    assert command(run, "--metrics", "curves", "--retry-failed") == exits.ERROR_ROWS
    latest = rows.read(run).to_pandas()
    assert len(latest) == len(found)
    report = (run / "report.html").read_text()
    assert "Not measured, changed: it has changed since it was explained" in report


def test_a_method_that_cannot_be_had_is_named(run, capsys, monkeypatch):
    def refuse(model, images, labels):
        raise methods.NotAvailableError(f"{type(model).__name__} has no convolution")

    monkeypatch.setitem(methods.METHODS, "gradcam", refuse)
    assert command(run, "--with", "gradcam", "gradient", "--metrics", "curves") == exits.OK
    shown = capsys.readouterr()
    assert "gradcam: not available: Tiny has no convolution" in shown.out
    assert json.loads((run / "evaluation-summary.json").read_text())["not_available"] == {"gradcam": "Tiny has no convolution"}
    assert set(frame(run).method) == {"lime", "random", "centre", "gradient"}
    assert "Tiny has no convolution" in (run / "evaluation.html").read_text()
    assert calls.evaluate(run, Settings(measurements=("curves",))).absent == {"gradcam": "Tiny has no convolution"}
    monkeypatch.setitem(methods.METHODS, "gradcam", lambda model, images, labels: images.mean(1, keepdim=True))
    assert calls.evaluate(run, Settings(methods=("gradcam",), measurements=("curves",))).absent == {}
    assert command(run, "--with", "grad_cam") == exits.BAD_USAGE
    assert "did you mean 'gradcam'?" in capsys.readouterr().err


def test_an_image_on_which_a_method_fails_is_a_row_and_the_others_go_on(run, monkeypatch):
    def fail(model, images, labels):
        if len(images) > 1 or float(images.mean()) > 0.5:
            raise RuntimeError("too bright")
        return torch.rand(len(images), labels.shape[1], *images.shape[2:])

    monkeypatch.setitem(methods.METHODS, "gradient", fail)
    found = calls.evaluate(run, Settings(methods=("gradient",), measurements=("curves",)))
    lost = frame(run)[lambda one: one.error_type.notna()]
    assert set(lost.method) == {"gradient"}
    assert lost.reason.str.contains("RuntimeError: too bright").all()
    assert 0 < lost.image_id.nunique() < 6
    assert (found.inputs, found.failed) == (6, {})
    assert found.failing == {"gradient": f"{lost.image_id.nunique()} of 6 images: RuntimeError: too bright"}


def test_a_method_that_fails_for_all_images_is_named_and_no_image_is_lost(run, monkeypatch, capsys):
    def fail(model, images, labels):
        raise RuntimeError("no luck")

    monkeypatch.setitem(methods.METHODS, "rise", fail)
    assert command(run, "--with", "rise", "--metrics", "curves") == exits.ERROR_ROWS
    shown = capsys.readouterr().out
    assert shown.startswith("6 images measured\n")
    assert "rise: failed for 6 of 6 images: RuntimeError: no luck" in shown
    assert "failed for 6 of 6 images: RuntimeError: no luck" in (run / "evaluation.html").read_text()


def first(model, x, labels):
    """A method whose maps are the first channel."""
    return x[:, :1].expand(-1, labels.shape[1], -1, -1)


@pytest.mark.parametrize("metrics", ["held_out", "curves"])
def test_equal_maps_are_told_by_rows_and_summary_whatever_is_measured(metrics, run, monkeypatch, capsys):
    monkeypatch.setitem(methods.METHODS, "gradient", first)
    monkeypatch.setitem(methods.METHODS, "ig", lambda *given: 3 * first(*given))
    monkeypatch.setitem(methods.METHODS, "gradcam", lambda *given: first(*given) * (1 + 1e-3 * torch.eye(32)))
    monkeypatch.setitem(methods.METHODS, "rise", lambda model, x, labels: 2 * evaluate.centre_maps(x[:, 0].long(), labels))
    call = (run, "--with", "gradient", "ig", "gradcam", "rise", "--metrics", metrics)
    for _ in range(2):  # the second call has nothing left to do
        assert command(*call) == exits.OK
        shown = capsys.readouterr().out
        assert "ig: equal to gradient\n" in shown
        assert "rise: equal to centre\n" in shown
        assert "gradcam: equal" not in shown
    notes = {method: set(map(tuple, of.notes.dropna())) for method, of in frame(run).groupby("method")}
    known = {"ig": {("equal to gradient",)}, "rise": {("equal to centre",)}}
    assert notes == {name: known.get(name, set()) for name in ("lime", "random", "centre", "gradient", "ig", "gradcam", "rise")}
    assert "equal to gradient" in (run / "evaluation.html").read_text()


def test_maps_of_another_call_are_compared_as_they_are_stored(run, monkeypatch, capsys):
    monkeypatch.setitem(methods.METHODS, "gradient", first)
    monkeypatch.setitem(methods.METHODS, "ig", first)
    for name in ("gradient", "ig"):
        assert command(run, "--with", name, "--metrics", "held_out") == exits.OK
    assert "ig: the stored maps, 32 x 32, are those of gradient" in capsys.readouterr().out


def test_maps_that_are_equal_for_some_images_are_counted(run, monkeypatch):
    def partly(model, x, labels):
        bright = x.mean((1, 2, 3)) > 0.5
        seen.extend(bright.tolist())
        return torch.where(bright[:, None, None, None], first(model, x, labels), x[:, 1:2])

    seen: list[bool] = []
    monkeypatch.setitem(methods.METHODS, "gradient", first)
    monkeypatch.setitem(methods.METHODS, "ig", partly)
    found = calls.evaluate(run, Settings(methods=("gradient", "ig"), measurements=("held_out",)))
    assert 0 < sum(seen) < 6
    assert found.notes == {"ig": [f"equal to gradient for {sum(seen)} of 6 images"]}


def test_an_image_counts_as_equal_if_the_maps_of_all_its_labels_are(run, monkeypatch, capsys):
    def one_label(model, x, labels):
        other = x[:, 1:2].expand(-1, labels.shape[1] - 1, -1, -1)
        return torch.cat([first(model, x, labels[:, :1]), other], 1)

    monkeypatch.setitem(methods.METHODS, "gradient", first)
    monkeypatch.setitem(methods.METHODS, "ig", one_label)
    assert command(run, "--with", "gradient", "ig", "--labels", "all", "--metrics", "held_out") == exits.OK
    assert frame(run)[lambda one: one.method == "ig"].notes.notna().sum() == 6 * len(METRICS["held_out"])
    assert "equal to gradient" not in capsys.readouterr().out


def test_maps_of_the_first_methods_are_made_once_and_no_method_equals_itself(run, monkeypatch):
    def counting(segments, labels, **keys):
        made.append(len(labels))
        return evaluate.random_maps(segments, labels, **keys)

    made: list[int] = []
    monkeypatch.setattr(measure, "random_maps", counting)
    monkeypatch.setitem(methods.METHODS, "gradient", first)
    monkeypatch.setitem(methods.METHODS, "ig", lambda model, x, labels: first(model, x.flip(1), labels))
    calls.evaluate(run, Settings(methods=("gradient", "ig"), measurements=("curves",)), limit=2)
    assert sum(made) == 2
    # Two images lack one measurement, the others two: the second one measures each method again, for other groups.
    assert calls.evaluate(run, Settings(methods=("gradient", "ig"))).notes == {}


@pytest.mark.parametrize(
    ("gate", "expected"),
    [
        (nn.ReLU(), "equal to gradient"),
        (nn.SiLU(), "Guided Backprop has a rule for ReLUs alone, and takes the plain gradient of the model's SiLU"),
    ],
)
def test_what_guided_backprop_is_not_is_told(gate, expected, dataset, tmp_path, capsys):
    pytest.importorskip("captum")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), gate, nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, 3)).eval()
    if isinstance(gate, nn.ReLU):
        model[5].weight.data.abs_()  # nothing negative flows back
    run, settings = tmp_path / "run", {"n_samples": 20, "segments": "grid", "top_labels": 1}
    gpulime.runs.explain(model, dataset, run, **settings)
    found = gpulime.evaluate.run(run, model, dataset, methods=["guided_backprop"], metrics=["held_out"], samples=9)
    assert found.notes == {"guided_backprop": [expected]}
    assert f"guided_backprop: {expected}" in str(found)
    own = frame(run)[lambda one: one.method == "guided_backprop"]
    assert set(map(tuple, own.notes)) == {(expected,)}
    assert expected.replace("'", "&#39;") in (run / "evaluation.html").read_text()


@pytest.mark.parametrize("name", ["occlusion", "rise", "kernelshap"])
def test_a_sigmoid_of_one_output_is_what_methods_explain(name, dataset, tmp_path, monkeypatch):
    if name == "occlusion":
        pytest.importorskip("captum")

    def bright(x):
        return 6 * x[:, :, :12].mean((1, 2, 3)) - 3

    monkeypatch.setitem(methods.METHODS, "rise", methods.Rise(100, 3))
    monkeypatch.setitem(methods.METHODS, "kernelshap", methods.KernelShap(50))
    settings = {
        "n_samples": 30,
        "segments": gpulime.segments.Grid(3, 3),
        "activation": "sigmoid",
        "mean": 0.0,
        "std": 1.0,
        "fill": 0.0,
    }
    gpulime.runs.explain(bright, dataset, tmp_path / "run", **settings)
    found = gpulime.evaluate.run(tmp_path / "run", bright, dataset, methods=[name], metrics=["curves"])
    gaps = {score.method: score.mean for score in found.scores if score.metric == "gap"}
    assert not found.failing
    assert gaps[name] > max(gaps["random"], gaps["centre"])


def test_a_constant_map_is_a_reason_and_no_failure(run, monkeypatch):
    monkeypatch.setitem(methods.METHODS, "gradient", lambda model, x, labels: torch.zeros(*labels.shape, *x.shape[2:]))
    found = calls.evaluate(run, Settings(methods=("gradient",), measurements=("curves",)))
    own = frame(run)[lambda one: one.method == "gradient"]
    assert own.value.isna().all()
    assert own.reason.str.contains("the map is constant").all()
    assert own.error_type.isna().all()
    assert not found.failed


def test_another_model_is_refused(run, capsys):
    about = json.loads((run / "run.json").read_text())
    about["config"]["model"]["kwargs"] = {"seed": 1}
    (run / "run.json").write_text(json.dumps(about))
    assert command(run) == exits.BAD_USAGE
    assert "names code that you have not run in this folder (model.factory 'evaluated.Tiny')" in capsys.readouterr().err
    assert command(run, "--trust") == exits.BAD_USAGE
    shown = capsys.readouterr().err
    assert "explains another model, or with other settings: " in shown
    assert "weights_sha256 was" in shown
    assert not (run / "evaluation").exists()


def test_a_run_from_python(from_python, dataset, capsys):
    assert command(from_python) == exits.BAD_USAGE
    assert "call gpulime.evaluate.run(" in capsys.readouterr().err
    with pytest.raises(GpulimeError, match="weights_sha256 was"):
        gpulime.evaluate.run(from_python, Tiny(1), dataset)
    with pytest.raises(GpulimeError, match=r"^methods must be one of 'gradient', .*got 'gradcan' \(did you mean 'gradcam'"):
        gpulime.evaluate.run(from_python, Tiny(), dataset, methods="gradcan")
    with pytest.raises(GpulimeError, match="metrics must be one of 'curves', 'held_out'; got 'curve'"):
        gpulime.evaluate.run(from_python, Tiny(), dataset, metrics="curve")
    dataset[2] = dataset[2] + 1
    found = gpulime.evaluate.run(from_python, Tiny(), dataset[:4], methods="gradient", samples=20)
    assert found.failed == {"changed": 1, "missing": 1}
    own = frame(from_python)
    assert set(own.fill) == {"0"}
    assert own[own.error_type.isna()].image_id.tolist().count("0") == 4 * len(ALL)
    explainer = gpulime.Explainer(Tiny(), 30, gpulime.segments.Grid(3, 3), fill=0.0, top_labels=2)
    explained = open_run(from_python, pictures=False).explanations(["0"])
    curves = evaluate.curves(explainer, dataset[0][None], explained)
    best = int(explained.predictions[0].argmax())
    value = own[(own.image_id == "0") & (own.method == "lime") & (own.metric == "gap")].value
    assert value.tolist() == pytest.approx([float(curves.gap[0, best])], abs=1e-5)


def test_a_run_of_the_command_is_evaluated_by_the_command(run, dataset):
    with pytest.raises(GpulimeError, match=f"was made by gpulime explain, .*: gpulime evaluate {run} measures it"):
        gpulime.evaluate.run(run, Tiny(), dataset)


def test_segments_that_are_never_hidden_stay_shown(dataset, tmp_path):
    masks = {str(i): np.arange(4).reshape(2, 2).repeat(12, 0).repeat(10, 1) for i in range(5)}
    settings = {"n_samples": 30, "top_labels": 2, "model_id": "tiny"}
    gpulime.runs.explain(Tiny(), dataset, tmp_path / "kept", masks=masks.__getitem__, keep=0, **settings)
    gpulime.evaluate.run(tmp_path / "kept", Tiny(), dataset, methods=["gradient"])
    found = frame(tmp_path / "kept")
    assert {len(curve) for curve in found.curve.dropna()} == {1 + 3}
    explainer = gpulime.Explainer(Tiny(), 30, top_labels=2)
    segments = torch.tensor(np.stack([masks["0"]]))
    explained = explainer.explain(dataset[0][None], segments=segments, keep=0, keys=torch.tensor([gpulime.key("0")]))
    expected = evaluate.curves(explainer, dataset[0][None], explained).gap[0, 0]
    value = found[(found.image_id == "0") & (found.method == "lime") & (found.metric == "gap")].value
    assert value.tolist() == pytest.approx([float(expected)], abs=1e-5)


def test_ranks_share_the_images(run, monkeypatch):
    owned = []
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        calls.evaluate(run, Settings(measurements=("curves",)))
        owned.append(set(frame(run).image_id))
    assert owned[0] < owned[1]
    assert len(owned[1]) == 6
    assert {shards.number(path)[0] for path in shards.shards(run, EVALUATION)} == {0, 1}


def test_verify_and_export_know_it(run, tmp_path, capsys):
    command(run)
    capsys.readouterr()
    assert main.main(["verify", str(run)]) == exits.ERROR_ROWS  # three files are no images
    assert "evaluation      1 shard, 126 rows of 6 images" in capsys.readouterr().out
    assert main.main(["export", str(run), "--to", str(tmp_path / "exported")]) == 0
    index = pandas.read_csv(tmp_path / "exported" / "index.csv")
    found = frame(run)
    own = found[(found.method == "lime") & (found.metric == "gap")].set_index(["image_id", "label"]).value
    joined = index.dropna(subset="gap (segments, mean)").set_index(["image_id", "label"])["gap (segments, mean)"]
    assert joined.sort_index().to_dict() == own.sort_index().to_dict()
    [shard] = shards.shards(run, EVALUATION)
    shard.write_bytes(shard.read_bytes()[:-40])
    (run / "evaluation" / "notes.txt").touch()
    assert main.main(["verify", str(run)]) == exits.DAMAGED
    shown = capsys.readouterr().out
    assert "1 of the evaluation; run the same gpulime evaluate again" in shown
    assert "not shards      1 in evaluation/" in shown
    with pytest.warns(UserWarning, match="run the same gpulime evaluate to measure its images again"):
        assert command(run) == exits.OK
    assert len(rows.read(run)) == 126


def test_a_run_in_progress_and_an_empty_one_are_refused(photographs, tmp_path, capsys):
    assert command(tmp_path) == exits.BAD_USAGE
    assert "holds no run" in capsys.readouterr().err
    for name in os.listdir(photographs / "ant"):
        (photographs / "ant" / name).write_text("no image")
    from_config.run(replace(config(photographs / "ant", tmp_path / "none")))
    capsys.readouterr()
    assert command(tmp_path / "none") == exits.BAD_USAGE
    assert "holds no explanation: 4 rows, none of them ok" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--unit", "pixel"], "did you mean 'pixels'?"),
        (["--metrics", "curve"], "did you mean 'curves'?"),
        (["--labels", "best"], "labels must be one of 'top', 'all'"),
        (["--steps", "0"], "steps must be at least 1; got 0"),
        (["--fill", "meen"], "did you mean 'mean'?"),
        (["--limit", "0"], "limit must be at least 1; got 0"),
        (["--fill", "[0, 0.5, 1, 2]"], "fill must have one entry per channel, c = 3; got 4"),
    ],
)
def test_wrong_options_are_one_line(run, arguments, message, capsys):
    assert command(run, *arguments) == exits.BAD_USAGE
    assert message in capsys.readouterr().err
    assert not shards.shards(run, EVALUATION)


def test_a_function_is_measured_and_methods_that_need_its_layers_cannot_be_had(dataset, tmp_path):
    def bright(x):
        return torch.stack([x[:, :, :12].mean((1, 2, 3)), x[:, :, 12:].mean((1, 2, 3))], 1)

    settings = {"n_samples": 30, "segments": gpulime.segments.Grid(3, 3), "activation": None, "mean": torch.tensor(0.5)}
    gpulime.runs.explain(bright, dataset, tmp_path / "run", std=0.5, **settings)
    with pytest.raises(GpulimeError, match=r"settings of .*run.json \(functions and arrays among them must be given again\)"):
        gpulime.evaluate.run(tmp_path / "run", bright, dataset)
    given = {"mean": torch.tensor(0.5), "methods": ["gradcam", "occlusion"], "metrics": ["curves"]}
    found = gpulime.evaluate.run(tmp_path / "run", bright, dataset, **given)
    assert "gradcam" in found.absent
    gaps = {score.method: score.mean for score in found.scores if score.metric == "gap"}
    assert set(gaps) == {"lime", "random", "centre", "occlusion"}
    assert gaps["lime"] == max(gaps.values())


def test_a_mean_over_some_of_the_inputs_says_so():
    score = summary.Score(rows.INSERTION, "lime", "segments", "mean", 0.25, 0.125, 3, 5)
    whole = replace(score, method="random", inputs=8, undefined=0)
    found = str(summary.Summary("image", 8, {}, {}, [score, whole], {}))
    assert "in brackets the images with a value, if not all have one" in found
    assert "0.250 ± 0.125 (3)" in found
    assert "(8)" not in found
    assert "in brackets" not in str(summary.Summary("image", 8, {}, {}, [whole], {}))
