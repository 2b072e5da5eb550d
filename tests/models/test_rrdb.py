import torch
from torch import Tensor

from models.rrdb import OutputClamp, RRDBNet, clamp_to_unit
from tests.models.nets import make_series, random_series


def test_clamps_agree_in_value_not_in_gradient() -> None:
    x = torch.tensor([-0.3, 0.0, 0.4, 1.0, 1.7])
    values: dict[bool, Tensor] = {}
    gradients: dict[bool, Tensor | None] = {}
    for straight_through in (True, False):
        leaf = x.clone().requires_grad_()
        values[straight_through] = clamp_to_unit(leaf, straight_through=straight_through)
        values[straight_through].sum().backward()
        gradients[straight_through] = leaf.grad
    assert torch.equal(values[True], values[False])
    torch.testing.assert_close(gradients[True], torch.ones(5))
    torch.testing.assert_close(gradients[False], torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0]))


def test_a_channel_outside_the_range_learns_only_straight_through() -> None:
    clamps: tuple[OutputClamp, ...] = ("straight_through", "hard")
    gradients = {}
    for clamp in clamps:
        torch.manual_seed(0)
        network = RRDBNet(width=4, blocks=1, output_clamp=clamp)
        with torch.no_grad():
            network.conv_last.get_parameter("bias")[1] = -10  # this channel starts below 0 everywhere
        network(random_series(views=1)).sr.sub(0.5).abs().mean().backward()
        gradients[clamp] = network.conv_last.weight.grad[1].abs().max()  # type: ignore[index]
    assert gradients["hard"] == 0
    assert gradients["straight_through"] > 0


def test_takes_the_view_nearest_to_the_target_date() -> None:
    series = random_series(views=3)._replace(dates=torch.tensor([[-9.0, 2.0, 4.0], [1.0, -5.0, -1.0]]))
    network = RRDBNet(width=4, blocks=2).eval()
    nearest = torch.stack([series.lr[0, 1], series.lr[1, 0]])  # the first of the two at distance 1
    with torch.no_grad():
        torch.testing.assert_close(network(series).sr, network(make_series(nearest)).sr)


def test_a_single_block_gives_no_features() -> None:
    network = RRDBNet(width=4, blocks=1)
    assert network.feature_channels == 0
    assert network(random_series(views=1)).features.shape[1] == 0
