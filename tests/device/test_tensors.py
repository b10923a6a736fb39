"""Tensors of the pretend device compute as the CPU's do, and refuse what a GPU refuses."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

pytestmark = pytest.mark.pretend


@pytest.fixture
def there():
    return torch.arange(6.0, device="cuda").view(2, 3)


@pytest.fixture
def guard():
    """Errors where the host waits."""
    with pytest.warns(UserWarning, match="prototype feature"):
        torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def test_a_tensor_is_on_the_device_and_back(there):
    assert there.is_cuda
    assert there.device == torch.device("cuda:0")
    assert torch.equal(there.cpu(), torch.arange(6.0).view(2, 3))
    assert there.cuda() is there
    assert repr(there)
    with pytest.raises(TypeError, match=r"Use Tensor\.cpu"):
        there.numpy()


def test_a_model_computes_the_same(cnn, pictures):
    images = pictures()
    expected = cnn(images)
    model = copy.deepcopy(cnn).cuda()
    assert all(one.is_cuda for one in [*model.parameters(), *model.buffers()])
    found = pickle.loads(pickle.dumps(model))(images.cuda())
    torch.testing.assert_close(found.cpu(), expected)
    assert not model.cpu()[0].weight.is_cuda


def test_autocast_rounds():
    layer = nn.Linear(3, 3).cuda()
    with torch.autocast("cuda", torch.bfloat16):
        assert layer(torch.rand(2, 3, device="cuda")).dtype == torch.bfloat16


MIXED = {
    "add": lambda there: there + torch.ones(3),
    "matmul": lambda there: there @ torch.ones(3),
    "cat": lambda there: torch.cat([there, torch.ones(2, 3)]),
    "gather": lambda there: there.gather(1, torch.zeros(2, 1, dtype=torch.int64)),
    "into": lambda there: torch.add(torch.ones(2, 3), 1, out=there),
    "a number in no elementwise operation": lambda there: torch.stack([there[0, 0], torch.tensor(1.0)]),
    "index": lambda there: torch.ones(2)[there[0].long()],
    "values": lambda there: there.index_put_((torch.tensor([0]).cuda(),), torch.ones(3)),
    "a model": lambda there: nn.Linear(3, 3)(there),
}


@pytest.mark.parametrize("operation", MIXED.values(), ids=MIXED)
def test_tensors_of_both_devices(operation, there):
    with pytest.raises(RuntimeError, match=r"on the same device, .* at tests/device/test_tensors.py"):
        operation(there)


ALLOWED = {
    "a number": lambda there: there + 1.5,
    "a tensor without dimensions": lambda there: there * torch.tensor(2.0),
    "new_full": lambda there: there.new_full((), 1.0) + there,
    "where": lambda there: torch.where(there > 1, there, 0.0),
    "a slice": lambda there: there[:, 1:],
    "an index on the device": lambda there: there[:, torch.arange(2, device="cuda")],
    "to float64": lambda there: there.double(),
    "sent from pinned memory": lambda there: torch.ones(3).pin_memory().to("cuda", non_blocking=True),
    "fetched later": lambda there: there.to("cpu", non_blocking=True),
    "cholesky_ex": lambda there: torch.linalg.cholesky_ex(torch.eye(3, device="cuda")),
}


@pytest.mark.parametrize("operation", ALLOWED.values(), ids=ALLOWED)
@pytest.mark.usefixtures("guard")
def test_work_that_the_host_does_not_wait_for(operation, there):
    operation(there)


WAITS = {
    "cpu": lambda there: there.cpu(),
    "item": lambda there: there[0, 0].item(),
    "bool": lambda there: bool((there > 1).any()),
    "tolist": lambda there: there.tolist(),
    "cuda": lambda there: torch.ones(3).cuda(),
    "sent from memory that is not pinned": lambda there: torch.ones(3).to("cuda", non_blocking=True),
    "torch.tensor": lambda there: torch.tensor(1.0, device="cuda"),
    "torch.as_tensor": lambda there: torch.as_tensor([1.0], device="cuda"),
    "new_tensor": lambda there: there.new_tensor(1.0),
    "copy_ from the host": lambda there: there.copy_(torch.ones(3)),
    "copy_ to the host": lambda there: torch.ones(2, 3).copy_(there),
    "nonzero": lambda there: there.nonzero(),
    "a mask": lambda there: there[there > 1],
    "a list": lambda there: there[:, [0, 1]],
    "unique": lambda there: there.unique(),
    "equal": lambda there: torch.equal(there, there),
    "repeat_interleave": lambda there: there[0].repeat_interleave(there[1].long()),
    "where with a number from the CPU": lambda there: torch.where(there > 1, there, torch.tensor(0.0)),
    "cholesky_solve": lambda there: torch.cholesky_solve(there.mT, torch.eye(3, device="cuda")),
    "a stream": lambda there: torch.cuda.current_stream().synchronize(),
    "the device": lambda there: torch.cuda.synchronize(),
}


@pytest.mark.parametrize("operation", WAITS.values(), ids=WAITS)
@pytest.mark.usefixtures("guard")
def test_work_that_the_host_waits_for(operation, there):
    with pytest.raises(RuntimeError, match="called a synchronizing CUDA operation"):
        operation(there)


def test_a_product_along_a_dimension_of_one_is_compiled_at_run_time(there):
    column = there[..., None]
    with pytest.raises(RuntimeError, match="Failed to find C compiler"):
        column @ column.mT
    assert torch.equal((column * column.mT).cpu(), column.cpu() * column.cpu().mT)


def test_numbers_arrive_once_they_have_been_waited_for(there):
    here = there.to("cpu", non_blocking=True)
    copied = torch.cuda.current_stream().record_event()
    there.zero_()  # later work on the stream
    assert here.isnan().all()
    copied.synchronize()
    assert torch.equal(here, torch.arange(6.0).view(2, 3))


def test_memory_comes_poisoned():
    assert torch.empty(3, device="cuda").cpu().isnan().all()
    assert (torch.empty(3, dtype=torch.int32, device="cuda").cpu() == 2**31 - 2).all()


def test_pinned_memory():
    given = torch.rand(4, 6)
    pinned = given[:, ::2].pin_memory()
    assert pinned.is_pinned()
    assert pinned[1:].is_pinned()
    assert pinned.pin_memory() is pinned
    assert not given.is_pinned()
    assert not pinned.clone().is_pinned()
    assert torch.equal(pinned, given[:, ::2])
    assert torch.empty(3, pin_memory=True).is_pinned()


def test_an_expanded_tensor_cannot_be_pinned():
    with pytest.raises(RuntimeError, match="more than one element of the written-to tensor"):
        torch.rand(3, 1).expand(3, 4).pin_memory()


def test_memory_runs_out_and_is_counted():
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.ones(2**20, device="cuda")
    assert torch.cuda.memory_allocated() == before
    assert torch.cuda.max_memory_allocated() == before + 2**22
    torch.cuda.set_per_process_memory_fraction((before + 2**20) / torch.cuda.mem_get_info()[1])
    try:
        with pytest.raises(torch.OutOfMemoryError, match=r"Tried to allocate 4.00 MiB"):
            torch.ones(2**20, device="cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert torch.cuda.memory_allocated() == before
