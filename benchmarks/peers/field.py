"""The comparisons as plain data: peers, problems, bounds, and the differences that remain."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.peers.captum import captum_lime, kernel_shap
from benchmarks.peers.lime import lime_each
from benchmarks.peers.shap import partition
from benchmarks.setups import Setup
from benchmarks.sides import BFLOAT16, FLOAT32, RANDOM, Process, Side, engine


@dataclass(frozen=True)
class Peer:
    """A package that explains, in a process of its own.

    ``unlike``: differences from gpulime that cannot be removed. If empty, masks and coefficients must equal those of the
    definition; else the ranking of segments must agree with it to some extent. Peers of one ``kind`` differ in settings; a
    bound applies to the fastest of them.
    """

    side: Side
    package: str
    kind: str
    unlike: str = ""


@dataclass(frozen=True)
class Comparison:
    """One model, with all peers in one run; ``least``: the least speedup of gpulime over each kind of peer."""

    name: str
    setup: Setup
    repeats: int = 5
    tolerance: float = FLOAT32
    least: tuple[tuple[str, float], ...] = ()
    peers: tuple[Peer, ...] = ()

    def segmented(self) -> Comparison:
        """The same with each side's own segmentation inside the clock."""
        return replace(self, name=f"{self.name}, segmentation included", setup=replace(self.setup, segments=True))

    def tiny(self) -> Comparison:
        """Make a smaller comparison, for a trial."""
        return replace(self, setup=replace(self.setup, n=1, s=100, b=10), repeats=1)


def captum_side(b: int | None = None) -> Peer:
    """The Lime of captum, b perturbations a call."""
    name = "captum Lime" if b is None else f"captum Lime, {b} a call"
    unlike = "draws other masks, the whole image not among them; lime's kernel and ridge are given to it"
    return Peer(Side(name, captum_lime, Process("captum", keeps_memory=True), b), "captum", "captum Lime", unlike)


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


def on_a_gpu(model_name: str, b: int, repeats: int, least: tuple[float, float]) -> Comparison:
    """Two photographs in bfloat16; ``least`` is for lime and captum's Lime."""
    setup = Setup(model_name, n=2, s=1000, b=b, sampler="lime", precision="bfloat16", device="cuda")
    bounds = tuple(zip(("lime", "captum Lime"), least, strict=True))
    return Comparison(f"{model_name}, bfloat16", setup, repeats, BFLOAT16, bounds, BEST_BATCH)


# Least speedups over lime and captum's Lime. Measured with ResNet-50 on an H200: 29 and 3.7.
ON_A_GPU = (on_a_gpu("ResNet-50", 250, 2, (25, 3)), on_a_gpu("28x28 CNN", 1000, 3, (50, 18)))

COMPARISONS = {
    "cpu": tuple(one for each in (EFFICIENTNET, CNN28, RESNET50) for one in (each, each.segmented())),
    "cuda": tuple(one for each in ON_A_GPU for one in (each, replace(each.segmented(), least=()))),
}
