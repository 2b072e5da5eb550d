"""No network at all: the bicubic image, and the low-resolution view as features."""

from models.layers import doublings
from models.series import Backbone, Prediction, Series


class Bicubic(Backbone):
    """The baseline, and the condition of SRDiff without an encoder."""

    def __init__(self, *, channels: int = 3, scale: int = 4) -> None:
        super().__init__()
        doublings(scale)
        self.scale = scale
        self.feature_channels = channels

    def forward(self, series: Series) -> Prediction:
        return Prediction(sr=series.base, features=series.nearest())
