"""A second head of a backbone: how far off each pixel of its prediction is, as the scale of a Laplace distribution.

After Kendall and Gal, *What uncertainties do we need in Bayesian deep learning for computer vision?*, NeurIPS 2017,
but the image keeps its own loss: no gradient leaves this head, so that the image learns as if it weren't there.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import conv3x3
from models.series import Prediction

LOG_SCALES = (-7.0, 1.0)  # of pixel values in [-1, 1]: an eighth of a digital number, and everything
_START = -3.0  # log scale before training: six digital numbers


class LaplaceHead(nn.Module):
    """Two convolutions at low resolution, on the backbone's features and on its image, its pixels as channels.

    Args:
        features: channels of the backbone's features.
        channels: of the image.
        scale: of the super-resolution.
        width: channels between the convolutions.
    """

    radius = 2  # low-resolution pixels that it looks beyond what it is given

    def __init__(self, *, features: int, channels: int = 3, scale: int, width: int = 32) -> None:
        super().__init__()
        self.scale = scale
        pixels = channels * scale**2
        self.enter = conv3x3(features + 2 * pixels, width)
        self.leave = conv3x3(width, pixels)
        nn.init.zeros_(self.leave.weight)
        nn.init.constant_(self.leave.get_parameter("bias"), _START)

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
