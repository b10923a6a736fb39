"""Steps of the script for a GPU on the stub of CUDA, with the sizes of a trial: those of the kernels. Started by test_steps.py.

What is computed there has no meaning, so nothing is compared. The engine's steps read numbers that they have computed, such as
the number of segments, and cannot run; flights.py counts the calls of the engine.
"""

from __future__ import annotations

import sys

import torch

from benchmarks import gpu, gpu_kernels, gpu_rows


def main() -> None:
    """Run the named steps."""
    gpu_kernels._same_rows = gpu_kernels._same_masks = lambda *given: True
    gpu_kernels._other_ids = lambda *given: ""
    bench = gpu_rows.Bench(torch.device("cuda"), tiny=True)
    for name in sys.argv[1:]:
        for row in gpu.STEPS[name](bench):
            print(row, flush=True)


if __name__ == "__main__":
    main()
