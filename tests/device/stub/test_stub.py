"""Launches, waits and allocations of flights under the real CUDA build of PyTorch, over a CUDA that does nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.device.stub import library

pytestmark = pytest.mark.pretend

# The most launches for 16 images with 1000 samples, in model batches of 500: to prepare them, in a flight from its first model
# batch to its solved fit, and for a further batch. Copies and calls of CUDA's libraries count as launches; this model has none.
# With quality="fast" there are 257 samples; 256 small images have 16 batches.
SETTINGS = {
    "": {},
    "num_features": {"num_features": 10},
    "fast": {"quality": "fast"},
    "small": {"n": 256, "side": 28, "b": 16_000},
}
MOST = {
    ("grid", ""): {"prepare": 53, "flight": 272, "batch": 3},
    ("grid", "num_features"): {"prepare": 53, "flight": 316, "batch": 3},
    ("grid", "fast"): {"prepare": 110, "flight": 2400, "batch": 3},
    ("grid", "small"): {"prepare": 53, "flight": 332, "batch": 19},
    ("slic", ""): {"prepare": 98, "flight": 272, "batch": 3},
    ("slic", "num_features"): {"prepare": 98, "flight": 316, "batch": 3},
    ("slic", "fast"): {"prepare": 155, "flight": 2400, "batch": 3},
}
GRAPH = 5  # the most launches for a batch of a model that is compiled with CUDA graphs; 3 from PyTorch 2.14


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """Counts of each case; all of them are made in one process."""
    if (reason := library.missing()) is not None:
        pytest.skip(reason)
    folder = library.build(tmp_path_factory.mktemp("stub"))
    asked = [{"ask": "calls", "segments": segments, **SETTINGS[name]} for segments, name in MOST]
    done = subprocess.run(
        [sys.executable, "-m", "tests.device.stub.flights"],
        cwd=folder,
        env=library.environment(folder, library.ROOT),
        input="".join(json.dumps(one) + "\n" for one in asked),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(MOST, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.fixture(params=MOST, ids=str)
def case(request):
    return request.param


def test_the_host_waits_for_nothing_from_the_first_model_batch_to_the_solved_fit(case, counted):
    assert counted[case]["waits"] == {}
    assert counted[case]["waits of fetching"]  # so a wait would have been seen


def test_only_the_first_flight_makes_memory(case, counted):
    assert counted[case]["allocations"] == {}
    assert {"cudaMalloc", "cudaHostAlloc"} <= set(counted[("grid", "")]["allocations of the first"])


def test_a_flight_and_a_further_batch_take_few_launches(case, counted):
    found = {part: counted[case][part] for part in MOST[case]}
    above = {part: (count, MOST[case][part]) for part, count in found.items() if not 0 < count <= MOST[case][part]}
    assert not above, f"launches, and the most that are recorded: {above}"


def test_an_owned_model_is_frozen_and_replayed_as_one_graph(tmp_path, inductor):
    """Besides the graph there are the copy of the rows into its memory, and the outputs as float32."""
    if (reason := library.missing()) is not None:
        pytest.skip(reason)
    folder = library.build(tmp_path)
    environment = library.environment(folder, library.ROOT, triton=True)
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")
    command = [sys.executable, "-m", "tests.device.stub.compiled"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["reason"] is None
    assert found["frozen"]
    assert found["launches"][0] > GRAPH
    assert found["graphs"][-3:] == [1] * 3
    assert max(found["launches"][-3:]) <= GRAPH
    assert found["waits"][-3:] == [{}] * 3


def test_the_page_has_the_recorded_numbers():
    page = (library.ROOT / "docs/gpu.md").read_text(encoding="utf-8")
    assert all(f"| {count} |" in page for most in [*MOST.values(), {"replayed": GRAPH}] for count in most.values())
