"""gpulime: LIME explanations of images, texts and table rows, thousands of inputs at a time, on the GPU.

Letters for dimensions, used in every name, docstring, check and message:

======= ==========================================================
n       inputs: images, texts or rows
s       samples: masks, and so forwards, per input
k       parts of an input: segments, words or columns (the most in a batch, if it varies)
l       labels explained per input
b       rows of one model batch
c h w   channels, height and width
======= ==========================================================

The public names are looked up when they are first used (PEP 562), so that ``import gpulime`` imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpulime import discretize, evaluate, lime_image, lime_tabular, lime_text, runs, segments, submodular_pick
    from gpulime.engine import masks, surrogate
    from gpulime.engine.masks import key
    from gpulime.errors import GpulimeError
    from gpulime.explainer import Explainer
    from gpulime.explanations.batch import Explanations
    from gpulime.explanations.image import ImageExplanation
    from gpulime.explanations.rows import ExplainedRows
    from gpulime.images import fills
    from gpulime.images.batch import Batch
    from gpulime.picks import pick
    from gpulime.table_explainer import TableExplainer
    from gpulime.text_explainer import TextExplainer

try:
    __version__ = version("gpulime")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0+unknown"

_HOME = {
    "Batch": "gpulime.images.batch",
    "Explainer": "gpulime.explainer",
    "Explanations": "gpulime.explanations.batch",
    "ImageExplanation": "gpulime.explanations.image",
    "ExplainedRows": "gpulime.explanations.rows",
    "GpulimeError": "gpulime.errors",
    "TableExplainer": "gpulime.table_explainer",
    "TextExplainer": "gpulime.text_explainer",
    "key": "gpulime.engine.masks",
    "pick": "gpulime.picks",
}
_MODULES = {
    "captum": "gpulime.captum",  # it and quantus need packages of these names, so `dir` and ``*`` leave them out
    "discretize": "gpulime.discretize",
    "evaluate": "gpulime.evaluate",
    "fills": "gpulime.images.fills",
    "lime_image": "gpulime.lime_image",
    "lime_tabular": "gpulime.lime_tabular",
    "lime_text": "gpulime.lime_text",
    "masks": "gpulime.engine.masks",
    "quantus": "gpulime.quantus",
    "runs": "gpulime.runs",
    "segments": "gpulime.segments",
    "submodular_pick": "gpulime.submodular_pick",
    "surrogate": "gpulime.engine.surrogate",
}

__all__ = [
    "Batch",
    "ExplainedRows",
    "Explainer",
    "Explanations",
    "GpulimeError",
    "ImageExplanation",
    "TableExplainer",
    "TextExplainer",
    "__version__",
    "discretize",
    "evaluate",
    "fills",
    "key",
    "lime_image",
    "lime_tabular",
    "lime_text",
    "masks",
    "pick",
    "runs",
    "segments",
    "submodular_pick",
    "surrogate",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in _MODULES:
        return import_module(_MODULES[name])
    raise AttributeError(f"module 'gpulime' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
