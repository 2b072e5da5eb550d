import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models import losses


def images(seed: int, *shape: int) -> Tensor:
    return torch.rand(*(shape or (2, 3, 20, 24)), generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_l1_shift_finds_the_shift() -> None:
    truth = images(0)
    prediction = torch.roll(truth, shifts=(2, -3), dims=(2, 3))
    assert losses.l1_shift(prediction, truth) == 0
    assert losses.l1_shift(torch.roll(truth, shifts=4, dims=2), truth) > 0.1


def test_l1_shift_is_the_least_of_49_means() -> None:
    prediction, truth = images(1), images(2)
    means = [
        losses.l1(prediction[..., 3:-3, 3:-3], truth[..., dy : dy + 14, dx : dx + 18])
        for dy in range(7)
        for dx in range(7)
    ]
    assert losses.l1_shift(prediction, truth) == torch.stack(means).min()


def test_l1_shift_gives_the_gradient_of_the_best_shift() -> None:
    truth = images(3)
    prediction = (torch.roll(truth, shifts=1, dims=3) + 0.1).requires_grad_()
    losses.l1_shift(prediction, truth).backward()
    inner = torch.zeros_like(prediction)
    inner[..., 3:-3, 3:-3] = 1 / inner[..., 3:-3, 3:-3].numel()
    torch.testing.assert_close(prediction.grad, inner)


def test_ssim_of_equal_images_is_one() -> None:
    assert losses.ssim(images(4), images(4)).item() == pytest.approx(1, abs=1e-6)
    assert losses.ssim_loss(images(4), images(5)) > 0.5


def test_ssim_is_that_of_a_two_dimensional_window() -> None:
    a, b = (images(6) / 2 + 0.5).double(), (images(7) / 2 + 0.5).double()
    line = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / 4.5)
    window = (line[:, None] * line / line.sum() ** 2).expand(3, 1, 11, 11)

    def blur(x: Tensor) -> Tensor:
        return F.conv2d(x, window, padding=5, groups=3)

    ma, mb = blur(a), blur(b)
    numerator = (2 * ma * mb + 1e-4) * (2 * (blur(a * b) - ma * mb) + 9e-4)
    denominator = (ma**2 + mb**2 + 1e-4) * (blur(a * a) - ma**2 + blur(b * b) - mb**2 + 9e-4)
    torch.testing.assert_close(losses.ssim(a * 2 - 1, b * 2 - 1), (numerator / denominator).mean())


def test_ssim_keeps_its_precision_under_autocast() -> None:
    a, b = images(8), images(8) + 0.01
    with torch.autocast("cpu", torch.bfloat16):
        inside = losses.ssim(a, b)
    assert inside.item() == pytest.approx(losses.ssim(a, b).item(), rel=1e-6)


def vgg_state() -> dict[str, Tensor]:
    """Random weights under torchvision's names, with the classifier that isn't needed."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {"classifier.0.weight": torch.zeros(1)}
    index, channels = 0, 3
    for width in (64, 64, 0, 128, 128, 0, *[256] * 4, 0, *[512] * 4, 0, *[512] * 4):
        if width:
            scale = (2 / (9 * channels)) ** 0.5
            state[f"features.{index}.weight"] = torch.randn(width, channels, 3, 3, generator=generator) * scale
            state[f"features.{index}.bias"] = torch.zeros(width)
            index, channels = index + 2, width  # the convolution and its ReLU
        else:
            index += 1  # pooling
    return state


def test_perceptual_loss() -> None:
    loss = losses.PerceptualLoss(vgg_state())
    assert len(loss.features) == 35
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    a, b = images(9, 1, 3, 16, 16).requires_grad_(), images(10, 1, 3, 16, 16)
    assert loss(a, a) == 0
    value = loss(a, b)
    value.backward()
    assert value > 0
    assert a.grad is not None
    assert a.grad.abs().sum() > 0
    torch.testing.assert_close(loss.shift.flatten(), torch.tensor([0.485, 0.456, 0.406]) - 1)
    torch.testing.assert_close(loss.range.flatten(), torch.tensor([0.458, 0.448, 0.450]))


def test_perceptual_loss_names_a_missing_layer() -> None:
    state = vgg_state()
    del state["features.34.bias"]
    with pytest.raises(KeyError, match=r"features\.34\.bias"):
        losses.PerceptualLoss(state)
