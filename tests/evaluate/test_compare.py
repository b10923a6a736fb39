"""Methods in one table: each row against direct calls, costs against counts, and methods that fail or are equal."""

from __future__ import annotations

import importlib.util
import math
import sys
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks.models import synthetic
from gpulime import Explainer, GpulimeError, evaluate
from gpulime.evaluate.cost import counted
from gpulime.evaluate.method_maps import logits
from gpulime.evaluate.methods import METHODS, Fgvis, KernelShap, NotAvailableError, Occlusion, Rise
from gpulime.evaluate.same_maps import equal, same_maps

IMAGES = synthetic(4, 20, 22)
MEAN, STD = 0.5, 0.25
SEGMENTS = {"grid": {"rows": 4, "columns": 3}}


@pytest.fixture
def small():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, 5)
    layers[4].weight.data *= 8
    return nn.Sequential(*layers).eval()


@pytest.fixture
def explainer(small):
    return Explainer(small, 50, segments=SEGMENTS, mean=MEAN, std=STD)


def test_rows_are_means_of_direct_calls(small, explainer):
    found = evaluate.compare({"lime": explainer, "gradient": METHODS["gradient"]}, explainer, IMAGES, n_samples=30)
    top = explainer.explain(IMAGES).labels[:, :1]
    assert torch.equal(found.labels, top)
    explained = explainer.explain(IMAGES, top)
    gradient = METHODS["gradient"](small, (IMAGES - MEAN) / STD, top)
    assert [row.method for row in found.rows] == ["lime", "gradient", "random", "centre"]
    blind = evaluate.random_maps(explained.segments, top), evaluate.centre_maps(explained.segments, top)
    for row, given in zip(found.rows, (explained, gradient, *blind), strict=True):
        played = evaluate.curves(explainer, IMAGES, given, labels=top)
        held = evaluate.held_out(explainer, IMAGES, given, 30, labels=top)
        assert row.status == "ok"
        assert row.judged == 4
        assert row.deletion == pytest.approx(float(played.deletion_auc.mean()), abs=1e-6)
        assert row.insertion == pytest.approx(float(played.insertion_auc.mean()), abs=1e-6)
        assert row.gap == pytest.approx(row.insertion - row.deletion, abs=1e-6)
        assert row.held_out_r2 == pytest.approx(float(held.r2.mean()), abs=1e-5)
    torch.testing.assert_close(found.maps["gradient"], gradient)
    torch.testing.assert_close(found.maps["lime"].double(), explained.heatmaps(), rtol=1e-5, atol=1e-6)
    assert found["lime"].gap > max(found["random"].gap, found["centre"].gap)


def test_costs_are_those_of_the_explanation_for_each_image(small, explainer):
    explainer.explain(IMAGES)  # the first batch is passed again once, to see if the model is steady
    found = evaluate.compare({"lime": explainer, "gradient": METHODS["gradient"], "rise": Rise(30)}, explainer, IMAGES)
    assert found["lime"].forwards == 50
    assert found["lime"].backwards == 0
    assert found["gradient"].forwards == 1 + 1 / 4  # and a look at one image
    assert found["gradient"].backwards == 1
    assert 31 <= found["rise"].forwards <= 33
    assert 0 < found["gradient"].seconds < 60
    assert math.isnan(found["random"].forwards)


def test_a_function_has_forwards_and_methods_that_need_its_layers_say_so(small):
    def function(x):
        return x.mean((2, 3))

    judge = Explainer(function, 20, segments=SEGMENTS, mean=MEAN, std=STD)
    methods = {"lime": judge, "rise": Rise(30, 3), "kernelshap": KernelShap(40), "guided": METHODS["guided_backprop"]}
    found = evaluate.compare(methods, judge, IMAGES, n_samples=0)
    assert found["lime"].forwards == 20
    assert 31 <= found["rise"].forwards <= 33
    assert 40 <= found["kernelshap"].forwards <= 42
    if importlib.util.find_spec("captum"):
        assert found["guided"].status == "not available: it needs an nn.Module, to replace its ReLUs; got a function"


def test_the_judge_passes_no_more_rows_than_its_batch_holds(small):
    rows: list[int] = []
    small.register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
    evaluate.compare({}, Explainer(small, 50, segments=SEGMENTS, mean=MEAN, std=STD, batch_size=3), IMAGES, n_samples=5)
    assert max(rows) == 3


def test_classes_of_a_module_are_found_in_halves_if_memory_runs_out(small):
    class Narrow(nn.Module):
        def forward(self, x):
            if len(x) > 2:
                raise torch.OutOfMemoryError("out of memory")
            return small(x)

    with pytest.warns(UserWarning, match="out of memory with 4 rows: going on with fewer"):
        found = logits(Narrow(), IMAGES)
    torch.testing.assert_close(found, small(IMAGES).detach())


def test_pixels_of_an_image_of_fewer_than_28_are_hidden_one_by_one():
    model = nn.Sequential(nn.Flatten(), nn.Linear(75, 3))
    found = evaluate.compare(
        {}, Explainer(model, 20, "grid", mean=MEAN, std=STD), IMAGES[..., :5, :5], unit="pixels", n_samples=0
    )
    assert found["random"].judged == 4


def test_one_image_is_no_images(explainer):
    assert str(evaluate.compare({}, explainer, IMAGES[:1], 1, n_samples=0)).startswith("1 image, 1 label each;")


def test_forwards_and_backwards_are_counted_from_outside(small):
    images = torch.randn(3, 3, 9, 9)

    class Fails(nn.Module):
        def forward(self, x):
            raise RuntimeError("no")

    broken = nn.Sequential(nn.Conv2d(3, 3, 1), Fails())
    with counted(torch.device("cpu")) as cost:
        for _ in range(2):
            small(images)
        torch.autograd.grad(small(images[:2])[:, 0].sum(), small[0].weight)
        nn.Softmax(1)(images)  # no model
        with pytest.raises(RuntimeError, match="no"):
            broken(images)
        small(images[:1])
    small(images)
    assert (cost.forwards, cost.backwards) == (3 + 3 + 2 + 1, 2)
    assert cost.seconds > 0


def test_equal_maps_are_told_and_constant_ones_have_no_scores(explainer):
    methods = {
        "gradient": METHODS["gradient"],
        "again": lambda *given: 3 * METHODS["gradient"](*given),
        "other": lambda *given: -METHODS["gradient"](*given),
        "flat": lambda model, images, labels: torch.ones(4, 1, 20, 22),
        "half": lambda model, images, labels: torch.arange(4).view(4, 1, 1, 1).clamp(max=1) * images[:, :1],
    }
    found = evaluate.compare(methods, explainer, IMAGES, 2, n_samples=0)
    assert [row.status for row in found.rows[:3]] == ["ok", "equal to gradient", "ok"]
    assert found["again"].gap == pytest.approx(found["gradient"].gap)
    assert found["flat"].status == "4 of 4 not judged: the map is constant, 1 in 12 units"
    assert math.isnan(found["flat"].gap)
    assert found["half"].status.startswith("1 of 4 not judged: the map is constant")
    assert found["half"].judged == 3
    assert math.isfinite(found["half"].gap)
    assert math.isnan(found["gradient"].held_out_r2)


def test_methods_that_fail_have_their_reason_and_the_rest_goes_on(explainer):
    def absent(model, images, labels):
        raise NotAvailableError("it needs a moon")

    def wrong(model, images, labels):
        return torch.zeros(4, 1, 3, 3)

    def raises(model, images, labels):
        return 1 / 0

    methods = {"absent": absent, "wrong": wrong, "raises": raises, "gradient": METHODS["gradient"]}
    found = evaluate.compare(methods, explainer, IMAGES, 0, n_samples=5)
    assert [row.status for row in found.rows] == [
        "not available: it needs a moon",
        "failed: method 'wrong' must return maps (n, l, h, w) = (4, 1, 20, 22); got (4, 1, 3, 3)",
        "failed: ZeroDivisionError: division by zero",
        *["ok"] * 3,
    ]
    assert math.isnan(found["absent"].gap)
    assert set(found.maps) == {"gradient", "random", "centre"}


class Blind(nn.Module):
    """A model whose output is NaN for dark images."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x) * torch.where(x.mean((1, 2, 3)) < -1.5, torch.nan, 1.0)[:, None]


def test_an_image_that_a_method_cannot_explain_leaves_the_others_their_maps(small, explainer):
    pytest.importorskip("captum")
    dark = IMAGES.clone()
    dark[1] *= 0.1
    judge = Explainer(Blind(small), 50, segments=SEGMENTS, mean=MEAN, std=STD)
    found = evaluate.compare(["ig", "deeplift", "gradient"], judge, dark, 2, n_samples=20)
    rest = [0, 2, 3]
    expected = METHODS["ig"](small, ((dark - MEAN) / STD)[rest], 2)
    assert found["ig"].status == "1 of 4 not judged: the model's output is NaN or infinite"
    assert found["ig"].judged == 3
    torch.testing.assert_close(found.maps["ig"][rest], expected)
    assert found.maps["ig"][1].isnan().all()
    assert found.maps["gradient"][1].isnan().all()
    assert found.reasons["ig"] == {(1, 0): "the model's output is NaN or infinite"}
    assert found["deeplift"].judged == 3
    played = evaluate.curves(explainer, dark[rest], expected, labels=2)
    held = evaluate.held_out(explainer, dark[rest], expected, 20, labels=2)
    assert found["ig"].gap == pytest.approx(float(played.gap.mean()), abs=1e-6)
    assert found["ig"].held_out_r2 == pytest.approx(float(held.r2.mean()), abs=0.05)  # other masks
    nothing = evaluate.compare(["ig"], judge, dark[1:2].expand(2, -1, -1, -1), 2, n_samples=0)
    assert nothing["ig"].status == "not available: the model's output is NaN or infinite"
    assert set(nothing.maps) == {"random", "centre"}


def test_all_different_reasons_are_counted_and_means_are_over_the_labels_that_are_judged(explainer):
    def some(model, images, labels):
        if len(images) > 1:
            raise RuntimeError("one at a time")
        seen.append(len(images))
        if len(seen) == 1:
            raise NotAvailableError("attributions add up to 1.2e-05")
        if len(seen) == 2:
            raise NotAvailableError("attributions add up to -3")
        return images[:, :1] if len(seen) == 3 else torch.ones_like(images[:, :1])

    seen: list[int] = []
    found = evaluate.compare({"some": some}, explainer, IMAGES, 1, n_samples=5)
    why = "attributions add up to 1.2e-05 (2); the map is constant, 1 in 12 units (1)"
    assert found["some"].status == f"3 of 4 not judged: {why}"
    assert found["some"].judged == 1
    assert [found.reasons["some"][i, 0] for i in (0, 1)] == ["attributions add up to 1.2e-05", "attributions add up to -3"]
    played = evaluate.curves(explainer, IMAGES[2:3], IMAGES[2:3, :1], labels=1)
    for name in ("deletion", "insertion", "gap"):
        score = "gap" if name == "gap" else f"{name}_auc"
        assert getattr(found["some"], name) == pytest.approx(float(getattr(played, score)), abs=1e-6)


def test_what_guided_backprop_does_not_cover_and_its_equality_to_the_gradient_are_told(small):
    pytest.importorskip("captum")
    images = (IMAGES - MEAN) / STD
    found = evaluate.compare(["guided_backprop"], small, images, n_samples=0)
    # one ReLU, behind which the head's signs differ: the gradient is not guided
    assert found["guided_backprop"].status == "ok"
    gated = nn.Sequential(small[0], nn.ReLU(), nn.SiLU(), *small[2:])
    partly = evaluate.compare(["guided_backprop"], gated, images, n_samples=0)["guided_backprop"]
    assert partly.status == "Guided Backprop has a rule for ReLUs alone, and takes the plain gradient of the model's SiLU"
    small[4].weight.data.abs_()  # nothing negative flows back
    found = evaluate.compare(["guided_backprop"], small, images, n_samples=0)
    assert found["guided_backprop"].status == "equal to gradient"
    assert "gradient" not in found.maps
    both = evaluate.compare(["gradient", "guided_backprop"], gated, images, n_samples=0)
    assert both["guided_backprop"].status.startswith("equal to gradient; Guided Backprop has a rule for ReLUs alone")


@pytest.mark.parametrize("activation", ["sigmoid", None])
@pytest.mark.parametrize("method", [Occlusion(windows=3), Rise(40, 3), KernelShap(40)])
def test_methods_that_hide_parts_explain_what_the_explainer_does(method, activation, small):
    if isinstance(method, Occlusion):
        pytest.importorskip("captum")
    judge = Explainer(small, 50, segments=SEGMENTS, mean=MEAN, std=STD, activation=activation)
    given = {"own": method, "given": replace(method, activation=activation), "softmax": replace(method, activation="softmax")}
    found = evaluate.compare(given, judge, IMAGES[:1], 1, n_samples=0)
    assert [found[name].status for name in given] == ["ok", "equal to own", "ok"]


def test_constant_maps_are_equal_to_nothing():
    varied = torch.rand(2, 2, 3, 3)
    for flat in (torch.zeros(2, 2, 3, 3), torch.full((2, 2, 3, 3), 0.3)):
        assert not same_maps(flat, flat).any()
        assert not same_maps(flat, varied).any()
        assert not equal(flat, flat)
        partly = torch.cat([varied[:1], flat[1:]])
        assert same_maps(partly, partly).tolist() == [[True, True], [False, False]]
        assert equal(partly, partly)  # constant maps of both are left out
        assert not equal(partly, varied)


def test_warnings_of_others_are_shown_once(explainer):
    def warns(model, images, labels):
        warnings.warn("mine", RuntimeWarning, stacklevel=1)
        return images[:, :1]

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        found = evaluate.compare({"warns": warns, "again": warns}, explainer, IMAGES, 0, n_samples=0)
    assert found["warns"].status == "ok"
    assert [str(one.message) for one in caught].count("mine") == 1


def test_methods_are_names_and_maps_are_arrays(explainer):
    maps = IMAGES[:, :1].contiguous()
    given = {"plain": "gradient", "tensor": maps, "array": maps.numpy(), "small": maps[:, 0].numpy()[..., ::-1]}
    found = evaluate.compare(given, explainer, IMAGES, 0, n_samples=0)
    assert [found[name].status for name in given] == ["ok", "ok", "equal to tensor", "ok"]
    one = evaluate.compare("gradient", explainer, IMAGES, 0, n_samples=0)
    assert [row.method for row in one.rows] == ["gradient", "random", "centre"]
    assert one["gradient"].gap == found["plain"].gap


def test_the_table_and_the_frame(explainer):
    pandas = pytest.importorskip("pandas")
    absent = {"gradcam": Missing()}
    found = evaluate.compare({"lime": explainer, **absent}, explainer, IMAGES, [[0, 1]] * 4, fill=0.5, n_samples=20)
    blurred = evaluate.compare({}, explainer, IMAGES, 0, fill={"deletion": [0.5, 0.5, 0.5], "insertion": "blur"}, n_samples=0)
    assert blurred.fill == "[0.5, 0.5, 0.5] in deletion, blur in insertion"
    lines = str(found).splitlines()
    assert lines[0] == "4 images, 2 labels each; curves by segments, fill 0.5; cost for each image"
    assert " ".join(lines[1].split()) == "method deletion insertion gap held-out R2 forwards backwards s status"
    assert len(lines) == 6
    assert lines[2].split()[0] == "lime"
    assert lines[2].split()[1] == f"{found['lime'].deletion:.3f}"
    assert lines[3].split() == ["gradcam", *"-" * 7, "not", "available:", "on", "strike"]
    frame = found.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame["method"].tolist() == ["lime", "gradcam", "random", "centre"]
    assert frame["fill"].tolist() == ["0.5"] * 4
    assert frame["gap"][0] == found["lime"].gap
    with pytest.raises(GpulimeError, match="method must be one of 'lime', 'gradcam', 'random', 'centre'; got 'lim'"):
        found["lim"]


class Missing:
    """A method that is not available."""

    def __call__(self, model, images, labels):
        raise NotAvailableError("on strike")


def test_without_pandas_the_command_is_named(explainer, monkeypatch):
    found = evaluate.compare({}, explainer, IMAGES, 0, n_samples=0)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(GpulimeError, match="to_frame needs pandas: pip install pandas"):
        found.to_frame()


def test_a_module_judges_with_a_grid_and_zeros(small):
    images = (IMAGES - MEAN) / STD
    found = evaluate.compare(["gradient"], small, images, 1, n_samples=0)
    judge = Explainer(small, segments="grid", fill=0.0, mean=0.0, std=1.0, normalized=True)
    played = evaluate.curves(judge, images, METHODS["gradient"](small, images, 1), labels=1)
    assert found["gradient"].gap == pytest.approx(float(played.gap.mean()), abs=1e-6)


def test_explanations_maps_segments_and_pixels(explainer):
    segments = torch.arange(4).view(2, 2).repeat_interleave(10, 0).repeat_interleave(11, 1).expand(4, -1, -1)
    explained = explainer.explain(IMAGES, 3, segments)
    methods = {"lime": explained, "explainer": explainer, "maps": explained.heatmaps(), "kernelshap": KernelShap(20)}
    found = evaluate.compare(methods, explainer, IMAGES, 3, segments, n_samples=0)
    assert [found[name].status for name in methods] == ["ok", "equal to lime", "equal to lime", "ok"]
    assert all(len(one.unique()) == 4 for one in found.maps["kernelshap"][:, 0])
    assert found["maps"].gap == pytest.approx(found["lime"].gap, abs=1e-6)
    assert math.isnan(found["lime"].forwards)
    by_pixels = evaluate.compare({"maps": explained.heatmaps()}, explainer, IMAGES, 3, unit="pixels", steps=5, n_samples=0)
    played = evaluate.curves(explainer, IMAGES, explained.heatmaps(), "pixels", 5, labels=3)
    assert by_pixels["maps"].gap == pytest.approx(float(played.gap.mean()), abs=1e-6)


def test_held_out_masks_are_fitted_by_no_explainer(small, explainer):
    other = Explainer(small, 50, segments=SEGMENTS, mean=MEAN, std=STD, seed=1)
    found = evaluate.compare({"other": other}, explainer, IMAGES, 0, n_samples=49)
    expected = evaluate.held_out(explainer, IMAGES, other.explain(IMAGES, 0), 49, seed=2)
    assert found["other"].held_out_r2 == pytest.approx(float(expected.r2.mean()), abs=1e-6)


def test_all_methods_by_name(small, device):
    pytest.importorskip("captum")
    pytest.importorskip("zennit")
    fast = {name: method for name, method in METHODS.items() if name != "kernelshap"} | {
        "rise": Rise(50),
        "fgvis": Fgvis(steps=9),
    }
    images = (IMAGES[:1] - MEAN) / STD
    found = evaluate.compare(fast, small.to(device), images, n_samples=0)
    assert {row.status for row in found.rows} == {"ok"}
    assert len({round(row.gap, 6) for row in found.rows}) > 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"methods": ["gradcan"]}, "method must be one of 'gradient', .*got 'gradcan' .did you mean 'gradcam'"),
        ({"methods": {"mine": "gradcan"}}, "method must be one of 'gradient', .*got 'gradcan' .did you mean 'gradcam'"),
        ({"methods": "gradcan"}, "method must be one of 'gradient', .*got 'gradcan' .did you mean 'gradcam'"),
        ({"methods": {"mine": 3}}, "method 'mine' must be an Explainer, .* or a name of METHODS; got int"),
        ({"methods": {"mine": [[1, 2], [3]]}}, "method 'mine' must be an Explainer, .* or a name of METHODS; got list"),
        ({"methods": [METHODS["rise"]]}, r"methods must be names, or a mapping of name -> method; got \[Rise"),
        ({"methods": METHODS["rise"]}, "methods must be names, or a mapping of name -> method; got Rise"),
        ({"methods": {3: METHODS["rise"]}}, r"names of methods must be strings; got \[3\]"),
        ({"methods": {"random": METHODS["rise"]}}, "'random' and 'centre' are compared anyway; give other names"),
        ({"unit": "words"}, "unit must be one of 'segments', 'pixels'; got 'words'"),
        ({"labels": 7}, "labels must be below the model's 5 classes"),
        ({"fill": "men"}, "fill must be one of 'mean', 'blur'"),
        ({"images": IMAGES[0]}, r"images must be \(n, c, h, w\)"),
        ({"steps": 0}, "steps must be at least 1; got 0"),
    ],
)
def test_bad_settings_raise(arguments, message, explainer):
    given = {"methods": ["gradient"], "explainer": explainer, "images": IMAGES, "labels": 0, "n_samples": 0, **arguments}
    with pytest.raises(GpulimeError, match=message):
        evaluate.compare(**given)
