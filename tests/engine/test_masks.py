"""Masks: published random words, a pure function of (seed, key, row, k), lime's own draws."""

from __future__ import annotations

import numpy as np
import pytest
import slow
import torch

from gpulime.engine import masks
from gpulime.errors import GpulimeError
from gpulime.ops import bernoulli as op

SIZES = [1, 2, 31, 33, 128, 129, 257]
KEYS = [0, 1, 2**32, 2**63 - 1, -1, -(2**63)]
SEEDS = [0, 1, 2**32, 2**63, 2**64 - 1, -(2**63) + 1]

# Random123's kat_vectors for philox4x32-10: counter, key, words.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def draw(keys, rows, k, seed=0, sampler="bernoulli", device="cpu", n_samples=100):
    keys, rows = torch.tensor(keys, device=device), torch.tensor(rows, device=device)
    return masks.resolve(sampler, seed, n_samples)(keys[:, None], rows, torch.tensor(k, device=device), k)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_philox_gives_the_published_words(counter, key, words, device):
    counter, key, words = ([int(word, 16) for word in text.split()] for text in (counter, key, words))
    drawn = op.philox4x32([torch.tensor([word], device=device) for word in counter], key)
    assert [int(word) for word in drawn] == words
    assert slow.philox_block(counter, key) == words


@pytest.mark.parametrize("k", SIZES)
@pytest.mark.parametrize("sampler", ["bernoulli", "lime"])
def test_row_0_shows_everything(sampler, k, device):
    drawn = draw([3, 4], [0, 1, 2, 0], k, sampler=sampler, device=device)
    assert drawn.shape == (2, 4, k)
    assert drawn.dtype == torch.bool
    assert drawn.device.type == device.type
    assert drawn[:, [0, 3]].all()
    assert k < 31 or not drawn[:, [1, 2]].all(-1).any()


@pytest.mark.parametrize("k", SIZES)
def test_bits_depend_on_key_and_row_alone(k, device):
    whole = draw(KEYS, list(range(50)), k, device=device).cpu()
    order = torch.randperm(whole[..., 0].numel())[:77]
    keys, rows = torch.tensor(KEYS)[order // 50].to(device), (order % 50).to(device)
    some = masks.Bernoulli(0, n_samples=7)(keys.view(7, 11), rows.view(7, 11), torch.tensor(k, device=device), k)
    assert torch.equal(some.flatten(0, 1).cpu(), whole.flatten(0, 1)[order])


@pytest.mark.parametrize("k", SIZES)
def test_longer_rows_begin_with_the_shorter(k):
    assert torch.equal(draw(KEYS, [1, 2, 3], k), draw(KEYS, [1, 2, 3], 300)[..., :k])


def test_half_of_the_segments_are_shown_independently():
    n_rows, k = 4000, 129
    shown = draw([5], list(range(1, n_rows + 1)), k)[0].double()
    sigma = 0.5 / n_rows**0.5
    assert abs(shown.mean() - 0.5) < 4 * sigma / k**0.5
    assert (shown.mean(0) - 0.5).abs().max() < 5 * sigma
    correlation = shown.T.corrcoef() - torch.eye(k)
    assert correlation.abs().max() < 5.5 / n_rows**0.5


def test_every_key_and_seed_draws_masks_of_its_own():
    drawn = torch.stack([draw(KEYS, [1, 2, 3], 64, seed=seed) for seed in SEEDS]).flatten(0, 2)
    assert len(drawn.unique(dim=0)) == len(drawn)


def test_keys_are_stable():
    assert masks.key("n01440764/cat.jpg") == 7393067446928827270
    assert masks.key(7) == masks.key("7") == masks.key(b"7")
    assert masks.key("\udcff.jpg") == masks.key(b"\xff.jpg")
    assert masks.key("ä.jpg") == masks.key("ä.jpg".encode())
    keys = [masks.key(i) for i in range(1000)]
    assert len(set(keys)) == 1000
    assert min(keys) < 0
    assert torch.tensor(keys).dtype == torch.int64


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_lime_draws_what_numpy_draws(seed, device):
    s, counts = 20, torch.tensor([5, 33, 5], device=device)
    rows = torch.tensor([7, 0, 19, 3], device=device)
    sampler = masks.resolve("lime", seed, s)
    drawn = sampler(torch.zeros(3, 1, dtype=torch.int64, device=device), rows, counts[:, None], 33).cpu()
    for i, k in enumerate(counts.tolist()):
        expected = np.random.RandomState(seed).randint(0, 2, s * k).reshape(s, k)
        expected[0] = 1
        np.testing.assert_array_equal(drawn[i, :, :k], expected[rows.cpu()])


@pytest.mark.filterwarnings("ignore")
def test_lime_draws_what_lime_draws():
    lime_image = pytest.importorskip("lime.lime_image")
    explainer, seen = lime_image.LimeImageExplainer(random_state=11), []
    data_labels = explainer.data_labels
    explainer.data_labels = lambda *args, **options: seen.append(data_labels(*args, **options)) or seen[0]
    segments = np.arange(48).reshape(6, 8) // 4
    explainer.explain_instance(
        np.random.RandomState(0).rand(6, 8, 3),
        lambda images: images.mean(axis=(1, 2)),
        num_samples=40,
        segmentation_fn=lambda image: segments,
        random_seed=0,
    )
    drawn = draw([123], list(range(40)), 12, seed=11, sampler="lime", n_samples=40)
    np.testing.assert_array_equal(drawn[0], seen[0][0])


@pytest.mark.parametrize(
    ("name", "seed", "message"),
    [
        (
            "bernouli",
            0,
            r"one of 'bernoulli', 'lime', 'antithetic', 'blocks', 'exhaustive'; got 'bernouli' \(did you mean 'bernoulli'\?\)",
        ),
        ("bernoulli", 2**64, "seed must fit 64 bits; got 18446744073709551616"),
        ("lime", -1, r"needs a seed in \[0, 2\*\*32\), as numpy's RandomState does; got -1"),
        ("lime", 2**32, "got 4294967296"),
    ],
)
def test_bad_settings_are_named(name, seed, message):
    with pytest.raises(GpulimeError, match=message):
        masks.resolve(name, seed, 100)
