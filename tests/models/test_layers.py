import torch

from models.layers import repeat_pixels


def test_repeated_pixels_are_nearest_neighbours() -> None:
    x = torch.arange(12.0).reshape(1, 2, 2, 3)
    expected = x.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    assert torch.equal(repeat_pixels(x), expected)
    assert torch.equal(torch.compile(repeat_pixels, backend="eager")(x), expected)
