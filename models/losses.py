"""Losses between two batches of images (B, C, H, W); each is one number, the mean over everything."""

import itertools
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import conv3x3
from models.series import Prediction

LOG_SCALES = (-7.0, 1.0)  # of pixel values in [-1, 1]: an eighth of a digital number, and everything


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
    shifts = itertools.product(range(2 * border + 1), repeat=2)
    windows = [truth[..., dy : dy + height, dx : dx + width] for dy, dx in shifts]
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
            layers += [conv3x3(channels, width), nn.ReLU()] if width else [nn.MaxPool2d(2)]
            channels = width or channels
        self.features = nn.Sequential(*layers[:-1])  # up to the last convolution, before its ReLU
        self.load_state_dict({name: weights[name] for name in self.state_dict()})
        # As the reference implementation has it; the right shift for [-1, 1] would be 2 * mean - 1.
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        self.shift: Tensor
        self.range: Tensor
        self.register_buffer("shift", (mean - 1).view(3, 1, 1), persistent=False)
        self.register_buffer("range", (2 * std).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    def forward(self, prediction: Tensor, truth: Tensor) -> Tensor:
        return l1(*(self.features((image - self.shift) / self.range) for image in (prediction, truth)))


class LaplaceHead(nn.Module):
    """A second head of a backbone: how far off each pixel is, as the log scale of a Laplace distribution.

    After Kendall and Gal, *What uncertainties do we need in Bayesian deep learning for computer vision?*, NeurIPS 2017,
    but the image keeps its own loss: no gradient leaves this head, so that the image learns as if it weren't there.
    Two convolutions at low resolution, on the backbone's features and on its image, its pixels as channels.
    ``features``: channels of the backbone's features. ``width``: channels between the convolutions.
    """

    radius = 2  # low-resolution pixels that it looks beyond what it is given

    def __init__(self, *, features: int, channels: int = 3, scale: int, width: int = 32) -> None:
        super().__init__()
        self.scale = scale
        pixels = channels * scale**2
        self.enter = conv3x3(features + 2 * pixels, width)
        self.leave = conv3x3(width, pixels)
        nn.init.zeros_(self.leave.weight)
        nn.init.constant_(self.leave.get_parameter("bias"), -3)  # the log scale at first: six digital numbers

    def forward(self, prediction: Prediction, base: Tensor) -> Tensor:
        """Log scales (B, C, s*h, s*w) of a prediction and the bicubic image that it started from."""
        sr = prediction.sr.detach()
        images = F.pixel_unshuffle(torch.cat([sr, sr - base], dim=1), self.scale)  # (B, 2 C s², h, w)
        hidden = F.leaky_relu(self.enter(torch.cat([prediction.features.detach(), images], dim=1)), 0.2)
        return F.pixel_shuffle(self.leave(hidden), self.scale).float().clamp(*LOG_SCALES)


def laplace_loss(log_scale: Tensor, error: Tensor) -> Tensor:
    """Mean negative log-likelihood of errors under Laplace distributions, all (B, C, H, W)."""
    return (log_scale + math.log(2) + error.detach().abs() * torch.exp(-log_scale)).mean()


def laplace_deviation(log_scale: Tensor) -> Tensor:
    """Standard deviations of Laplace distributions."""
    return math.sqrt(2) * log_scale.exp()
