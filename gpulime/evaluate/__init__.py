"""Judge explanations: LIME's and the maps of any other method, in batches, through an explainer's queue."""

from importlib import import_module
from typing import Any

# Imported here, not at first use: a function would give way to the module of the same name once that is imported.
from gpulime.evaluate import bam
from gpulime.evaluate.baselines import centre_maps, random_maps
from gpulime.evaluate.compare import compare
from gpulime.evaluate.comparison import Comparison
from gpulime.evaluate.curves import Curves, curves
from gpulime.evaluate.data_randomisation import DataRandomisation, Networks, data_randomisation, train_networks
from gpulime.evaluate.held_out import HeldOut, held_out
from gpulime.evaluate.localisation import Localisation, localisation
from gpulime.evaluate.method_maps import as_method
from gpulime.evaluate.randomisation import Randomisation, randomisation
from gpulime.evaluate.scores import Scores
from gpulime.evaluate.sensitivity import Sensitivity, sensitivity
from gpulime.evaluate.similarity import similarities
from gpulime.evaluate.stability import Stability, stability
from gpulime.evaluate.tcav import Tcav, tcav

__all__ = [
    "Comparison",
    "Curves",
    "DataRandomisation",
    "HeldOut",
    "Localisation",
    "Networks",
    "Randomisation",
    "Scores",
    "Sensitivity",
    "Stability",
    "Tcav",
    "as_method",
    "bam",
    "centre_maps",
    "compare",
    "curves",
    "data_randomisation",
    "held_out",
    "localisation",
    "random_maps",
    "randomisation",
    "run",
    "sensitivity",
    "similarities",
    "stability",
    "tcav",
    "train_networks",
]


def __getattr__(name: str) -> Any:
    if name == "run":  # runs are built on this package, so it does not import them
        return import_module("gpulime.runs.evaluation.calls").run
    raise AttributeError(f"module 'gpulime.evaluate' has no attribute {name!r}")
