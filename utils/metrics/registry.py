"""What every metric is called, which way is better, and what it says, for all tables and pages."""

import math
from collections.abc import Iterable
from typing import NamedTuple


class Metric(NamedTuple):
    """A metric as people read it."""

    label: str
    unit: str  # empty: a pure number
    higher_is_better: bool
    decimals: int
    meaning: str  # one plain sentence, and the source
    judged: bool = True  # False: it describes, and doesn't say which of two methods is better

    def format(self, value: float, *, sign: bool = False) -> str:
        """The number as text, without its unit."""
        if not math.isfinite(value):
            return "–" if math.isnan(value) else "∞" if value > 0 else "\N{MINUS SIGN}∞"
        return f"{value:{'+' if sign else ''}.{self.decimals}f}".replace("-", "\N{MINUS SIGN}")

    def amount(self, value: float, *, sign: bool = False) -> str:
        """The number as text, with its unit."""
        text = self.format(value, sign=sign)
        return f"{text} {self.unit}" if self.unit else text

    def interval(self, low: float, high: float, *, sign: bool = False) -> str:
        """An interval as text, without its unit."""
        if not (math.isfinite(low) and math.isfinite(high)):
            return "not known"
        return f"{self.format(low, sign=sign)} to {self.format(high, sign=sign)}"

    @property
    def axis(self) -> str:
        """Label and unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    @property
    def heading(self) -> str:
        """Label, unit and the way that is better, of a table's row or column."""
        return self.axis + ({True: " ↑", False: " ↓"}[self.higher_is_better] if self.judged else "")


METRICS = {
    "psnr": Metric(
        "PSNR", "dB", True, 2, "Closeness to the truth, pixel by pixel; one dB more is a fifth less squared error."
    ),
    "ssim": Metric(
        "SSIM", "", True, 4, "Likeness of structures in windows of 7 pixels; 1 is equal (Wang et al. 2004)."
    ),
    "lpips": Metric(
        "LPIPS",
        "",
        False,
        4,
        "How different the images look, judged by a trained network (AlexNet); 0 is equal (Zhang et al. 2018).",
    ),
    "mae": Metric("MAE", "DN", False, 2, "Mean absolute error in digital numbers from 0 to 255."),
    "mse": Metric("MSE", "DN²", False, 1, "Mean squared error: large errors weigh more."),
    "shift_mae": Metric(
        "shift-MAE", "DN", False, 2, "MAE at the best shift of up to 3 pixels: forgives misregistration."
    ),
    "cpsnr": Metric(
        "cPSNR", "dB", True, 2, "PSNR at the best shift, with each band's brightness corrected (Märtens et al. 2019)."
    ),
    "shift_psnr": Metric("shift-PSNR", "dB", True, 2, "PSNR at the best shift of up to 3 pixels."),
    "sensor_psnr": Metric(
        "sensor PSNR",
        "dB",
        True,
        2,
        "PSNR against the truth in its sensor's own colours, not matched to the input: includes the radiometric "
        "difference between the sensors.",
    ),
    "sam": Metric("SAM", "°", False, 2, "Mean angle between the colours of result and truth (Kruse et al. 1993)."),
    "ergas": Metric("ERGAS", "", False, 3, "Relative error over all bands; 0 is equal (Wald 2000)."),
    "ndvi_error": Metric(
        "NDVI error", "", False, 4, "Mean absolute error of the vegetation index, (NIR − red) / (NIR + red)."
    ),
    "sharpness_error": Metric(
        "sharpness error",
        "%",
        False,
        1,
        "By how much the mean gradient is off the truth's, either way: blur has too little, noise too much, so a small "
        "value alone doesn't mean right details (this project's own measure).",
    ),
    "grid": Metric(
        "grid",
        "",
        False,
        3,
        "Mean gradient across the borders of the input's pixels against inside them: above 1 where they show as a "
        "pattern; 0.9 to 1.1 after interpolation (this project's own measure).",
        judged=False,
    ),
    "grid_peak": Metric(
        "grid peak",
        "dB",
        False,
        1,
        "By how much the spectrum at the input's sampling frequency stands above its surroundings: 0 without a pattern "
        "(this project's own measure).",
    ),
    "improvement": Metric(
        "improvement",
        "",
        True,
        3,
        "Share of the added detail that is the truth's; the three shares make 1 (Aybar et al. 2024).",
    ),
    "omission": Metric("omission", "", False, 3, "Share of the truth's detail that is missing (Aybar et al. 2024)."),
    "hallucination": Metric(
        "hallucination", "", False, 3, "Share of the added detail that is invented (Aybar et al. 2024)."
    ),
    "series_omission": Metric(
        "omission (series)",
        "",
        False,
        3,
        "Omission where a result that looks like any of the dates, not only the nearest, counts as adding nothing.",
    ),
    "series_hallucination": Metric(
        "hallucination (series)", "", False, 3, "Share of the added detail that neither the truth nor any date shows."
    ),
    "frc_resolution": Metric(
        "right down to",
        "m",
        False,
        1,
        "Smallest detail that is still the truth's: Fourier ring correlation falls below 1/7 (Banterle et al. 2013).",
    ),
    "frc_half": Metric(
        "half right down to",
        "m",
        False,
        1,
        "The same where Fourier ring correlation falls below 0.5.",
    ),
    "synthesis": Metric(
        "synthesis",
        "",
        True,
        4,
        "Mean absolute difference to the enlarged input, of 1: how much detail is added (Aybar et al. 2024).",
        judged=False,
    ),
    "reflectance_consistency": Metric(
        "reflectance consistency",
        "",
        False,
        4,
        "Mean absolute difference to the input, of 1, when the result is reduced to its pixels (Aybar et al. 2024).",
        judged=False,
    ),
    "angle_consistency": Metric(
        "angle consistency", "°", False, 2, "Mean angle between the colours of both (Aybar et al. 2024).", judged=False
    ),
    "shift_consistency": Metric(
        "shift consistency",
        "px",
        False,
        2,
        "How far apart they lie, pixels of the input (Aybar et al. 2024).",
        judged=False,
    ),
    "consistency": Metric(
        "consistency",
        "DN",
        False,
        2,
        "Difference to the nearest input when the result is averaged to its pixels (after Aybar et al. 2024). It only "
        "describes: interpolating that input wins, the truth of another day doesn't.",
        judged=False,
    ),
}
# The column prefixes of metrics.csv: what was measured, by the name that people read.
METHODS = {"": "result", "backbone_": "backbone", "bicubic_": "bicubic"}


def known(columns: Iterable[str], *, prefix: str = "") -> list[str]:
    """The metrics among columns, in the order of the table above."""
    present = set(columns)
    return [name for name in METRICS if f"{prefix}{name}" in present]
