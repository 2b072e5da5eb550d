"""Made-up results of experiments on one test set."""

from pathlib import Path

import numpy as np
import pandas as pd

from utils.report.comparison import save_pictures

ROWS = 20


def table(*, gain: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """What metrics.csv holds, for a model that is better by ``gain`` dB."""
    bicubic = 25 + np.random.default_rng(0).normal(size=ROWS)  # the same for all: the data are
    noise = np.random.default_rng(seed).normal(0, 0.2, ROWS)
    columns = {"psnr": bicubic + gain + noise, "lpips": 0.4 - gain / 10 + noise / 9, "bicubic_psnr": bicubic}
    return pd.DataFrame({**columns, "key": [f"00{i}" for i in range(ROWS)]})


def experiment(root: Path, name: str, rows: pd.DataFrame, *, pictures: bool = False) -> Path:
    """An evaluated experiment's folder."""
    folder = root / "checkpoints" / name
    folder.mkdir(parents=True)
    rows.to_csv(folder / "metrics.csv", sep=";")
    if pictures:
        for level, key in enumerate(rows["key"][:2]):
            flat = np.full((8, 8, 3), 60 * level, dtype=np.uint8)
            result = flat + 5 * (name != "bicubic")
            save_pictures(
                folder, key, {"nearest input": flat[:2, :2], "bicubic": flat, "result": result, "truth": flat}
            )
    return folder
