"""LPIPS, the learned perceptual distance of two images, in plain torch.

Zhang et al., *The Unreasonable Effectiveness of Deep Features as a Perceptual Metric*, CVPR 2018; version 0.1, AlexNet.
"""

import logging
import socket
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.errors import CheckpointError

logger = logging.getLogger(__name__)

TAPS = (1, 4, 7, 9, 11)  # AlexNet's five ReLUs
WIDTHS = (64, 192, 384, 256, 256)
SMALLEST = 31  # pixels of height and width: what AlexNet's last level needs
DOWNLOADS = {  # by file: where it is, and its sha256 (torchvision's names hold the beginning of it)
    "alexnet-owt-7be5be79.pth": ("https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", "7be5be79"),
    "lpips-v0.1-alex.pth": (
        "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/alex.pth",
        "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    ),
}
TIMEOUT = 10  # seconds without an answer


class LPIPS(nn.Module):
    """The distance of two batches of images; frozen. Parameters are named as in the original's files."""

    shift: Tensor
    stretch: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(64, 192, kernel_size=5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),
            nn.Conv2d(192, 384, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, kernel_size=3, padding=1),
            nn.ReLU(),
        )
        for level, width in enumerate(WIDTHS):
            self.add_module(f"lin{level}", _Head(width))
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1), persistent=False)
        self.register_buffer("stretch", torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1), persistent=False)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances of integer images 0..255 of any type, both (B, 3, H, W), -> (B,) float32; 0 is equal.

        Images of under 31 pixels in height or width have no distance: NaN.
        """
        if min(a.shape[-2:]) < SMALLEST:
            return torch.full((len(a),), torch.nan, device=a.device)
        x = torch.cat([a, b]).to(self.shift.dtype) / 127.5 - 1
        x = (x - self.shift) / self.stretch  # (2B, 3, H, W)
        distance = x.new_zeros(len(a))
        level = 0
        for index, layer in enumerate(self.features):
            x = layer(x)  # (2B, C, h, w)
            if index in TAPS:
                unit_a, unit_b = (x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)).chunk(2)
                head = self.get_submodule(f"lin{level}")
                distance = distance + head((unit_a - unit_b).square()).mean(dim=(1, 2, 3))  # (B,)
                level += 1
        return distance


class _Head(nn.Module):
    """One non-negative weight a channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Dropout(), nn.Conv2d(width, 1, kernel_size=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def load_lpips(path: str | Path) -> LPIPS | None:
    """The metric with its published weights.

    Args:
        path: a file with all weights (``features.*`` and ``lin*``). Empty: the public downloads, each tried once and
            kept in torch's hub folder (under the environment variable TORCH_HOME). ``none``: no LPIPS.

    Returns:
        The metric. None where it is not wanted, or where the downloads can't be had, which is logged.

    Raises:
        CheckpointError: a file is missing, damaged or holds other weights.
    """
    if path == "none":
        return None
    if path:
        return _build(_read(Path(path)), sources=str(path))
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        for name in DOWNLOADS:
            _fetch(folder / name)
    except (OSError, HTTPException, RuntimeError) as error:  # no network, no disk, or another checksum
        logger.info(
            f"LPIPS is left empty: its weights are not here and could not be downloaded ({error}); set lpips_weights"
        )
        return None
    files = [folder / name for name in DOWNLOADS]
    weights = {key: value for file in files for key, value in _read(file).items() if not key.startswith("classifier.")}
    return _build(weights, sources=" and ".join(map(str, files)))


def _fetch(file: Path) -> None:
    """Download a file of DOWNLOADS where it is missing; it appears whole and with its checksum, or not at all."""
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    url, checksum = DOWNLOADS[file.name]
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)  # torch.hub waits for ever
    try:
        torch.hub.download_url_to_file(url, str(file), hash_prefix=checksum, progress=False)
    finally:
        socket.setdefaulttimeout(before)


def _build(weights: Mapping[str, Tensor], *, sources: str) -> LPIPS:
    metric = LPIPS()
    try:
        metric.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{sources}: not LPIPS's weights on AlexNet (features.*, lin*): {error}") from error
    return metric


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give LPIPS's weights, or nothing to have them downloaded")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files end in whatever the unpickler met
        raise CheckpointError(
            f"{path}: can't be read as weights ({type(error).__name__}); remove or replace it"
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(key, str) for key in weights):
        raise CheckpointError(f"{path}: holds no weights by name; give LPIPS's weights on AlexNet")
    return weights
