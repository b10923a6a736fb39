"""Who is compared, on what, and what cannot be made the same; as plain data."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.entries.entry import BFLOAT16, FLOAT32, RANDOM
from benchmarks.peers.captum import captum_lime, kernel_shap
from benchmarks.peers.lime import lime_each
from benchmarks.peers.shap import partition
from benchmarks.setups import Setup
from benchmarks.sides import engine
from benchmarks.timer import Process, Side


@dataclass(frozen=True)
class Peer:
    """One that explains, in a process of its own.

    ``unlike``: what is not the same as with gpulime, though all that can be is. Where it is empty, the masks are the same too,
    and its coefficients must be those of the definition; else they must rank segments in some agreement with it. Peers of one
    ``kind`` differ in what is free to choose, and a bound is for the fastest of them.
    """

    side: Side
    package: str
    kind: str
    unlike: str = ""


@dataclass(frozen=True)
class Comparison:
    """One model, with all peers in one run; ``least`` is how many times as fast as each kind of peer we must be."""

    name: str
    setup: Setup
    repeats: int = 5
    tolerance: float = FLOAT32
    least: tuple[tuple[str, float], ...] = ()
    peers: tuple[Peer, ...] = ()

    def segmented(self) -> Comparison:
        """The same with everyone's own segmentation inside the clock."""
        return replace(self, name=f"{self.name}, segmentation included", setup=replace(self.setup, segments=True))

    def tiny(self) -> Comparison:
        """The same with little to do, for a look at the instrument."""
        return replace(self, setup=replace(self.setup, n=1, s=100, b=10), repeats=1)


def captum_side(b: int | None = None) -> Peer:
    """The Lime of captum, b perturbations a call."""
    name = "captum Lime" if b is None else f"captum Lime, {b} a call"
    return Peer(
        Side(name, captum_lime, Process("captum", keeps_memory=True), b),
        "captum",
        "captum Lime",
        "draws other masks, the whole image not among them; lime's kernel and ridge are given to it",
    )


def on_a_gpu(setup: Setup) -> Setup:
    """The same there, in its precision."""
    return replace(setup, sampler="lime", precision="bfloat16", device="cuda")


GPULIME = Peer(Side("gpulime", engine, Process("gpulime")), "gpulime", "gpulime")
LIME = Peer(Side("lime", lime_each, Process("lime", keeps_memory=True)), "lime", "lime")
KERNEL_SHAP = Peer(
    Side("captum KernelShap", kernel_shap, Process("captum KernelShap", keeps_memory=True)),
    "captum",
    "captum KernelShap",
    "Shapley values: another kernel, no ridge, masks of the sizes that it favours",
)
PARTITION = Peer(
    Side("shap Partition", partition, Process("shap", keeps_memory=True)),
    "shap",
    "shap Partition",
    "Owen values of a hierarchy of rectangles, made beforehand and added up over each segment; as many forwards",
)

PEERS = (LIME, captum_side(), KERNEL_SHAP, PARTITION)
BEST_BATCH = (LIME, *(captum_side(b) for b in (50, 250, 1000)), KERNEL_SHAP, PARTITION)

EFFICIENTNET = Comparison("EfficientNet-Lite0", Setup(n=2, s=1000, b=16, sampler="lime"), peers=PEERS)
CNN28 = Comparison("28x28 CNN", Setup("28x28 CNN", n=4, s=1000, b=100, sampler="lime"), 9, RANDOM, peers=PEERS)
RESNET50 = Comparison("ResNet-50", Setup("ResNet-50", n=1, s=1000, b=16, sampler="lime"), 3, RANDOM, peers=PEERS)

GPU_RESNET50 = Comparison(
    "ResNet-50, bfloat16",
    on_a_gpu(Setup("ResNet-50", n=2, s=1000, b=250)),
    2,
    BFLOAT16,
    (("lime", 25), ("captum Lime", 18)),
    BEST_BATCH,
)
GPU_CNN28 = Comparison(
    "28x28 CNN, bfloat16",
    on_a_gpu(Setup("28x28 CNN", n=2, s=1000, b=1000)),
    3,
    BFLOAT16,
    (("lime", 50), ("captum Lime", 18)),
    BEST_BATCH,
)

COMPARISONS = {
    "cpu": tuple(one for each in (EFFICIENTNET, CNN28, RESNET50) for one in (each, each.segmented())),
    "cuda": tuple(one for each in (GPU_RESNET50, GPU_CNN28) for one in (each, replace(each.segmented(), least=()))),
}
