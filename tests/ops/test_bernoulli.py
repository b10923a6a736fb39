"""Drawn masks: the kernel equals its twin bit for bit; without a GPU under the host shim, with one on it."""

from __future__ import annotations

import pytest
import torch

from gpulime import device as devices
from gpulime.errors import GpulimeError
from gpulime.ops import source
from gpulime.ops.bernoulli import bernoulli, bernoulli_reference

KEYS = [0, 1, 2**32, 2**63 - 1, -1, -(2**63)]
SEEDS = [0, 1, 2**32 + 7, 2**63, 2**64 - 1, -(2**63), -1]
SIZES = [1, 2, 31, 32, 33, 127, 128, 129, 257, 700]


def problem(device="cpu"):
    """Keys (6, 1) and rows (5,), including 0 and numbers beyond 32 bits."""
    rows = torch.tensor([0, 1, 7, 2**32, 2**33 + 3], device=device)
    return torch.tensor(KEYS, device=device)[:, None], rows


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("k", SIZES)
def test_the_kernel_equals_its_reference(k, seed, host):
    keys, rows = problem()
    found = bernoulli(keys, rows, k, seed)
    assert (found.shape, found.dtype) == ((6, 5, k), torch.bool)
    assert torch.equal(found, bernoulli_reference(keys, rows, k, seed))
    assert found[:, 0].all()
    assert k < 31 or not found[:, 1:].all(-1).any()


def test_anything_broadcasts(host):
    keys, rows = torch.tensor(KEYS), torch.arange(12)
    for given in [
        (keys[2], rows[5]),
        (keys, rows[5]),
        (keys[:, None, None], rows.view(3, 4)),
        (keys[::2], rows[3:6]),
        (keys[:, None], rows.view(2, 6).T.reshape(1, 12)[:, ::3]),
        (keys[:0], rows[:0]),
    ]:
        assert torch.equal(bernoulli(*given, 33, 5), bernoulli_reference(*given, 33, 5))


def test_the_kernel_under_sanitizers(sanitized):
    for k in (1, 33, 129):
        assert torch.equal(bernoulli(*problem(), k, 3), bernoulli_reference(*problem(), k, 3))


@pytest.mark.long
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("0xD2511F53u, x0", "0xD2511F53u, x1"),
        ("0xCD9E8D57u * x2", "0xCD9E8D57u * x3"),
        ("x0 = high1 ^ x1 ^ k0", "x0 = high0 ^ x1 ^ k0"),
        ("k1 += 0xBB67AE85u", "k1 += 0xBB67AE84u"),
        ("round < 10", "round < 9"),
        ("(unsigned)(key >> 32)", "0"),
        ("(unsigned)(seed >> 32)", "0"),
        ("(unsigned)(segment / 128)", "0"),
        ("segment / 32 % 4", "segment / 32 % 3"),
        ("row == 0 || ", ""),
        ("if (at >= places * k) return;", "if (at >= places * k - 64) return;"),
    ],
)
def test_a_wrong_kernel_is_noticed(right, wrong, monkeypatch, host):
    text = source.joined("bernoulli.cu")
    assert text.count(right) == 1
    monkeypatch.setattr(source, "joined", lambda file: text.replace(right, wrong))
    assert not torch.equal(bernoulli(*problem(), 257, 2**40 + 3), bernoulli_reference(*problem(), 257, 2**40 + 3))


def test_what_only_a_sanitizer_sees(monkeypatch, sanitized):
    text = source.joined("bernoulli.cu")
    monkeypatch.setattr(source, "joined", lambda file: text.replace("if (at >= places * k) return;", ""))
    with pytest.raises(GpulimeError, match="AddressSanitizer"):
        bernoulli(*problem(), 33, 0)


def test_the_host_waits_for_nothing(host, unread):
    with unread:
        drawn = [draw(*problem(), 40, 3) for draw in (bernoulli, bernoulli_reference)]
    assert torch.equal(*drawn)


def test_a_cpu_draws_by_the_reference(monkeypatch):
    monkeypatch.setattr(devices, "empty", None)  # of the kernel's launcher alone
    assert torch.equal(bernoulli(*problem(), 40, 3), bernoulli_reference(*problem(), 40, 3))


@pytest.mark.gpu
@pytest.mark.usefixtures("kernels")
class TestOnAGpu:
    """The kernel as CuPy compiles it."""

    @pytest.mark.parametrize("seed", SEEDS)
    @pytest.mark.parametrize("k", SIZES)
    def test_equals_the_cpu(self, k, seed):
        found = bernoulli(*problem("cuda"), k, seed)
        assert torch.equal(found.cpu(), bernoulli_reference(*problem(), k, seed))

    def test_many_rows_equal_the_reference(self):
        keys, rows = torch.randint(-(2**62), 2**62, (300, 1), device="cuda"), torch.arange(1000, device="cuda")
        assert torch.equal(bernoulli(keys, rows, 50, 1), bernoulli_reference(keys, rows, 50, 1))

    def test_it_runs_on_the_current_stream(self):
        keys, rows = problem("cuda")
        expected, late = bernoulli_reference(keys, rows, 99, 3), torch.zeros_like(keys)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            torch.cuda._sleep(50_000_000)
            late.copy_(keys)  # on another stream the kernel would see zeros
            found = bernoulli(late, rows, 99, 3)
        stream.synchronize()
        assert torch.equal(found, expected)
