"""How near a super-resolved image is to the truth: PSNR, SSIM, MAE, MSE and the shift-tolerant MAE.

All are computed on integers 0..255, batched, on the device of the images; each gives one float64 number an image.
Sums of integers are exact, so neither the batch nor the number of threads changes a result.
"""

import torch
from torch import Tensor

from utils.errors import DataError

DATA_RANGE = 255
SSIM_WINDOW = 7  # pixels, uniform
SHIFT_BORDER = 3  # pixels by which two images may be shifted against each other, in both directions
_BAND_ELEMENTS = 1 << 19  # what `shift_mae` compares at a time: 2 MB, which stays in a core's cache


def to_integers(x: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8 0..255, what lies outside clipped; uint8 images are given back as they are."""
    if x.dtype == torch.uint8:
        return x
    if not torch.stack(x.aminmax()).isfinite().all():
        raise DataError("an image holds numbers that are not finite: its model has diverged, or its input is damaged")
    return x.add(1).mul_(127.5).round_().clamp_(0, DATA_RANGE).to(torch.uint8)


def measure(sr: Tensor, hr: Tensor) -> dict[str, Tensor]:
    """All metrics of results against their truths.

    Args:
        sr: results, (B, C, H, W), uint8 or float in [-1, 1]; at least 7×7 pixels.
        hr: truths, likewise.

    Returns:
        psnr (dB; infinite for identical images), ssim, mae, mse, shift_mae (digital numbers), each (B,) float64.
    """
    if sr.shape != hr.shape or sr.dim() != 4 or min(sr.shape[-2:]) < SSIM_WINDOW:
        raise DataError(
            f"metrics need two batches of images of one size of at least {SSIM_WINDOW}x{SSIM_WINDOW} pixels,"
            f" not {tuple(sr.shape)} and {tuple(hr.shape)}"
        )
    x, y = to_integers(sr).float(), to_integers(hr).float()
    error = x - y
    mse = mean_of_image(error.square())
    return {
        "psnr": psnr(mse),
        "ssim": ssim(x, y),
        "mae": mean_of_image(error.abs_()),
        "mse": mse,
        "shift_mae": shift_mae(x, y),
    }


def mean_of_image(x: Tensor) -> Tensor:
    """Mean over channels and pixels, (B, C, H, W) -> (B,) float64."""
    return x.mean(dim=(1, 2, 3), dtype=torch.float64)


def psnr(mse: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB for a peak of 255; infinite where the error is 0."""
    return 10 * torch.log10(DATA_RANGE**2 / mse)


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity (Wang et al., IEEE TIP 2004, equation 13) of integer images as float32, (B,) float64.

    As skimage.metrics.structural_similarity: uniform 7×7 windows that lie wholly inside, sample covariance, mean over
    windows and channels.
    """
    # A channel at a time, in place: its maps stay in the core's cache, which is four times as fast.
    planes = [_ssim(plane_x, plane_y) for plane_x, plane_y in zip(x.flatten(0, 1), y.flatten(0, 1), strict=True)]
    return torch.stack(planes).view(x.shape[:2]).mean(dim=1)


def _ssim(x: Tensor, y: Tensor) -> Tensor:
    """The same of one channel, (H, W) -> ()."""
    n = SSIM_WINDOW**2
    c1 = (0.01 * DATA_RANGE) ** 2 * n**2  # numerator and denominator are both multiplied by n² · n(n - 1)
    c2 = (0.03 * DATA_RANGE) ** 2 * n * (n - 1)
    # Window sums are integers below 2^24, so float32 holds them exactly; their products need float64.
    sum_x, sum_y, sum_xy, sum_squares = (_window_sums(z).double() for z in (x, y, x * y, x * x + y * y))
    squares = (sum_x * sum_x).addcmul_(sum_y, sum_y)
    product = sum_x.mul_(sum_y).mul_(2)
    covariance = sum_xy.mul_(2 * n).sub_(product)
    variances = sum_squares.mul_(n).sub_(squares)  # of x and y, added
    similarity = product.add_(c1).mul_(covariance.add_(c2)).div_(squares.add_(c1).mul_(variances.add_(c2)))
    return similarity.mean()


def shift_mae(sr: Tensor, hr: Tensor, *, border: int = SHIFT_BORDER) -> Tensor:
    """The least mean absolute error over all integer shifts of up to ``border`` pixels, (B,) float64.

    The result is cropped by ``border`` on each side, the truth is shifted below it (as PROBA-V's challenge does for its
    score: Märtens et al., Astrodynamics 2019).
    """
    height, width = sr.shape[-2] - 2 * border, sr.shape[-1] - 2 * border
    result = sr[..., border : border + height, border : border + width].flatten(0, 1)[:, None, None]  # (BC, 1, 1, h, w)
    shifted = hr.flatten(0, 1).unfold(-2, height, 1).unfold(-2, width, 1)  # (BC, shifts, shifts, h, w), a view
    planes, shifts = shifted.shape[:2]
    rows = max(1, _BAND_ELEMENTS // (shifts * shifts * width))
    total = sr.new_zeros((planes, shifts, shifts), dtype=torch.float64)
    buffer = sr.new_empty((shifts, shifts, rows, width))
    for plane in range(planes):
        for top in range(
            0, height, rows
        ):  # bands of rows: neither all shifts of an image in memory, nor a loop over shifts
            band = slice(top, min(top + rows, height))
            error = buffer[:, :, : band.stop - top]
            torch.sub(shifted[plane, :, :, band], result[plane, :, :, band], out=error)
            total[plane] += error.abs_().sum(dim=-1).sum(dim=-1, dtype=torch.float64)  # a row's sum is exact in float32
    image_total = total.unflatten(0, (sr.shape[0], -1)).sum(dim=1).flatten(1)  # (B, shifts²)
    return image_total.amin(dim=1) / (sr.shape[1] * height * width)


def _window_sums(x: Tensor) -> Tensor:
    """Sums over the windows of SSIM, one axis after the other, (H, W) -> (H - 6, W - 6)."""
    return x.unfold(-1, SSIM_WINDOW, 1).sum(dim=-1).unfold(-2, SSIM_WINDOW, 1).sum(dim=-1)
