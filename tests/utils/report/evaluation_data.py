"""A made-up evaluation for the tests of the report."""

from pathlib import Path
from typing import Any

import numpy as np

from utils.report.page import Example, write_report


def rows(number: int = 12, *, gain: float = 2.0) -> list[dict[str, Any]]:
    """Patches whose result is better than bicubic by ``gain`` dB and worse by the day."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(number):
        days = float(3 * (i % 5))
        bicubic = 25 - 0.1 * days + rng.normal(0, 0.2)
        psnr = bicubic + gain + rng.normal(0, 0.1)
        made.append(
            {
                "key": 100 + i,
                "psnr": psnr,
                "bicubic_psnr": bicubic,
                "ssim": psnr / 40,
                "bicubic_ssim": bicubic / 40,
                "lpips": None,
                "days_to_nearest": days,
                "valid_dates": 2 + i % 3,
                "spread": 0.04,
            }
        )
    return made


def pictures(*, side: int = 24, seed: int = 0) -> dict[str, np.ndarray]:
    """Flat pictures, each of a colour of its own."""
    colours = {
        "nearest input": (10, 10, 10),
        "bicubic": (0, 0, 250),
        "result": (250, 0, 0),
        "truth": (0, 250, 0),
        "error": (90, 0, 90),
        "spread": (60, 0, 60),
    }
    sides = {"nearest input": side // 4}
    return {
        name: np.full((sides.get(name, side), sides.get(name, side), 3), colour, dtype=np.uint8)
        for name, colour in colours.items()
    }


def page(path: Path, **changes: Any) -> str:
    """Write a report of everything, and give its text."""
    content: dict[str, Any] = {
        "name": "misr/trial",
        "facts": {"checkpoint": f"checkpoints/misr/{'long_name_' * 8}/model_ckpt_steps_200.ckpt", "device": "CPU"},
        "settings": {"hidden_size": 64},
        "rows": rows(),
        "examples": [Example("best", 3, pictures()), Example("worst", 8, pictures())],
        "spectra": {"result": ([0.1, 0.3, 0.5], [3, 2, 1.0]), "truth": ([0.1, 0.3, 0.5], [3, 2, 2.0])},
        "rings": {},
        "trust": {},
        "scale": 4,
    }
    write_report(path, **(content | changes))
    return path.read_text(encoding="utf-8")
