"""More ways to judge a result: tolerant of shifts and brightness, of spectra, against the input, against the sensor.

As in `utils.metrics`: on integers 0..255, batched, one float64 number an image.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.errors import DataError
from utils.metrics import SHIFT_BORDER, mean_of_image, psnr, to_integers


def extended(sr: Tensor, hr: Tensor, *, lr_nearest: Tensor, hr_sensor: Tensor) -> dict[str, Tensor]:
    """All further metrics of results against their truths.

    Args:
        sr: results, (B, C, H, W), uint8 or float in [-1, 1].
        hr: truths with the input's colours (after spectral matching), likewise.
        lr_nearest: the acquisitions nearest in time to the truths, (B, C, H / s, W / s), likewise.
        hr_sensor: truths as their sensor gave them, likewise (B, C, H, W).

    Returns:
        cpsnr, shift_psnr, sensor_psnr (dB), sam (degrees), ergas, consistency (digital numbers), sharpness_error (%),
        each (B,) float64.
    """
    scale = sr.shape[-1] // max(1, lr_nearest.shape[-1])
    fits = tuple(scale * side for side in lr_nearest.shape[-2:]) == tuple(sr.shape[-2:])
    if not fits or sr.shape != hr.shape or sr.shape != hr_sensor.shape or min(sr.shape[-2:]) <= 2 * SHIFT_BORDER:
        shapes = ", ".join(str(tuple(images.shape)) for images in (sr, hr, hr_sensor, lr_nearest))
        raise DataError(
            f"metrics need result, truth and sensor's truth of one size of over {2 * SHIFT_BORDER} pixels,"
            f" and an input that is smaller by a whole number, not {shapes}"
        )
    sr, hr, lr_nearest, hr_sensor = (to_integers(images) for images in (sr, hr, lr_nearest, hr_sensor))
    cpsnr, shift_psnr = shift_tolerant_psnrs(sr, hr)
    return {
        "cpsnr": cpsnr,
        "shift_psnr": shift_psnr,
        "sensor_psnr": psnr(mean_of_image((sr.float() - hr_sensor.float()).square())),
        "sam": spectral_angle(sr, hr),
        "ergas": ergas(sr, hr, scale=scale),
        "consistency": consistency(sr, lr_nearest),
        "sharpness_error": sharpness_error(sr, hr),
    }


def shift_tolerant_psnrs(sr: Tensor, hr: Tensor, *, border: int = SHIFT_BORDER) -> tuple[Tensor, Tensor]:
    """The best PSNR over all integer shifts of up to ``border`` pixels: with brightness corrected (cPSNR), and without.

    cPSNR: Märtens et al., *Super-resolution of PROBA-V images using convolutional neural networks*, Astrodynamics 2019:
    the mean difference is taken off first, here band by band. The result is cropped by ``border``, the truth is shifted
    below it. Both are infinite where a shift leaves no error.
    """
    height, width = sr.shape[-2] - 2 * border, sr.shape[-1] - 2 * border
    pixels = height * width
    x = F.pad(
        sr[..., border:-border, border:-border], (0, 2 * border, 0, 2 * border)
    ).double()  # (B, C, H, W), 0 outside
    y = hr.double()

    # For all shifts at once, (B, C, shifts, shifts): the sum of products by the correlation theorem (nothing wraps
    # around, since the cropped result fits at each shift; a sum of integers is one), and the sums of the truth below.
    correlation = torch.fft.irfft2(torch.fft.rfft2(x).conj() * torch.fft.rfft2(y), s=y.shape[-2:])
    product = correlation[..., : 2 * border + 1, : 2 * border + 1].round().long()
    truth_sum, truth_squares = (_sliding_sums(z.long(), height, width) for z in (hr, hr.long().square()))
    result_sum, result_squares = (z.long().sum(dim=(-2, -1))[..., None, None] for z in (x, x.square()))

    squares = truth_squares - 2 * product + result_squares  # sum of squared differences
    variance = pixels * squares - (truth_sum - result_sum).square()  # after the mean difference is taken off, × pixels
    shift_mse = squares.double().mean(dim=1) / pixels  # (B, shifts, shifts)
    corrected_mse = variance.double().mean(dim=1) / pixels**2
    return psnr(corrected_mse.amin(dim=(1, 2))), psnr(shift_mse.amin(dim=(1, 2)))


def spectral_angle(sr: Tensor, hr: Tensor) -> Tensor:
    """Mean angle between the spectra of result and truth in degrees.

    SAM: Kruse et al., *The spectral image processing system*, Remote Sensing of Environment 1993. Two black pixels have
    angle 0, a black and another one 90.
    """
    x, y = sr.double(), hr.double()
    dot, x_squares, y_squares = (x * y).sum(dim=1), x.square().sum(dim=1), y.square().sum(dim=1)  # (B, H, W)
    # |x|²|y|² sin² is exact in integers, so equal spectra have angle 0; an arc cosine loses half of its digits there.
    angle = torch.atan2((x_squares * y_squares - dot.square()).sqrt(), dot)
    angle = angle.masked_fill((x_squares == 0) != (y_squares == 0), torch.pi / 2)
    return torch.rad2deg(angle).mean(dim=(1, 2))


def ergas(sr: Tensor, hr: Tensor, *, scale: int) -> Tensor:
    """Relative dimensionless global error in synthesis (Wald, *Quality of high resolution synthesised images*, 2000).

    100 / scale · √(mean over bands of MSE / mean²); 0 is equal. A black band of the truth adds 0 where the result is
    black too, else it makes the error infinite.
    """
    mse = (sr.float() - hr.float()).square().mean(dim=(2, 3), dtype=torch.float64)  # (B, C)
    mean = hr.double().mean(dim=(2, 3))
    relative = torch.where(mse == 0, 0, mse / mean.square())
    return 100 / scale * relative.mean(dim=1).sqrt()


def consistency(sr: Tensor, lr_nearest: Tensor) -> Tensor:
    """Mean absolute difference of the input and the result averaged over the input's pixels, in digital numbers.

    As the reflectance consistency of Aybar et al., *A comprehensive benchmark for optical remote sensing image
    super-resolution*, IEEE GRSL 2024. A good result is near 0, but not at it: the truth's day is another one.
    """
    scale = sr.shape[-1] // lr_nearest.shape[-1]
    averaged = F.avg_pool2d(sr.double(), scale)  # (B, C, h, w)
    return mean_of_image((averaged - lr_nearest.double()).abs())


def sharpness_error(sr: Tensor, hr: Tensor) -> Tensor:
    """By how many percent the result's mean gradient magnitude is off the truth's; 0 where neither has a gradient.

    The magnitude of central differences, as the mean-gradient sharpness of pan-sharpening studies: a blurred result has
    less of it. Infinite where only the truth is flat.
    """
    ours, wanted = mean_gradient(sr), mean_gradient(hr)
    return torch.where(ours == wanted, 0.0, 100 * (ours - wanted).abs() / wanted)


def mean_gradient(x: Tensor) -> Tensor:
    """Mean length of the central differences in digital numbers a pixel, (B, C, H, W) -> (B,) float64."""
    x = x.double()
    across = (x[..., 1:-1, 2:] - x[..., 1:-1, :-2]) / 2
    down = (x[..., 2:, 1:-1] - x[..., :-2, 1:-1]) / 2
    return mean_of_image(torch.hypot(across, down))


def _sliding_sums(x: Tensor, height: int, width: int) -> Tensor:
    """Sums over each window of the size, (..., H, W) -> (..., H - height + 1, W - width + 1)."""
    return x.unfold(-2, height, 1).sum(dim=-1).unfold(-1, width, 1).sum(dim=-1)
