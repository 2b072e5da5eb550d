import pytest
import torch

from models.highresnet import Decoder, DecoderKind, HighResNet, RecursiveFusion, median_view
from tests.models.nets import acquired, random_series


def test_one_view_passes_as_it_is() -> None:
    x = torch.randn(2, 1, 4, 3, 6)
    assert torch.equal(RecursiveFusion(width=4)(x, torch.ones(2, 1, dtype=torch.bool)), x[:, 0])


def test_padding_enters_through_the_mask() -> None:
    network, series = HighResNet(width=4), random_series(views=4)
    assert not torch.equal(network(series).sr, network(acquired(series, 2)).sr)


def test_median_is_the_lower_of_two_middle_values() -> None:
    lr = torch.tensor([4.0, 1.0, 3.0, 2.0]).view(1, 4, 1, 1, 1)
    assert median_view(lr).item() == 2
    assert median_view(lr, torch.tensor([[True, False, True, False]])).item() == 3
    assert median_view(lr, torch.tensor([[True, True, True, False]])).item() == 3
    assert median_view(lr, torch.tensor([[True, True, True, True]])).item() == 2


@pytest.mark.parametrize(("kind", "meets"), [("published", False), ("smooth", True)])
def test_only_in_the_smooth_decoder_neighbouring_input_pixels_meet(kind: DecoderKind, meets: bool) -> None:
    decoder = Decoder(channels=3, width=4, scale=4, kind=kind)
    features = torch.randn(1, 4, 3, 5, requires_grad=True)
    image = decoder(features, torch.zeros(1, 3, 12, 20))
    assert image.shape == (1, 3, 12, 20)
    image[0, :, 4:8, 8:12].sum().backward()  # what the middle pixel becomes
    assert features.grad is not None
    seen = features.grad.abs().sum(dim=1)[0] > 0
    assert seen[1, 2]
    assert bool(seen[0, 2] and seen[1, 1] and seen[1, 3] and seen[2, 2]) == meets
    assert meets or int(seen.sum()) == 1
