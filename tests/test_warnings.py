"""The filters of pyproject.toml: our warnings are errors, those of other packages are not."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for folder in ("gpulime", "benchmarks", "tests/device")  # all that are imported by their folders' names
    for path in sorted((ROOT / folder).rglob("*.py"))
]
TESTS = [path.stem for path in sorted((ROOT / "tests").rglob("*.py")) if "device" not in path.relative_to(ROOT).parts]
OTHERS = ["torch.nn.functional", "numpy", "skimage.segmentation", "lime.lime_image", "pyarrow.lib", "importlib._bootstrap"]


def raised(module, category):
    """True if a warning that points into a module is an error."""
    with warnings.catch_warnings(record=True):
        try:
            warnings.warn_explicit("old", category, f"{module}.py", 1, module=module, registry={})
        except category:
            return True
    return False


@pytest.mark.parametrize("category", [UserWarning, DeprecationWarning, FutureWarning, RuntimeWarning, ResourceWarning])
def test_ours_are_errors_and_those_of_others_are_not(category):
    assert [module for module in (*PACKAGES, *TESTS) if not raised(module, category)] == []
    assert [module for module in OTHERS if raised(module, category)] == []


def test_a_warning_points_to_its_caller():
    with pytest.raises(UserWarning, match="mine"):
        warnings.warn("mine", stacklevel=1)


def test_a_failure_that_nobody_can_catch_is_an_error_wherever_it_is():
    assert raised("_pytest.unraisableexception", pytest.PytestUnraisableExceptionWarning)
