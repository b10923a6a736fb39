"""Models by import path, weights from files, transforms of their own and by the settings, names of the classes."""

from __future__ import annotations

import json
import os
import sys
import types
from contextlib import suppress

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision.models import EfficientNet_B0_Weights, ResNet18_Weights, ResNet50_Weights
from torchvision.models._api import WeightsEnum

from gpulime.config import DataConfig, LimeConfig, ModelConfig
from gpulime.errors import GpulimeError
from gpulime.runs.reading import code, models, weights
from gpulime.runs.reading.transform import Transform, channels_of, of_torchvision

LINEAR = ModelConfig(factory="torch.nn.Linear", kwargs={"in_features": 2, "out_features": 3})


def load(config=LINEAR, data=None, lime=None, **changes):
    settings = {"factory": config.factory, "kwargs": config.kwargs, **changes}
    return models.load(ModelConfig(**settings), data or DataConfig(crop=8), lime or LimeConfig())


def refused(*arguments, **changes):
    with pytest.raises(GpulimeError) as caught:
        load(*arguments, **changes)
    return str(caught.value)


@pytest.fixture
def no_download(monkeypatch):
    """Pretrained weights of torchvision are random ones."""
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: torchvision.models.resnet18().state_dict())


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Writes a module of the user's own into the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_any_callable_that_returns_a_module(project):
    loaded = load()
    assert isinstance(loaded.model, nn.Linear)
    assert loaded.description == "torch.nn.Linear(in_features=2, out_features=3)"
    assert loaded.class_names is None
    project("my_own_project", "from torch import nn\nclass Zoo:\n    make = staticmethod(lambda c: nn.Conv2d(3, c, 1))\n")
    for path in ("my_own_project.Zoo.make", "my_own_project:Zoo.make"):
        assert load(factory=path, kwargs={"c": 5}).model.out_channels == 5


@pytest.mark.parametrize(
    ("factory", "kwargs", "message"),
    [
        (None, {}, "model.factory is not set: give the function that makes your model, such as --model.factory torchvision."),
        ("nowhere_to_be_found.make", {}, "there is no module 'nowhere_to_be_found'"),
        ("torchvision.models.resnet81", {}, "torchvision.models has no 'resnet81' (did you mean 'resnet18'?)"),
        ("torchvision.modles.resnet18", {}, "torchvision has no 'modles' (did you mean 'models'?)"),
        ("torch.nn.Linear", {"in_features": 2}, "the call with {'in_features': 2} failed with TypeError: "),
        ("builtins.dict", {}, "must return a torch.nn.Module; it returned a dict"),
        ("math.pi", {}, "must be something to call that returns the model; got 3.14"),
        ("torchvision.models.resnet18", {"weights": "IMAGENET1K_V7"}, "model.kwargs.weights must be one of 'IMAGENET1K_V1'"),
        ("", {}, "importing '' failed with ValueError"),
    ],
)
def test_a_factory_that_makes_no_model_is_refused(factory, kwargs, message):
    assert refused(factory=factory, kwargs=kwargs).removeprefix(f"model.factory {factory!r}: ").startswith(message)


def test_a_missing_package_of_the_quickstart_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    assert "[demo]" in refused(factory="efficientnet_lite_pytorch.EfficientNet.from_name")


def test_errors_in_a_project_are_shown(project):
    project("needs_more", "import not_there_at_all\n")
    assert refused(factory="needs_more.make") == "model.factory 'needs_more.make': there is no module 'not_there_at_all'"
    project("broken", "1 / 0\n")
    assert refused(factory="broken.make").endswith("importing 'broken' failed with ZeroDivisionError: division by zero")


@pytest.mark.parametrize("nested", [None, "state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_are_read_wherever_training_code_puts_them(tmp_path, nested, prefix):
    state = {prefix + name: value for name, value in nn.Linear(2, 3).state_dict().items()}
    path = tmp_path / "a.pt"
    torch.save({nested: state, "epoch": 3} if nested else state, path)
    loaded = load(checkpoint=str(path))
    assert torch.equal(loaded.model.weight, state[f"{prefix}weight"])
    assert loaded.weights_sha256 == code.sha256(loaded.model) != load().weights_sha256


def test_safetensors(tmp_path):
    state = nn.Linear(2, 3).state_dict()
    save_file(state, tmp_path / "a.safetensors")
    assert torch.equal(load(checkpoint=str(tmp_path / "a.safetensors")).model.bias, state["bias"])
    (tmp_path / "b.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:-4])
    assert "is not a whole .safetensors file" in refused(checkpoint=str(tmp_path / "b.safetensors"))


class _Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_checkpoint_that_needs_code_is_refused_and_not_run(tmp_path):
    path = tmp_path / "a.pt"
    torch.save({"state_dict": _Payload(str(tmp_path / "ran"))}, path)
    assert "it is not loaded, because that could run any code" in refused(checkpoint=str(path))
    torch.save(nn.Linear(2, 3), path)  # a whole module is a pickle of code, too
    assert "torch.save(model.state_dict(), path)" in refused(checkpoint=str(path))
    assert not (tmp_path / "ran").exists()


def test_damaged_and_missing_checkpoints_are_refused(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(nn.Linear(2, 3).state_dict(), path)
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"<html></html>"):
        path.write_bytes(content)
        assert refused(checkpoint=str(path)).startswith(f"model.checkpoint {str(path)!r}: ")
    assert refused(checkpoint="gone.pt") == "model.checkpoint 'gone.pt': there is no such file"
    assert refused(checkpoint="package://not_installed/a.pt").endswith("there is no installed package 'not_installed'")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_rot_in_a_checkpoint_is_refused(tmp_path, legacy):
    """It shows as KeyError, IndexError, AssertionError, struct.error, UnicodeDecodeError and others."""
    path, model, random = tmp_path / "a.pt", nn.Linear(2, 3), np.random.default_rng(0)
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for _ in range(100):
        content = bytearray(whole)
        for place in random.integers(len(whole), size=3):
            content[place] = random.integers(256)
        path.write_bytes(content)
        with suppress(GpulimeError):
            weights.put(weights.read(str(path)), model)


def with_buffer(value):
    module = nn.Module()
    module.register_buffer("a", value)
    return module


@pytest.mark.parametrize("model", [lambda: nn.LazyLinear(3), lambda: nn.Linear(2, 3, device="meta")], ids=["lazy", "meta"])
def test_a_model_without_values_has_no_digest(model):
    with pytest.raises(GpulimeError, match=r"^the values of the model's 'bias' cannot be read: "):
        code.sha256(model())


def test_sparse_weights_have_the_digest_of_their_values():
    dense = torch.eye(3)
    assert code.sha256(with_buffer(dense.to_sparse())) == code.sha256(with_buffer(dense))


def test_weights_that_do_not_fit_are_named(tmp_path):
    path = tmp_path / "a.pt"

    def message(state):
        torch.save(state, path)
        return refused(checkpoint=str(path)).removeprefix(f"model.checkpoint {str(path)!r}: ")

    other = {f"layer.{i}": torch.zeros(1) for i in range(7)}
    assert message(other) == (
        "does not fit the model; weights 2 missing: 'weight', 'bias', 7 unknown to it: "
        "'layer.0', 'layer.1', 'layer.2', 'layer.3', 'layer.4' ..."
    )
    assert "size mismatch for weight" in message(nn.Linear(4, 3).state_dict())
    assert message({"epoch": 3}) == (
        "must hold a state dict, at its top or under one of 'state_dict', 'model_state_dict', 'model'; "
        "it holds a mapping of 'epoch'"
    )
    assert message([1]).endswith("it holds a list")
    assert message({1: torch.zeros(1)}).endswith("it holds a mapping of 1")
    assert message({"weight": torch.zeros(3, 2), "bias": "zero"}).startswith("does not fit the model: ")


def test_a_file_inside_a_package(tmp_path, monkeypatch):
    (tmp_path / "some_weights" / "files").mkdir(parents=True)
    torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "some_weights" / "files" / "a.pth")
    (tmp_path / "some_weights" / "__init__.py").write_text("raise RuntimeError('is not imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert load(checkpoint="package://some_weights/files/a.pth").model.out_features == 3


def test_the_digest_tells_names_shapes_dtypes_and_values_apart():
    def digest(**tensors):
        module = nn.Module()
        for name, value in tensors.items():
            module.register_buffer(name, value)
        return code.sha256(module)

    zeros = torch.zeros(2, 3)
    others = [
        {"a": zeros + 1},
        {"b": zeros},
        {"a": zeros.reshape(3, 2)},
        {"a": zeros.int()},
        {"a": zeros.bfloat16()},
        {"a": zeros, "b": torch.tensor(0)},
    ]
    assert len({digest(a=zeros), *(digest(**tensors) for tensors in others)}) == 7
    assert digest(a=zeros) == digest(a=zeros.clone())
    assert digest(a=zeros, b=zeros + 1) == digest(b=zeros + 1, a=zeros)
    assert digest(a=torch.arange(6.0).reshape(2, 3).T) == digest(a=torch.arange(6.0).reshape(2, 3).T.contiguous())


def test_torchvision_weights_bring_transform_and_names(no_download):
    loaded = load(factory="torchvision.models.resnet18", kwargs={"weights": "IMAGENET1K_V1"}, data=DataConfig())
    assert loaded.transform == Transform(256, 224, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 3)
    assert loaded.class_names == ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    for name in ("DEFAULT", "ResNet18_Weights.IMAGENET1K_V1"):
        other = load(factory="torchvision.models.resnet18", kwargs={"weights": name}, data=DataConfig())
        assert other.transform == loaded.transform


@pytest.mark.parametrize("member", [ResNet50_Weights.IMAGENET1K_V2, EfficientNet_B0_Weights.IMAGENET1K_V1])
def test_the_pixels_are_those_of_torchvisions_own_transform(member):
    array = np.random.default_rng(0).integers(0, 256, (310, 275, 3)).astype(np.uint8)
    picture = Image.fromarray(array)
    transform = of_torchvision(member)
    unit = torch.from_numpy(transform(picture)).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (transform.mean, transform.std))
    torch.testing.assert_close((unit - mean) / std, member.transforms()(picture), rtol=0, atol=1e-6)


TIMM = {}


@pytest.fixture
def timm_model(monkeypatch):
    """A model as timm makes it, with ``settings`` in place of those that timm resolves."""

    def make(**settings):
        known = {"input_size": (3, 224, 224), "interpolation": "bicubic", "crop_pct": 0.95, "crop_mode": "center"}
        known |= {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), **settings}
        monkeypatch.setattr(f"{__name__}.TIMM", known)
        package, data = types.ModuleType("timm"), types.ModuleType("timm.data")
        data.resolve_model_data_config = lambda model: known
        package.create_model = _timm_create
        monkeypatch.setitem(sys.modules, "timm", package)
        monkeypatch.setitem(sys.modules, "timm.data", data)
        return ModelConfig(factory="timm.create_model")

    return make


def _timm_create():
    model = nn.Identity()
    model.pretrained_cfg = TIMM
    return model


def test_timm_models_bring_their_transform(timm_model):
    expected = Transform(235, 224, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert load(timm_model(), data=DataConfig()).transform == expected
    for settings in ({"crop_mode": "squash"}, {"input_size": (3, 224, 448)}):
        assert "the model's input size is unknown" in refused(timm_model(**settings), data=DataConfig())


def test_a_model_of_timm_itself():
    timm = pytest.importorskip("timm")
    loaded = load(factory="timm.create_model", kwargs={"model_name": "resnet10t", "pretrained": False}, data=DataConfig())
    assert type(loaded.model) is type(timm.create_model("resnet10t"))
    own = timm.data.resolve_model_data_config(loaded.model)
    assert (loaded.transform.crop, loaded.transform.mean) == (own["input_size"][1], own["mean"])
    assert loaded.transform.resize == int(own["input_size"][1] / own["crop_pct"])


def test_as_many_channels_are_read_as_the_model_takes(timm_model):
    conv = {"out_channels": 1, "kernel_size": 1}
    for channels in (1, 3, 13):
        found = load(factory="torch.nn.Conv2d", kwargs={"in_channels": channels, **conv}).transform
        assert found.channels == channels
        assert (
            load(
                factory="torch.nn.Conv2d", kwargs={"in_channels": channels, **conv}, data=DataConfig(crop=8, channels=2)
            ).transform.channels
            == 2
        )
    assert load().transform.channels is None  # no convolution tells
    nested = nn.Sequential(nn.Flatten(0), nn.ModuleList([nn.Conv2d(5, 2, 1), nn.Conv2d(2, 1, 1)]))
    assert (channels_of(nested), channels_of(nn.LazyConv2d(2, 1)), channels_of(len)) == (5, None, None)


def test_a_gray_model_of_timm_has_one_mean(timm_model):
    gray = timm_model(mean=(0.2, 0.5, 0.8))
    transform = load(gray, data=DataConfig(channels=1)).transform
    assert (transform.mean, transform.std, transform.channels) == ((0.5,), (0.25,), 1)
    assert refused(gray, DataConfig(channels=13)) == (
        "the model's own normalisation has 3 entries and its input 13 channels: set lime.mean and lime.std"
    )
    assert load(gray, DataConfig(channels=13), LimeConfig(mean=[0.5], std=[1])).transform.mean == (0.5,)


def test_settings_come_before_the_models_own(timm_model):
    data = DataConfig(resize=100, crop=90, interpolation="nearest")
    chosen = load(timm_model(), data, LimeConfig(mean=[0, 0, 0], std=[1, 1, 1])).transform
    assert chosen == Transform(100, 90, "nearest", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert load(timm_model(), DataConfig(crop=90)).transform.resize == 235


def test_a_size_that_cannot_be_is_refused(timm_model):
    assert refused(data=DataConfig()).startswith(
        "the model's input size is unknown: set data.resize and data.crop together, such as --data.resize 256"
    )
    assert refused(timm_model(), DataConfig(crop=300)) == (
        "data.crop must not be above data.resize; got 300 and 235 (the model's own are 224 and 235)"
    )


def test_transform_resizes_the_shorter_side_and_crops_the_centre():
    array = np.zeros((40, 80, 3), np.uint8)
    array[:, 30:50] = 255
    assert Transform()(Image.fromarray(array)).shape == (40, 80, 3)
    assert Transform(resize=20)(Image.fromarray(array)).shape == (20, 40, 3)
    assert np.array_equal(Transform(crop=20)(Image.fromarray(array)), np.full((20, 20, 3), 255))


def test_class_names_from_files_and_weights(tmp_path):
    (tmp_path / "names.txt").write_text("ant\nbig bee\r\ncat\n\n", encoding="utf-8-sig")
    (tmp_path / "names.json").write_text(json.dumps(["ant", "bee"]))
    assert load(class_names=str(tmp_path / "names.txt")).class_names == ["ant", "big bee", "cat"]
    assert load(class_names=str(tmp_path / "names.json")).class_names == ["ant", "bee"]
    names = load(class_names="torchvision.models.EfficientNet_B0_Weights.IMAGENET1K_V1").class_names
    assert (len(names), names[0]) == (1000, "tench")


@pytest.mark.parametrize(
    ("setting", "content", "message"),
    [
        ("gone.txt", None, "cannot be read: No such file or directory"),
        ("empty.txt", "", "must hold a list of names, one per class; got []"),
        ("names.json", '{"0": "ant"}', "must hold a list of names, one per class; got {'0': 'ant'}"),
        ("names.json", "[", "cannot be read: "),
        ("torch.nn.Linear", None, "must be a .txt, a .json or the import path of torchvision weights"),
        ("torchvision.models.ResNet18_Weights.V9", None, "ResNet18_Weights has no 'V9'"),
    ],
)
def test_bad_class_names_are_refused(project, tmp_path, setting, content, message):
    if content is not None:
        (tmp_path / setting).write_text(content)
    assert refused(class_names=setting).startswith(f"model.class_names {setting!r}: {message}")


def test_a_pipe_holds_no_class_names(tmp_path):
    os.mkfifo(tmp_path / "names.txt")
    assert refused(class_names=str(tmp_path / "names.txt")).endswith("is not a regular file")
