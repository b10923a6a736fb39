"""Errors carry the stage of the work that failed."""

from __future__ import annotations

import pytest

from gpulime.errors import GpulimeError, about, stage


@stage("model")
def predict():
    with stage("fill"):
        raise KeyError("x")


def test_the_outermost_stage_stands():
    with pytest.raises(KeyError) as raised:
        predict()
    assert raised.value.stage == "model"


def test_an_error_with_more_context_has_a_stage_too():
    with pytest.raises(GpulimeError, match="image 3: too small") as raised, stage("image"), about("image 3"):
        raise GpulimeError("too small")
    assert raised.value.stage == "image"


def test_an_interrupt_has_none():
    with pytest.raises(KeyboardInterrupt) as raised, stage("model"):
        raise KeyboardInterrupt
    assert not hasattr(raised.value, "stage")
