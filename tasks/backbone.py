"""Training and prediction of a backbone by itself."""

from torch import Tensor

from models.losses import l1, l1_shift, l2
from models.samplers import Callback, Noise
from models.series import Backbone, Series
from tasks.base import RandomKey, Result, StepDecay, Task, series_of
from tasks.receptive_field import receptive_radius
from utils.dataloader import Batch

LOSSES = {"l1": l1, "l2": l2, "l1_shift": l1_shift}


class BackboneTask(Task):
    """A backbone learns the matched high-resolution image."""

    def __init__(self, backbone: Backbone, *, decay: StepDecay, loss_type: str) -> None:
        super().__init__()
        self.model: Backbone = backbone
        self.decay = decay
        self.loss_type = loss_type

    def forward(self, batch: Batch, key: RandomKey) -> dict[str, Tensor]:
        prediction = self.model(series_of(batch))
        return {self.loss_type: LOSSES[self.loss_type](prediction.sr.to(batch.hr.dtype), batch.hr)}

    def predict(
        self, series: Series, *, noise: Noise, samples: int = 1, preview: bool = False, callback: Callback | None = None
    ) -> Result:
        return Result(sr=self.model(series).sr.float().clamp(-1, 1))

    def halo(self, num_dates: int) -> int:
        return receptive_radius(self.model, num_dates=num_dates)
