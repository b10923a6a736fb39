"""What the pretend device cannot do, and the tests that are skipped for it: the only place where this is said.

It computes on the CPU, one operation after the other, so it also has no times: a test that passes on it says nothing about
speed. Beside the tests below it has no TF32, no cuDNN, no second GPU, no backward pass, no sums in another order, and no
errors that make a device unusable.
"""

from __future__ import annotations

import re

GRAPHS = "the pretend device records no CUDA graphs"
COMPILED = "the pretend device is none that torch.compile knows"
STUB = "counts calls of PyTorch as it is: without this plug-in"
BACKWARD = "the pretend device has no backward pass"
LOST = "the pretend device is in no other process, and never lost"

TESTS = {  # by file and name
    r"^tests/device/stub/": STUB,
    r"test_compiled\.py::test_cuda_graphs": GRAPHS,
    r"test_masked_images_kernel\.py::.*test_a_graph_replays": GRAPHS,
    r"test_ablation\.py::.*(graph|compile)": COMPILED,
    r"test_masked_images\.py::test_(is_a_proper_custom_op|compiles_)": COMPILED,
    r"test_compare\.py::test_all_methods_by_name": BACKWARD,
    r"test_isolation\.py::test_a_gpu_that_is_lost_ends_the_run": LOST,
}

OWN = "the plug-in runs these tests itself"
SANITIZER = "compute-sanitizer watches the kernels of a real GPU"
PROFILER = "PyTorch's profiler sees no kernels here"

STEPS = {  # of benchmarks.gpu
    "telling_tests": OWN,
    "tests": OWN,
    "profile": PROFILER,
    "memcheck": SANITIZER,
    "racecheck": SANITIZER,
}


def reason(item):
    """The reason why a test cannot run on the pretend device, or None."""
    if "inductor" in getattr(item, "fixturenames", ()):
        return COMPILED
    return next((why for pattern, why in TESTS.items() if re.search(pattern, item.nodeid)), None)
