"""Networks of the sizes that a golden file has, and small ones of our own."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from models.bicubic import Bicubic
from models.diffusion import SRDiff
from models.highresnet import HighResNet
from models.ltae import LTAEOptions
from models.misr import RRDBLTAE, HighResLTAE, RRDBHighResNet
from models.rrdb import RRDBNet
from models.schedule import Schedule
from models.series import Backbone, Series
from models.unet import UNet
from tests.golden.large import Golden, names

State = dict[str, Tensor]


def sharp(pattern: str) -> list[str]:
    """The float64 runs among the golden files of a pattern."""
    return [name for name in names(pattern) if name.endswith("_f64.pt")]


def plain(pattern: str) -> list[str]:
    return [name for name in names(pattern) if not name.endswith("_f64.pt")]


def make_series(
    lr: Tensor, dates: Tensor | None = None, alphas: Tensor | None = None, base: Tensor | None = None, *, scale: int = 4
) -> Series:
    """A series of one view (B, C, h, w) or several (B, T, C, h, w); what isn't given: day 0, all acquired, base 0."""
    lr = lr.unsqueeze(1) if lr.dim() == 4 else lr
    batch, time, channels, height, width = lr.shape
    return Series(
        lr=lr,
        dates=lr.new_zeros(batch, time) if dates is None else dates.to(lr.dtype),
        mask=torch.ones(batch, time, dtype=torch.bool) if alphas is None else alphas > 0,
        base=lr.new_zeros(batch, channels, scale * height, scale * width) if base is None else base,
    )


def random_series(
    *, batch: int = 2, views: int = 4, height: int = 6, width: int = 8, scale: int = 4, seed: int = 0
) -> Series:
    generator = torch.Generator().manual_seed(seed)
    lr = torch.rand(batch, views, 3, height, width, generator=generator) * 2 - 1
    dates = torch.randint(-90, 90, (batch, views), generator=generator).float()
    base = torch.rand(batch, 3, scale * height, scale * width, generator=generator) * 2 - 1
    return make_series(lr, dates, base=base, scale=scale)


def double(series: Series) -> Series:
    return Series(series.lr.double(), series.dates.double(), series.mask, series.base.double())


def acquired(series: Series, count: int) -> Series:
    """The same series with only its first views acquired."""
    mask = torch.zeros_like(series.mask)
    mask[:, :count] = True
    return series._replace(mask=mask)


# Small networks of our own, by name: (scale, base_residual) -> backbone.
BACKBONES: dict[str, Callable[..., Backbone]] = {
    "rrdb": lambda **kw: RRDBNet(width=8, blocks=3, **kw),
    "highresnet": lambda **kw: HighResNet(width=8, **kw),
    "highres_ltae": lambda **kw: HighResLTAE(width=16, heads=4, d_model=16, **kw),
    "rrdb_ltae": lambda **kw: RRDBLTAE(width=8, blocks=1, growth=4, heads=4, d_model=16, **kw),
    "rrdb_highresnet": lambda **kw: RRDBHighResNet(width=8, blocks=1, growth=4, **kw),
}


def channels_last(module: Any) -> Any:
    return module.to(memory_format=torch.channels_last)


def small_backbone(name: str, *, scale: int = 4, **options: Any) -> Backbone:
    torch.manual_seed(0)
    return Bicubic(scale=scale) if name == "bicubic" else BACKBONES[name](scale=scale, **options)


def small_srdiff(name: str, *, scale: int = 4, timesteps: int = 10, **options: Any) -> SRDiff:
    backbone = small_backbone(name, scale=scale)
    denoise_fn = UNet(dim=8, dim_mults=(1, 2), cond_channels=backbone.feature_channels, scale=scale)
    return SRDiff(denoise_fn=denoise_fn, backbone=backbone, path=Schedule.cosine(timesteps), **options)


# Networks of the sizes that a state dict has.


def below(state: State, prefix: str) -> State:
    return {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}


def _count(state: State, prefix: str) -> int:
    return len({name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)})


def _trunk_sizes(state: State) -> dict[str, Any]:
    width, channels = state["conv_first.weight"].shape[:2]
    growth = state["RRDB_trunk.0.RDB1.conv1.weight"].shape[0]
    return {"channels": channels, "width": width, "growth": growth, "blocks": _count(state, "RRDB_trunk.")}


def _upconv_scale(state: State) -> int:
    return 2 ** len([name for name in state if name.startswith("upconv") and name.endswith(".weight")])


def _deconv_scale(state: State) -> int:
    return 2 ** len([name for name in state if name.startswith("deconv") and name.endswith("0.weight")])


def _encoder_sizes(state: State) -> dict[str, Any]:
    width, both = state["init_layer.0.weight"].shape[:2]
    return {"channels": both // 2, "width": width, "layers": _count(state, "res_layers.")}


def ltae_options(state: State) -> LTAEOptions:
    heads, d_k = state["attention_heads.Q"].shape
    d_model = state["inconv.weight"].shape[0]
    linear = [value for name, value in state.items() if name.startswith("mlp.") and value.dim() == 2]
    return {"heads": heads, "d_k": d_k, "d_model": d_model, "mlp": [d_model, *(weight.shape[0] for weight in linear)]}


def load(network: Any, state: State) -> Any:
    """Names and their order must be equal; the network comes back in evaluation mode."""
    assert list(network.state_dict()) == list(state)
    network.load_state_dict(state)
    return network.eval()


def rrdb_from(state: State, **options: Any) -> RRDBNet:
    return load(RRDBNet(**_trunk_sizes(state), scale=_upconv_scale(state), **options), state)


def highresnet_from(state: State, network: dict[str, Any]) -> HighResNet:
    sizes = _encoder_sizes(below(state, "encode."))
    scale = _deconv_scale(below(state, "decode."))
    return load(HighResNet(**sizes, scale=scale, alpha_residual=network["recursive"]["alpha_residual"]), state)


def highres_ltae_from(state: State, reference: Any) -> HighResLTAE:
    sizes = _encoder_sizes(below(state, "encoder."))
    options = ltae_options(below(state, "temporal_encoder."))
    scale = _deconv_scale(below(state, "decoder."))
    return load(HighResLTAE(**sizes, scale=scale, reference=reference, **options), state)


def rrdb_ltae_from(state: State) -> RRDBLTAE:
    sizes = _trunk_sizes(below(state, "encoder."))
    options = ltae_options(below(state, "temporal_encoder."))
    return load(RRDBLTAE(**sizes, scale=_upconv_scale(below(state, "decoder.")), **options), state)


def rrdb_highresnet_from(state: State) -> RRDBHighResNet:
    sizes = _trunk_sizes(below(state, "encoder."))
    return load(RRDBHighResNet(**sizes, scale=_upconv_scale(below(state, "decoder."))), state)


def unet_from(state: State, config: dict[str, Any], hparams: dict[str, Any]) -> UNet:
    cond_channels, dim = state["cond_proj.weight"].shape[:2]
    switches = {key: hparams[key] for key in ("use_attn", "up_input", "use_wn")}
    scale = hparams["sr_scale"]
    return load(
        UNet(dim=dim, dim_mults=config["dim_mults"], cond_channels=cond_channels, scale=scale, **switches), state
    )


def schedule_from(hparams: dict[str, Any]) -> Schedule:
    if hparams["beta_schedule"] == "cosine":
        return Schedule.cosine(hparams["timesteps"], s=hparams["beta_s"])
    last_beta = 0.999 if hparams["res"] else None
    return Schedule.linear(hparams["timesteps"], beta_end=hparams["beta_end"], last_beta=last_beta)


def srdiff_from(golden: Golden, entry: dict[str, Any]) -> SRDiff:
    """The diffusion model of a 07_diffusion file; weights that it leaves out come from the file that shares them."""
    config, hparams = entry["config"], entry["config"]["hparams"]
    state: State = dict(entry["state_dict"] or golden.load("07_diffusion_rrdb.pt")["state_dict"])
    backbone: Backbone
    if hparams["use_ltae"]:
        state |= {f"rrdb.{name}": value for name, value in golden.load("03_hrltae.pt")["state_dict"].items()}
        backbone = highres_ltae_from(below(state, "rrdb."), hparams["misr_ref_image"])
    elif hparams["use_highresnet"]:
        state |= {f"rrdb.{name}": value for name, value in golden.load("02_hrnet.pt")["state_dict"].items()}
        backbone = highresnet_from(below(state, "rrdb."), config["config_json"]["network"])
    elif hparams["use_rrdb"]:
        backbone = rrdb_from(below(state, "rrdb."), output_clamp="hard")
    else:
        backbone = Bicubic(scale=hparams["sr_scale"])
    srdiff = SRDiff(
        denoise_fn=unet_from(below(state, "denoise_fn."), config, hparams),
        backbone=backbone,
        path=schedule_from(hparams),
        residual=hparams["res"],
        residual_rescale=hparams["res_rescale"],
        clip_input=hparams["clip_input"],
        fix_backbone=hparams["fix_rrdb"],
    )
    return load(srdiff, state)
