"""How near a super-resolved image is to the truth: PSNR, SSIM, MAE, MSE and the shift-tolerant MAE.

All are computed on integers 0..255, batched, on the device of the images; each gives one float64 number an image.
Sums of integers are exact, so neither the batch nor the number of threads changes a result.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.errors import DataError
from utils.metrics.grid import border_gradient, sampling_peak

DATA_RANGE = 255
SSIM_WINDOW = 7  # pixels, uniform
SHIFT_BORDER = 3  # pixels by which two images may be shifted against each other, in both directions
_BAND_ELEMENTS = 1 << 19  # what `shift_mae` compares at a time: 2 MB, which stays in a core's cache


def to_uint8(x: Tensor) -> Tensor:
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
    x, y = to_uint8(sr).float(), to_uint8(hr).float()
    error = x - y
    mse = mean_of_image(error.square())
    return {
        "psnr": psnr(mse),
        "ssim": structural_similarity(x, y),
        "mae": mean_of_image(error.abs_()),
        "mse": mse,
        "shift_mae": shift_mae(x, y),
    }


def by_band(sr: Tensor, hr: Tensor, bands: Sequence[str]) -> dict[str, Tensor]:
    """psnr, ssim and mae of each band by itself, as psnr_B08 ..., of integer images (B, C, H, W); each (B,) float64."""
    figures: dict[str, Tensor] = {}
    for i, band in enumerate(bands):
        x, y = (images[:, i : i + 1].float() for images in (sr, hr))  # (B, 1, H, W)
        figures[f"psnr_{band}"] = psnr(mean_of_image((x - y).square()))
        figures[f"ssim_{band}"] = structural_similarity(x, y)
        figures[f"mae_{band}"] = mean_of_image((x - y).abs())
    return figures


def ndvi_error(sr: Tensor, hr: Tensor, *, maxima: Sequence[float], red: int, nir: int) -> Tensor:
    """Mean absolute error of the vegetation index (nir - red) / (nir + red), (B,) float64; 0 where both are black.

    Args:
        sr: results, integers 0..255, (B, C, H, W).
        hr: truths, likewise.
        maxima: the reflectance of each band that is 255.
        red: the position of the red band; ``nir``: that of the near infrared.
    """

    def ndvi(images: Tensor) -> Tensor:
        x, y = (images[:, i].double() * maxima[i] for i in (nir, red))  # (B, H, W)
        return torch.where(x + y > 0, (x - y) / (x + y), 0)

    return (ndvi(sr) - ndvi(hr)).abs().mean(dim=(1, 2))


def mean_of_image(x: Tensor) -> Tensor:
    """Mean over channels and pixels, (B, C, H, W) -> (B,) float64."""
    return x.mean(dim=(1, 2, 3), dtype=torch.float64)


def psnr(mse: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB for a peak of 255; infinite where the error is 0."""
    return 10 * torch.log10(DATA_RANGE**2 / mse)


def structural_similarity(x: Tensor, y: Tensor) -> Tensor:
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


def extended(sr: Tensor, hr: Tensor, *, lr_nearest: Tensor, hr_sensor: Tensor) -> dict[str, Tensor]:
    """All further metrics of results against their truths.

    Args:
        sr: results, (B, C, H, W), uint8 or float in [-1, 1].
        hr: truths with the input's colours (after spectral matching), likewise.
        lr_nearest: the acquisitions nearest in time to the truths, (B, C, H / s, W / s), likewise.
        hr_sensor: truths as their sensor gave them, likewise (B, C, H, W).

    Returns:
        cpsnr, shift_psnr, sensor_psnr (dB), sam (degrees), ergas, consistency (digital numbers), sharpness_error (%),
        grid (a ratio), grid_peak (dB), each (B,) float64.
    """
    scale = sr.shape[-1] // max(1, lr_nearest.shape[-1])
    fits = tuple(scale * side for side in lr_nearest.shape[-2:]) == tuple(sr.shape[-2:])
    if not fits or sr.shape != hr.shape or sr.shape != hr_sensor.shape or min(sr.shape[-2:]) <= 2 * SHIFT_BORDER:
        shapes = ", ".join(str(tuple(images.shape)) for images in (sr, hr, hr_sensor, lr_nearest))
        raise DataError(
            f"metrics need result, truth and sensor's truth of one size of over {2 * SHIFT_BORDER} pixels,"
            f" and an input that is smaller by a whole number, not {shapes}"
        )
    sr, hr, lr_nearest, hr_sensor = (to_uint8(images) for images in (sr, hr, lr_nearest, hr_sensor))
    cpsnr, shift_psnr = shift_tolerant_psnrs(sr, hr)
    return {
        "cpsnr": cpsnr,
        "shift_psnr": shift_psnr,
        "sensor_psnr": psnr(mean_of_image((sr.float() - hr_sensor.float()).square())),
        "sam": spectral_angle(sr, hr),
        "ergas": ergas(sr, hr, scale=scale),
        "consistency": consistency(sr, lr_nearest),
        "sharpness_error": sharpness_error(sr, hr),
        "grid": border_gradient(sr, scale=scale),
        "grid_peak": sampling_peak(sr, scale=scale),
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


def radial_power(images: Tensor) -> tuple[Tensor, Tensor]:
    """Power spectra, mean over channels and directions (as Durall et al., *Watch your up-convolution*, CVPR 2020).

    Args:
        images: (B, C, H, W), any numeric type.

    Returns:
        frequencies (K,) in cycles a pixel, from one cycle an image up to 0.5 (details of two pixels), and
        power (B, K) float64. A Hann window keeps the borders of the image out of it.
    """
    height, width = images.shape[-2:]
    x = images.double()
    x = x - x.mean(dim=(-2, -1), keepdim=True)
    window = [torch.hann_window(side, dtype=torch.float64, device=x.device) for side in (height, width)]
    weights = window[0][:, None] * window[1]
    spectrum = torch.fft.fft2(x * weights).abs().square().mean(dim=1) / weights.square().sum()  # (B, H, W)

    rings = min(height, width) // 2
    fy, fx = (torch.fft.fftfreq(side, dtype=torch.float64, device=x.device) for side in (height, width))
    ring = ((fy[:, None] ** 2 + fx**2).sqrt() * 2 * rings).round().long()  # (H, W): 0 is the mean, rings is 0.5
    inside = (ring >= 1) & (ring <= rings)
    total = x.new_zeros(len(x), rings).index_add_(1, ring[inside] - 1, spectrum[:, inside])
    count = torch.bincount(ring[inside] - 1, minlength=rings)
    frequencies = torch.arange(1, rings + 1, dtype=torch.float64, device=x.device) / (2 * rings)
    return frequencies, total / count
