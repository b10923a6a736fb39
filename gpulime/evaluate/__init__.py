"""Judge explanations: LIME's and the maps of any other method, in batches, through an explainer's queue."""

# Imported here, not at first use: a function would give way to the module of the same name once that is imported.
from gpulime.evaluate.curves import Curves, curves
from gpulime.evaluate.method_maps import as_method
from gpulime.evaluate.randomisation import Randomisation, randomisation
from gpulime.evaluate.scores import Scores
from gpulime.evaluate.similarity import similarities

__all__ = ["Curves", "Randomisation", "Scores", "as_method", "curves", "randomisation", "similarities"]
