"""gpulime beside the model alone: what explaining costs over the forwards that it cannot do without."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.bounds import AtLeast, AtMost
from benchmarks.entries.entry import BEST, BFLOAT16, DEFINITION, FLOAT32, OURS, RANDOM, Entry, bfloat16
from benchmarks.op_compiled import op_inside, op_outside
from benchmarks.setups import Setup
from benchmarks.sides import bare, engine
from benchmarks.timer import Side

# In the engine's own process: where the heap happens to lie moves a forward by a fifth from one process to the next.
BARE = (Side("bare forwards", bare, OURS),)
FIXED = tuple(Side(f"b = {b}", engine, OURS, b) for b in (4, 8, 10, 16, 32, 64))

FORWARDS = Setup()
AUTO = Setup(n=2, b="auto")

OVER_MODEL = (
    Entry(
        "engine_over_model_float32",
        "explaining, over the model's bare forwards, float32",
        FORWARDS,
        BARE,
        AtMost(1.05),
        DEFINITION,
        FLOAT32,
        repeats=15,
    ),
    Entry(
        "engine_over_model_bfloat16",
        "the same in bfloat16",
        bfloat16(FORWARDS),
        BARE,
        AtMost(1.08),
        DEFINITION,
        BFLOAT16,
    ),
    Entry(
        "batch_size_auto_float32",
        '`batch_size="auto"`, over the best fixed one, float32',
        AUTO,
        FIXED,
        AtMost(1.1),
        DEFINITION,
        FLOAT32,
        repeats=5,
    ),
    Entry(
        "batch_size_auto_bfloat16",
        "the same in bfloat16",
        bfloat16(AUTO),
        FIXED,
        AtMost(1.1),
        DEFINITION,
        BFLOAT16,
        repeats=5,
    ),
)


@dataclass(frozen=True)
class Efficiency:
    """Of a model: the least it may be, batches among which its bare forwards have their best, the coefficients' tolerance."""

    model_name: str
    precision: str
    least: float
    batches: tuple[int, ...]
    tolerance: float
    repeats: int = 3
    samples: int = 1000

    def entry(self) -> Entry:
        """Bare forwards' time over that of explaining one photograph."""
        slug = self.model_name.lower().replace("-", "_").replace("/", "").replace(" ", "_")
        return Entry(
            f"efficiency_{slug}_{self.precision}",
            f"bare forwards' time over explaining's, {self.model_name}, {self.precision}, {self.samples} samples",
            Setup(self.model_name, n=1, s=self.samples, b="auto", precision=self.precision),
            tuple(Side(f"bare, b = {b}", bare, OURS, b) for b in self.batches),
            AtLeast(self.least),
            DEFINITION,
            self.tolerance,
            repeats=self.repeats,
        )


EFFICIENCY = (
    Efficiency("EfficientNet-Lite0", "float32", 0.96, (8, 10, 16, 32), FLOAT32, repeats=7),
    Efficiency("EfficientNet-Lite0", "bfloat16", 0.94, (8, 16, 32, 64), BFLOAT16, repeats=7),
    Efficiency("28x28 CNN", "float32", 0, (32, 128, 512), RANDOM, repeats=9),
    Efficiency("ResNet-18", "float32", 0, (8, 32), RANDOM),
    Efficiency("ResNet-50", "float32", 0, (8, 32), RANDOM),
    Efficiency("ViT-B/16", "float32", 0, (8, 32), RANDOM, samples=300),  # half an hour with 1000
    Efficiency("ConvNeXt-Tiny", "float32", 0, (8, 32), RANDOM),
)

OP_COMPILED = Entry(
    "op_compiled_bfloat16",
    "one compiled graph of rows and model, over gpulime's op and then the compiled model, EfficientNet-Lite0, bfloat16",
    Setup(n=1, s=304, b=16, precision="bfloat16"),
    (Side("one graph", op_inside, BEST),),
    AtLeast(),
    DEFINITION,
    BFLOAT16,
    ours=Side("the model compiled", op_outside, BEST),
    repeats=7,
)

ENGINE = (*OVER_MODEL, *(efficiency.entry() for efficiency in EFFICIENCY), OP_COMPILED)
