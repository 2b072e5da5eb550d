"""Losses between two batches of images (B, C, H, W); each is one number, the mean over everything."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def l1(prediction: Tensor, truth: Tensor) -> Tensor:
    return (prediction - truth).abs().mean()


def l2(prediction: Tensor, truth: Tensor) -> Tensor:
    return (prediction - truth).square().mean()


def l1_shift(prediction: Tensor, truth: Tensor, *, border: int = 3) -> Tensor:
    """The least L1 over the integer shifts of the truth by up to ``border`` pixels; one minimum for the whole batch.

    The prediction loses its border, so both are compared at full overlap.
    """
    height, width = (size - 2 * border for size in prediction.shape[-2:])
    centre = prediction[..., border : border + height, border : border + width]
    windows = [
        truth[..., dy : dy + height, dx : dx + width] for dy in range(2 * border + 1) for dx in range(2 * border + 1)
    ]
    with torch.no_grad():  # the gradient of a minimum is that of the best shift alone
        best = int(torch.stack([l1(centre, window) for window in windows]).argmin())
    return l1(centre, windows[best])


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of images in [-1, 1]: Gaussian window 11, σ 1.5, zero padding, biased moments; 1 if equal.

    In float32 at least: the differences of moments don't survive less.
    """
    with torch.autocast(a.device.type, enabled=False):
        dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
        a, b = a.to(dtype) / 2 + 0.5, b.to(dtype) / 2 + 0.5
        mean_a, mean_b, aa, bb, ab = _blur(torch.stack([a, b, a * a, b * b, a * b])).unbind(0)
        variance_a, variance_b, covariance = aa - mean_a**2, bb - mean_b**2, ab - mean_a * mean_b
        c1, c2 = 0.01**2, 0.03**2
        luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
        structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
        return (luminance * structure).mean()


def _blur(x: Tensor) -> Tensor:
    """Gaussian window 11, σ 1.5 over the last two axes, zeros outside."""
    window = torch.exp(-((torch.arange(11, device=x.device, dtype=x.dtype) - 5) ** 2) / (2 * 1.5**2))
    window = window / window.sum()
    planes = x.reshape(-1, 1, *x.shape[-2:])  # every channel by itself
    planes = F.conv2d(planes, window.view(1, 1, 11, 1), padding=(5, 0))
    return F.conv2d(planes, window.view(1, 1, 1, 11), padding=(0, 5)).view(x.shape)


def ssim_loss(prediction: Tensor, truth: Tensor) -> Tensor:
    """1 − SSIM."""
    return 1 - ssim(prediction, truth)


class PerceptualLoss(nn.Module):
    """L1 between the outputs of VGG-19's last convolution (``features[:35]``) for images in [-1, 1].

    ``weights`` is torchvision's state dict of vgg19 (``features.0.weight``, ...); the network is frozen. Raises
    KeyError if a layer is missing.
    """

    widths = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256, 0, 512, 512, 512, 512, 0, 512, 512, 512, 512)  # 0: pooling

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in self.widths:
            if width == 0:
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, width, kernel_size=3, padding=1), nn.ReLU()]
                channels = width
        self.features = nn.Sequential(*layers[:-1])  # up to the last convolution, before its ReLU
        self.load_state_dict({name: weights[name] for name in self.state_dict()})
        # As the reference implementation has it; the right shift for [-1, 1] would be 2 * mean - 1.
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        self.register_buffer("shift", (mean - 1).view(3, 1, 1), persistent=False)
        self.register_buffer("range", (2 * std).view(3, 1, 1), persistent=False)
        self.shift: Tensor
        self.range: Tensor
        self.requires_grad_(False)
        self.eval()

    def forward(self, prediction: Tensor, truth: Tensor) -> Tensor:
        return l1(
            self.features((prediction - self.shift) / self.range), self.features((truth - self.shift) / self.range)
        )
