"""Rows of two models, or of two functions, are never mixed in one run, even with equal names and weights."""

from __future__ import annotations

import importlib
import json
import re
import sys

import pytest
import torch
from torch import nn

import gpulime
from gpulime.errors import GpulimeError
from gpulime.runs.reading import code

SMALL = {"n_samples": 20, "report": False, "activation": None}

PROJECT = '''
import numpy as np
import torch
from torch import nn

class Base(nn.Module):
    def head(self, x):
        return x.mean((2, 3))

class Net(Base):
    """Three classes."""
    def forward(self, x):
        return self.head(x)  # the mean

class Same(Base):
    def forward(self, x):
        return self.head(x)

def halves(picture):
    return np.indices(picture.shape[:2])[0] // 6

def activate(outputs):
    return outputs.softmax(-1)
'''


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A user's module; a function that edits it, as a later process would find it."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_project", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def edited(old="", new=""):
        text = PROJECT.replace(old, new)
        assert (text == PROJECT) == (old == new)
        (tmp_path / "my_project.py").write_text(text)
        sys.modules.pop("my_project", None)
        return importlib.import_module("my_project")

    yield edited
    sys.modules.pop("my_project", None)


def explain(model, out, **settings):
    images = [torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    return gpulime.runs.explain(model, images, out, **{**SMALL, "segments": "grid", **settings})


def leaky(slope):
    return nn.Sequential(nn.LeakyReLU(slope), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda edit: leaky(0.01), lambda edit: leaky(0.9)),
        (lambda edit: edit().Net(), lambda edit: edit().Same()),
        (lambda edit: edit().Net(), lambda edit: edit("self.head(x)  #", "-self.head(x)  #").Net()),
        (lambda edit: edit().Net(), lambda edit: edit("x.mean((2, 3))", "x.amax((2, 3))").Net()),
        (lambda edit: nn.Sequential(edit().Net()), lambda edit: nn.Sequential(edit("x.mean", "-x.mean").Net())),
    ],
    ids=["its options", "its class", "its forward", "the class below it", "a part of it"],
)
def test_another_model_under_the_same_weights_is_refused(first, second, project, tmp_path):
    out = tmp_path / "run"
    explain(first(project), out)
    assert explain(first(project), out).forwards == 0
    with pytest.raises(GpulimeError, match=r"other settings: model_code was '\S+ sha256 \w{16}', is '\S+ sha256 \w{16}'"):
        explain(second(project), out)


@pytest.mark.parametrize(
    ("name", "function", "old", "new"),
    [("segments", "halves", "[0] // 6", "[1] // 6"), ("activation", "activate", "softmax(-1)", "sigmoid()")],
)
def test_another_function_of_the_same_name_is_refused(name, function, old, new, project, tmp_path):
    out, model = tmp_path / "run", leaky(0.1)
    explain(model, out, **{name: getattr(project(), function)})
    assert explain(model, out, **{name: getattr(project(), function)}).forwards == 0
    with pytest.raises(GpulimeError, match=rf"other settings: lime.{name} was 'my_project.{function} sha256 "):
        explain(model, out, **{name: getattr(project(old, new), function)})


def test_comments_and_layout_change_nothing(project, tmp_path):
    explain(project().Net(), tmp_path / "run")
    assert explain(project("  # the mean", "\n\n").Net(), tmp_path / "run").forwards == 0


def test_a_model_id_stands_for_the_code(project, tmp_path):
    explain(project().Net(), tmp_path / "run", model_id="mine")
    fixed = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["fixed"]
    assert "model_code" not in fixed  # runs of earlier versions, which did not have it, are gone on with
    assert explain(project("x.mean", "-x.mean").Net(), tmp_path / "run", model_id="mine").forwards == 0


def test_a_forward_that_was_replaced_is_seen():
    model, other = leaky(0.1), leaky(0.1)
    other.forward = lambda x: -x.mean((2, 3))
    assert code.described(model) != code.described(other)


def test_addresses_in_a_repr_are_left_out():
    class Holds(nn.Module):
        def extra_repr(self):
            return f"function={object()!r}"

    assert re.search(r" at 0x", repr(Holds()))
    assert code.described(Holds()) == code.described(Holds())


def test_code_without_a_source_has_its_name():
    space = {}
    exec("def typed(x): return x", {"__name__": "typed_in"}, space)
    assert code.described(space["typed"]).startswith("typed_in.typed sha256 ")
