"""The settings: their names and defaults, what changes a row, and the files in configs/."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import pytest

from gpulime import config
from gpulime.config import Config, DataConfig, LimeConfig, StoreConfig
from gpulime.errors import GpulimeError

# Defaults of an Explainer, and of a run, which is long and may be of another kind.
DIFFER = {"compile": (False, "auto"), "quality": (None, "fast"), "kernel_width": (0.25, "auto"), "distance": ("cosine", "auto")}
DIFFER["activation"] = ("softmax", "auto")
DIFFER["segments"] = ("slic", {"slic": {"n_segments": 60}})
CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_loads(path, monkeypatch):
    from gpulime.cli import main
    from gpulime.runs import from_config

    given = []
    monkeypatch.setattr(from_config, "run", lambda chosen, **call: given.append(chosen) or 0)
    assert main.main(["explain", "--config", str(path)]) == 0
    assert given[0].out.startswith("runs/")
    if given[0].kind != "image":
        assert given[0].model.estimator
        return
    assert given[0].model.factory
    from gpulime import Explainer
    from gpulime.engine.quality import QUALITIES

    lime = vars(config.resolved(given[0]).lime).copy()
    del lime["labels"]  # an argument of explain()
    explainer = Explainer(lambda rows: rows, **lime)  # its values are right too
    assert explainer.n_samples == {"lime_defaults.yaml": 1000}.get(path.name, QUALITIES["fast"].n_samples)


@pytest.mark.parametrize(
    ("given", "meant"),
    [("true", True), ("false", False), ("auto", "auto"), ("reduce-overhead", "reduce-overhead"), ("fast", None)],
)
def test_compile_is_a_switch_or_a_mode(given, meant, monkeypatch, capsys):
    from gpulime.cli import main
    from gpulime.runs import from_config

    seen = []
    monkeypatch.setattr(from_config, "run", lambda chosen, **call: seen.append(chosen.lime.compile) or 0)
    assert main.main(["explain", "--lime.compile", given]) == (2 if meant is None else 0)
    assert seen == ([] if meant is None else [meant])
    assert ("lime.compile must be true or false or 'auto' or 'reduce-overhead' or " in capsys.readouterr().err) == (
        meant is None
    )


def test_labels_are_a_mode_or_classes_and_names_may_be_a_list(tmp_path, monkeypatch):
    from gpulime.cli import main
    from gpulime.runs import from_config

    seen = []
    monkeypatch.setattr(
        from_config, "run", lambda chosen, **call: seen.append((chosen.lime.labels, chosen.model.class_names)) or 0
    )
    for given in ("top+target", "3", "[3, 7]", "[3, big dog]", "big dog"):
        assert main.main(["explain", "--lime.labels", given]) == 0
    assert [labels for labels, _ in seen] == ["top+target", 3, [3, 7], [3, "big dog"], "big dog"]
    (tmp_path / "a.yaml").write_text("lime: {labels: [dog, 7]}\nmodel: {class_names: [price]}\n")
    assert main.main(["explain", "--config", str(tmp_path / "a.yaml")]) == 0
    assert main.main(["explain", "--model.class_names", "[ant, bee]"]) == 0
    assert main.main(["explain", "--model.class_names", "names.txt"]) == 0
    assert seen[-3:] == [(["dog", 7], ["price"]), ("top", ["ant", "bee"]), ("top", "names.txt")]


def test_there_are_configs():
    assert {path.name for path in CONFIGS} == {
        *("quickstart.yaml", "imagenet_val.yaml", "lime_defaults.yaml", "table.yaml", "texts.yaml")
    }


def test_lime_settings_are_the_arguments_of_explainer():
    from gpulime import Explainer

    arguments = inspect.signature(Explainer.__init__).parameters
    for field in dataclasses.fields(LimeConfig):
        if field.name in DIFFER:
            assert (arguments[field.name].default, config.default(field)) == DIFFER[field.name]
        elif field.name != "labels":  # an argument of explain()
            assert arguments[field.name].default == config.default(field), field.name


def test_each_setting_has_a_line_for_the_help():
    for name, field in config.settings():
        assert 10 < len(field.metadata["help"]) < 120, name


def _other(value):
    """A valid value other than ``value``."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return {"other": 1} if isinstance(value, dict) else "other"


@pytest.mark.parametrize("name", [name for name, _ in config.settings()])
def test_fixed_holds_what_changes_a_row(name):
    section, _, last = name.rpartition(".")
    value = _other(config.default(dict(config.settings())[name]))
    if last in ("mean", "std"):
        changed = Config(lime=LimeConfig(mean=[0.5], std=[0.5]))
    elif last in ("limit", "resize", "crop", "channels"):
        changed = Config(data=DataConfig(**{last: 7}))
    elif name in ("data.text", "data.columns"):
        changed = Config(data=DataConfig(**{last: ["a"] if last == "columns" else "a"}))
    elif last == "bands":
        changed = Config(data=DataConfig(bands=[3, 2, 1]))
    elif section:
        changed = Config(**{section: config.SECTIONS[section](**{last: value})})
    else:
        changed = Config(**{last: value})
    assert (config.fixed(changed) == config.fixed(Config())) == (name in config.CHANGES_NO_ROW or _concerns_no_image(name))


def _concerns_no_image(name):
    return name in config.OF_RECORDS - {"data.text", "data.columns"} or name.partition(".")[0] in ("text", "table")


def test_fixed_holds_the_settings_of_its_kind():
    image, text, row = (
        config.fixed(Config(data=data)) for data in (DataConfig(), DataConfig(text="post"), DataConfig(columns="all"))
    )
    assert {"data.resize", "lime.segments"} <= image.keys()
    assert {"data.text", "text.hide", "lime.sampler", "model.estimator"} <= text.keys()
    assert not {"data.text", "text.hide", "table.missing", "model.estimator"} & image.keys()
    assert {"table.discretizer", "data.training"} <= row.keys()
    assert not {"lime.segments", "data.resize", "table.discretizer"} & text.keys()
    assert not {"lime.segments", "data.resize", "lime.sampler", "text.hide"} & row.keys()


@pytest.mark.parametrize(
    ("data", "meant"),
    [
        ({}, (0.25, "cosine", "softmax")),
        ({"text": "post"}, (0.25, "cosine", "auto")),
        ({"columns": "all"}, (None, "euclidean", "auto")),
    ],
)
def test_auto_depends_on_the_kind_and_gives_way_to_a_value(data, meant):
    found = config.resolved(Config(data=DataConfig(**data))).lime
    assert (found.kernel_width, found.distance, found.activation) == meant
    given = LimeConfig(kernel_width=2.0, distance="hamming", activation=None)
    assert config.resolved(Config(data=DataConfig(**data), lime=given)).lime == given


def test_texts_and_a_table_are_not_explained_at_once():
    with pytest.raises(GpulimeError, match=r"data\.text explains texts, data\.columns a table: set one of the two"):
        DataConfig(text="a", columns=["b"])


@pytest.mark.parametrize(("section", "name"), [("text", "TextExplainer"), ("table", "TableExplainer")])
def test_settings_of_a_kind_are_arguments_of_its_explainer(section, name):
    import gpulime

    arguments = inspect.signature(getattr(gpulime, name).__init__).parameters
    for field in dataclasses.fields(config.SECTIONS[section]):
        assert (arguments[field.name].default or None) == (config.default(field) or None), field.name


def test_changes_no_row_names_settings():
    assert {name for name, _ in config.settings()} > config.CHANGES_NO_ROW


def test_from_dict_reads_what_asdict_writes():
    given = Config(out="x", lime=LimeConfig(n_samples=7, segments={"slic": {"n_segments": 3}}), store=StoreConfig(1, 2.0))
    assert config.from_dict(dataclasses.asdict(given)) == given
    assert config.from_dict({}) == config.from_dict({"lime": None}) == Config()
    assert config.from_dict({"lime.n_samples": 7}) == Config(lime=LimeConfig(n_samples=7))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lime": {"n_sample": 10}}, "unknown key 'lime.n_sample' (did you mean 'lime.n_samples'?)"),
        ({"lime.n_sample": 10}, "unknown key 'lime.n_sample' (did you mean 'lime.n_samples'?)"),
        ({"n_samples": 10}, "unknown key 'n_samples' (did you mean 'lime.n_samples'?)"),
        ({"lme": {"n_samples": 10}}, "unknown key 'lme' (did you mean 'lime'?)"),
        ({"data": {1: 2}}, "unknown key 'data.1'"),
        ({7: 8}, "unknown key '7'"),
        ({"lime": 10}, "lime must be a mapping of settings such as 'lime: {quality: ...}'; got 10"),
    ],
)
def test_unknown_keys_are_named_with_the_nearest(given, message):
    with pytest.raises(GpulimeError) as caught:
        config.from_dict(given)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("data", {"workers": -1}, "data.workers must be 0 or more; got -1"),
        ("data", {"batch_size": 0}, "data.batch_size must be 1 or more; got 0"),
        ("data", {"limit": 0}, "data.limit must be 1 or more; got 0"),
        ("data", {"crop": 0}, "data.crop must be 1 or more; got 0"),
        ("data", {"timeout_seconds": 0.0}, "data.timeout_seconds must be above 0; got 0.0"),
        ("data", {"max_megapixels": 0.0}, "data.max_megapixels must be above 0; got 0.0"),
        ("data", {"channels": 0}, "data.channels must be 1 or more; got 0"),
        ("data", {"max_megabytes": 0.0}, "data.max_megabytes must be above 0; got 0.0"),
        ("store", {"flush_rows": 0}, "store.flush_rows must be 1 or more; got 0"),
        ("store", {"flush_seconds": 0.0}, "store.flush_seconds must be above 0; got 0.0"),
        ("lime", {"mean": [0.5]}, "lime.mean and lime.std must be given together; got [0.5] and None"),
    ],
)
def test_values_out_of_range_are_refused(section, values, message):
    with pytest.raises(GpulimeError) as caught:
        config.from_dict({section: values})
    assert str(caught.value) == message


@pytest.mark.parametrize("out", ["s3://bucket/run", "gs://b/run", "abfss://c@a.dfs.core.windows.net/run", "file:///tmp/run"])
def test_an_address_is_no_directory(out):
    scheme = out.partition(":")[0]
    with pytest.raises(GpulimeError) as caught:
        config.from_dict({"out": out})
    assert str(caught.value) == (
        f"out must be a directory, not an address of {scheme}; got {out!r}: write to a local or network path and copy results/ "
        "afterwards: shards never change"
    )


@pytest.mark.parametrize("out", ["runs/a:b", "C:/runs", "C:\\runs", "//server/share/run", "a:b/c", "runs/12:30/x"])
def test_a_path_with_a_colon_is_one(out):
    assert config.from_dict({"out": out}).out == out


def test_a_run_cannot_end_after_no_failures():
    with pytest.raises(GpulimeError, match="max_failures_in_a_row must be 1 or more, or null; got 0"):
        config.from_dict({"max_failures_in_a_row": 0})
    assert config.from_dict({"max_failures_in_a_row": None}).max_failures_in_a_row is None


def test_a_name_that_no_text_can_hold_is_refused():
    with pytest.raises(GpulimeError, match=r"out must be UTF-8; got 'runs/\\udcff'"):
        config.check_out("runs/\udcff")
    config.check_out("runs/über nacht\n")
