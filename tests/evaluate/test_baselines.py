"""Maps that know nothing of the model."""

from __future__ import annotations

import pytest
import torch

from gpulime import GpulimeError
from gpulime.evaluate import centre_maps, random_maps

SEGMENTS = torch.tensor([[[3, 3, 7], [7, 9, 9]], [[3, 7, 7], [3, 9, 3]]])


def test_random_maps_have_one_value_a_segment():
    labels, keys = torch.tensor([[4, 1, 4], [4, 2, 0]]), torch.tensor([5, -8])
    maps = random_maps(SEGMENTS, labels, 3, keys)
    assert maps.shape == (2, 3, 2, 3)
    assert maps.dtype == torch.float32
    for image, segments in zip(maps, SEGMENTS, strict=True):
        for one in image:
            values = [one[segments == number].unique() for number in (3, 7, 9)]
            assert [len(value) for value in values] == [1, 1, 1]
            assert len(torch.cat(values).unique()) == 3
    assert torch.equal(maps[0, 0], maps[0, 2])  # the same class
    assert not torch.equal(maps[0, 0], maps[0, 1])
    assert torch.equal(random_maps(SEGMENTS[1:], labels[1:], 3, keys[1:])[0], maps[1])
    assert not torch.equal(random_maps(SEGMENTS, labels, 4, keys), maps)
    assert not torch.equal(random_maps(SEGMENTS, labels, 3), maps)


def test_random_values_are_uniform():
    maps = random_maps(torch.arange(400).view(1, 20, 20), torch.arange(50)[None])
    shares = torch.histc(maps, 10, 0, 1) / maps.numel()
    torch.testing.assert_close(shares, torch.full((10,), 0.1), atol=0.01, rtol=0)


def test_the_centre_is_highest():
    maps = centre_maps(torch.zeros(2, 5, 9, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.int64))
    assert maps.shape == (2, 3, 5, 9)
    one = maps[1, 2]
    assert one.max() == one[2, 4] == 1
    assert torch.equal(one, one.flip(0, 1))
    assert (one[:3].diff(dim=0) > 0).all()
    assert (one[:, :5].diff(dim=1) > 0).all()
    torch.testing.assert_close(one[2, 0].log(), torch.tensor(-8 * (4 / 9) ** 2))


@pytest.mark.parametrize("maps", [random_maps, centre_maps])
def test_other_shapes_are_refused(maps):
    with pytest.raises(GpulimeError, match=r"segments must be \(n, h, w\) integers; got \(2, 3\) torch.int64"):
        maps(SEGMENTS[0], torch.zeros(2, 1, dtype=torch.int64))
    with pytest.raises(GpulimeError, match=r"labels must be \(n, l\) integers; got \(2,\) torch.float32"):
        maps(SEGMENTS, torch.zeros(2))
    with pytest.raises(GpulimeError, match=r"labels must be \(n, l\) with n = 2 images; got \(3, 1\)"):
        maps(SEGMENTS, torch.zeros(3, 1, dtype=torch.int64))
