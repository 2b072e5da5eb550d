"""Training and prediction of a backbone by itself."""

from torch import Tensor

from models.losses import LaplaceHead, l1, l1_shift, l2, laplace_deviation, laplace_loss
from models.samplers import Callback, Noise
from models.series import Backbone, Series
from tasks.base import RandomKey, Result, Task, series_of
from tasks.receptive_field import receptive_radius
from utils.dataloader import Batch

LOSSES = {"l1": l1, "l2": l2, "l1_shift": l1_shift}


class BackboneTask(Task):
    """A backbone learns the matched high-resolution image; a head beside it, where there is one, its error's scale."""

    def __init__(self, backbone: Backbone, *, loss_type: str, scale_head: LaplaceHead | None = None) -> None:
        super().__init__()
        if scale_head is not None:
            backbone.add_module("scale_head", scale_head)  # trained, saved and moved with the backbone
        self.scale_head = scale_head
        self.model: Backbone = backbone
        self.loss_type = loss_type

    def forward(self, batch: Batch, key: RandomKey) -> dict[str, Tensor]:
        prediction = self.model(series_of(batch))
        sr = prediction.sr.to(batch.hr.dtype)
        terms = {self.loss_type: LOSSES[self.loss_type](sr, batch.hr)}
        if self.scale_head is not None:
            terms["laplace"] = laplace_loss(self.scale_head(prediction, batch.base), sr - batch.hr)
        return terms

    def predict(
        self, series: Series, *, noise: Noise, samples: int = 1, preview: bool = False, callback: Callback | None = None
    ) -> Result:
        prediction = self.model(series)
        deviation = laplace_deviation(self.scale_head(prediction, series.base)) if self.scale_head else None
        return Result(sr=prediction.sr.float().clamp(-1, 1), deviation=deviation, attention=prediction.attention)

    def halo(self, num_dates: int) -> int:
        beyond = self.scale_head.radius if self.scale_head else 0
        return receptive_radius(self.model, num_dates=num_dates, channels=self.channels) + beyond
