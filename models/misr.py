"""Multi-image super-resolution networks made of the parts of RRDBNet, HighRes-net and L-TAE."""

from typing import Any, Literal

from torch import Tensor

from models.highresnet import Decoder, DecoderKind, Encoder, RecursiveFusion, median_view
from models.ltae import LTAE2d
from models.rrdb import OutputClamp, RRDBTrunk, UpsamplingHead
from models.series import Backbone, Prediction, Series

Reference = Literal["median", "closest"]


def attend(temporal_encoder: LTAE2d, views: Tensor, series: Series, *, mask_padding: bool) -> tuple[Tensor, Tensor]:
    """Encoded views (B * T, C, h, w) -> one map (B, C_out, h, w), and the attention (heads, B, T, h, w).

    With ``mask_padding`` as if padding weren't there.
    """
    pad_mask = ~series.mask if mask_padding else None
    return temporal_encoder(series.by_date(views), series.dates, pad_mask, norm_padding=not mask_padding)


class HighResLTAE(Backbone):
    """Encoder and decoder of HighRes-net with temporal attention between them.

    Args:
        reference: what every view is encoded beside: the median of the views, or the view closest to the target date.
        mask_padding: leave padded views out of median, normalisation and attention; as published, they vote.
        ltae: keywords of ``LTAE2d``; the features have as many channels as its mlp ends with.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        width: int = 64,
        layers: int = 2,
        reference: Reference = "median",
        scale: int = 4,
        mask_padding: bool = False,
        base_residual: bool = False,
        decoder: DecoderKind = "published",
        **ltae: Any,
    ) -> None:
        super().__init__()
        self.scale, self.reference, self.mask_padding = scale, reference, mask_padding
        self.encoder = Encoder(channels=channels, width=width, layers=layers)
        self.temporal_encoder = LTAE2d(channels=width, **ltae)
        self.feature_channels = self.temporal_encoder.out_channels
        self.decoder = Decoder(
            channels=channels, width=self.feature_channels, scale=scale, kind=decoder, base_residual=base_residual
        )

    def forward(self, series: Series) -> Prediction:
        if self.reference == "closest":
            reference = series.nearest()
        else:
            reference = median_view(series.lr, series.mask if self.mask_padding else None)
        views = self.encoder(series.lr, reference)  # (B * T, width, h, w)
        features, attention = attend(self.temporal_encoder, views, series, mask_padding=self.mask_padding)
        return Prediction(sr=self.decoder(features, series.base), features=features, attention=attention)


class RRDBLTAE(Backbone):
    """RRDB trunk for every view, temporal attention, RRDB upsampling head; keywords as those of ``HighResLTAE``."""

    def __init__(
        self,
        *,
        channels: int = 3,
        width: int = 32,
        blocks: int,
        growth: int = 32,
        scale: int = 4,
        output_clamp: OutputClamp = "straight_through",
        mask_padding: bool = False,
        base_residual: bool = False,
        **ltae: Any,
    ) -> None:
        super().__init__()
        self.scale, self.mask_padding = scale, mask_padding
        self.encoder = RRDBTrunk(channels=channels, width=width, blocks=blocks, growth=growth)
        self.temporal_encoder = LTAE2d(channels=width, **ltae)
        width = self.feature_channels = self.temporal_encoder.out_channels
        self.decoder = UpsamplingHead(
            channels=channels, width=width, scale=scale, output_clamp=output_clamp, base_residual=base_residual
        )

    def forward(self, series: Series) -> Prediction:
        views = self.encoder(series.lr.flatten(0, 1))  # (B * T, width, h, w)
        features, attention = attend(self.temporal_encoder, views, series, mask_padding=self.mask_padding)
        return Prediction(sr=self.decoder(features, series.base), features=features, attention=attention)


class RRDBHighResNet(Backbone):
    """RRDB trunk for every view, recursive fusion, RRDB upsampling head. Padded views have alpha 0."""

    def __init__(
        self,
        *,
        channels: int = 3,
        width: int = 32,
        blocks: int,
        growth: int = 32,
        scale: int = 4,
        output_clamp: OutputClamp = "straight_through",
        base_residual: bool = False,
    ) -> None:
        super().__init__()
        self.scale, self.feature_channels = scale, width
        self.encoder = RRDBTrunk(channels=channels, width=width, blocks=blocks, growth=growth)
        self.fuse = RecursiveFusion(width=width)
        self.decoder = UpsamplingHead(
            channels=channels, width=width, scale=scale, output_clamp=output_clamp, base_residual=base_residual
        )

    def forward(self, series: Series) -> Prediction:
        views = series.by_date(self.encoder(series.lr.flatten(0, 1)))  # (B, T, width, h, w)
        features = self.fuse(views, series.mask)  # (B, width, h, w)
        return Prediction(sr=self.decoder(features, series.base), features=features)
