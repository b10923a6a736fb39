"""Designs: orthogonal blocks with complements, a pure function of (seed, key, row, k); all masks of a few parts."""

from __future__ import annotations

import pytest
import torch

from gpulime.engine.designs import DESIGNS, exhaustive

COUNTS = torch.tensor([49, 100, 5, 63, 64, 1])
KEYS = torch.tensor([0, 1, -1, 2**40, 7, 7])


@pytest.fixture(params=["antithetic", "blocks"])
def design(request):
    return DESIGNS[request.param](3, 1000)


def signs(masks):
    return 2.0 * masks.double() - 1


def test_row_0_shows_everything_and_pairs_are_complements(design, device):
    masks = design.draw(KEYS.to(device), COUNTS.to(device), 100, 0, 257).cpu()
    assert masks.shape == (6, 257, 100)
    for i, count in enumerate(COUNTS.tolist()):
        assert masks[i, 0, :count].all()
        assert torch.equal(masks[i, 1::2, :count], ~masks[i, 2::2, :count])


def test_rows_depend_on_nothing_but_key_and_count(design):
    whole = design.draw(KEYS, COUNTS, 100, 0, 600)
    pieces = [(0, 1), (1, 130), (130, 131), (131, 577), (577, 600)]
    joined = torch.cat([design.draw(KEYS, COUNTS, 100, *piece) for piece in pieces], 1)
    for i, count in enumerate(COUNTS.tolist()):
        alone = design.draw(KEYS[i : i + 1], COUNTS[i : i + 1], count, 0, 600)[0]
        assert torch.equal(whole[i, :, :count], alone)
        assert torch.equal(joined[i, :, :count], alone)


def test_every_seed_and_key_draws_masks_of_its_own(design):
    keys, counts = torch.arange(40), torch.full((40,), 60)
    drawn = torch.cat([type(design)(seed, 9).draw(keys, counts, 60, 1, 65) for seed in (0, 1, 2**63)])
    assert len(drawn.flatten(1).unique(dim=0)) == 120


def test_every_row_is_uniform(design):
    n = 20_000
    masks = design.draw(torch.arange(n), torch.full((n,), 7), 7, 0, 40)
    for row in (1, 2, 5, 17, 39):
        shown = masks[:, row].double()
        assert (shown.mean(0) - 0.5).abs().max() < 5 * 0.5 / n**0.5
        correlation = shown.T.corrcoef() - torch.eye(7)
        assert correlation.abs().max() < 5.5 / n**0.5


def test_columns_of_a_block_are_orthogonal():
    design = DESIGNS["blocks"](0, 1000)
    sizes = design.steps(COUNTS)
    assert sizes.tolist() == [128, 256, 16, 128, 256, 4]
    masks = design.draw(KEYS, COUNTS, 100, 0, 1025)
    for i, (count, size) in enumerate(zip(COUNTS.tolist(), sizes.tolist(), strict=True)):
        for block in (0, 1, 1024 // size - 1):
            x = signs(masks[i, 1 + block * size : 1 + (block + 1) * size, :count])
            assert torch.equal(x.T @ x, size * torch.eye(count, dtype=torch.float64))
        first, second = (masks[i, 1 + block * size : 1 + (block + 1) * size, :count] for block in (0, 1))
        assert count == 1 or not torch.equal(first, second)


def test_products_of_two_columns_are_not_the_same_in_every_block():
    """Random columns: a product that equals a third column in one block does not in others."""
    design = DESIGNS["blocks"](0, 1000)
    x = signs(design.draw(torch.arange(400), torch.full((400,), 7), 7, 1, 17)[:, ::2])
    alike = (x[..., 0] * x[..., 1] * x[..., 2] * x[..., 3]).mean(1).abs() == 1
    assert 0.05 < alike.double().mean() < 0.25  # 1 of 8 columns, less those that cannot be


@pytest.mark.parametrize("count", [3, 4, 5, 7, 8, 11, 12])
def test_blocks_of_few_parts_have_no_mask_in_common(count):
    size = int(DESIGNS["blocks"](0, 9).steps(torch.tensor([count])))
    keys, counts = torch.arange(20), torch.full((20,), count)
    masks = DESIGNS["blocks"](5, 9).draw(keys, counts, 14, 1, 1 + 2**count)[..., :count]
    assert size <= 2**count
    for i in range(20):
        assert len(masks[i].unique(dim=0)) == 2**count  # all that exist
    first = masks[:, :: 2 * size] if size < 2**count else masks[:, :1]
    assert len(first.flatten(1).unique(dim=0)) > 1  # another order for another key


def test_half_of_all_masks_is_better_than_as_many_with_repetition():
    """The mean of a function of 8 parts over half of all masks: its variance is about half of that of 64 independent pairs."""
    n, keys, counts = 300, torch.arange(300), torch.full((300,), 8)
    values = torch.randn(256, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = values - values.mean()
    code = 2 ** torch.arange(8)
    drawn = DESIGNS["blocks"](0, 9).draw(keys, counts, 8, 1, 129)
    mean = values[(drawn * code).sum(-1)].mean(1)
    pairs = (values + values.flip(0)) / 2
    assert float(mean.square().mean()) < 0.7 * float(pairs.square().mean()) / 64
    assert abs(float(mean.mean())) < 5 * float(mean.std()) / n**0.5


def test_exhaustive_masks_are_all_there_are(device):
    masks = exhaustive(torch.tensor([3, 1], device=device), 4, 8).cpu()
    assert masks[:, 0].all()
    assert len(masks[0, :, :3].unique(dim=0)) == 8
    assert masks[1, :2, 0].tolist() == [True, False]
