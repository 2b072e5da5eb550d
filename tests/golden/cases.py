"""What this project computes for each golden case, and how close that is to the reference implementation."""

import json
import re
import zlib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from models import losses
from models.bicubic import Bicubic
from models.diffusion import SRDiff
from models.highresnet import HighResNet
from models.ltae import LTAE2d
from models.misr import RRDBLTAE, HighResLTAE, RRDBHighResNet
from models.rrdb import RRDBNet
from models.samplers import ddpm
from models.schedule import Schedule
from models.series import Backbone, Series
from models.unet import UNet, time_embedding
from tests.golden import recipe
from tests.models.nets import make_series
from utils.metrics.lpips import LPIPS
from utils.metrics.pixel import measure, to_uint8
from utils.radiometry import apply_table, bicubic, count_levels, matching_table, normalise_hr, normalise_lr, reflectance

Tensors = dict[str, Tensor]
Facts = dict[str, Any]
FOLDER = Path(__file__).parent
CASES: dict[str, dict[str, Any]] = json.loads((FOLDER / "index.json").read_text())["cases"]


@cache
def arrays() -> Any:
    return np.load(FOLDER / "golden_small.npz")


class Case(NamedTuple):
    """A case in one precision."""

    name: str
    dtype: torch.dtype
    inputs: Tensors

    @property
    def entry(self) -> dict[str, Any]:
        return CASES[self.name]

    @property
    def facts(self) -> Facts:
        return self.entry["facts"]

    def series(self, scale: int, suffix: str = "") -> Series:
        dates, alphas, base = (self.inputs.get(name) for name in ("dates", "alphas", "base"))
        return make_series(self.inputs[f"lr{suffix}"], dates, alphas, base, scale=scale)

    def ready(self, network: Any) -> Any:
        """The network with the recipe's weights, after its names were compared with the reference's."""
        state = network.state_dict()
        lines = {
            "names_crc32": [f"{name} {list(value.shape)}" for name, value in state.items()],
            "parameters_crc32": [name for name, _ in network.named_parameters()],
        }
        for key, names in lines.items():
            assert zlib.crc32("\n".join(names).encode()) == self.entry["state"][key], f"not the reference's: {key}"
        recipe.fill(network)
        return network.eval().to(self.dtype)


def check(name: str, dtype: torch.dtype, *, change: Callable[[Tensors], Tensors] = lambda inputs: inputs) -> None:
    """Fails unless all outputs of a case in this precision are close; ``change`` makes the inputs wrong on purpose."""
    entry = CASES[name]
    inputs = {
        key: make_input(f"{name}.{key}", *next(iter(how.items()))) for key, how in entry.get("inputs", {}).items()
    }
    inputs = {key: value.to(dtype) if value.is_floating_point() else value for key, value in inputs.items()}
    found = NETWORKS[entry["network"]](Case(name, dtype, change(inputs)))
    for output in outputs_of(name, dtype):
        spec, ours = entry["outputs"][output], found[output.removesuffix("64")]
        assert list(ours.shape) == spec["shape"], f"{name}, {output}: {tuple(ours.shape)}"
        np.testing.assert_allclose(
            ours.detach().flatten()[:: spec["stride"]].numpy(),
            arrays()[f"{name}/{output}"].reshape(-1),
            rtol=spec["rtol"],
            atol=spec["atol"],
            err_msg=f"{name}, {output}",
        )


def outputs_of(name: str, dtype: torch.dtype) -> list[str]:
    return [output for output in CASES[name]["outputs"] if output.endswith("64") == (dtype == torch.float64)]


def make_input(name: str, kind: str, what: Any) -> Tensor:
    return torch.tensor(what) if kind == "value" else torch.from_numpy(getattr(recipe, kind)(name, what))


# Networks


BACKBONES: dict[str, Callable[..., Backbone]] = {
    "rrdb": RRDBNet,
    "highresnet": HighResNet,
    "highresnet_ltae": HighResLTAE,
    "rrdb_ltae": RRDBLTAE,
    "rrdb_highresnet": RRDBHighResNet,
}


def renamed(facts: Facts) -> Facts:
    """The constructors' keywords, where facts have other names."""
    ours = {
        "clamp": "output_clamp",
        "attention": "use_attn",
        "base_enters": "up_input",
        "weight_norm": "use_wn",
        "position": "positional_encoding",
    }
    return {ours.get(name, name): value for name, value in facts.items()}


def backbone(case: Case) -> Tensors:
    network, scale = case.ready(BACKBONES[case.entry["network"]](**renamed(case.facts))), case.facts["scale"]
    if case.name.endswith("_training"):
        return train(network, case, scale)
    with torch.no_grad():
        series = case.series(scale)
        maps = torch.stack(network.encode(series.nearest()), dim=1) if "maps64" in case.entry["outputs"] else None
        return {**network(series)._asdict(), "maps": maps}


def gradient_norms(module: nn.Module) -> Tensor:
    return torch.stack([p.grad.norm() for p in module.parameters() if p.grad is not None])


def train(network: Backbone, case: Case, scale: int) -> Tensors:
    """A step of Adam on the L1 loss for each batch."""
    for module in network.train().modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    before = nn.utils.parameters_to_vector(network.parameters()).detach()
    optimizer = torch.optim.Adam(network.parameters(), lr=case.entry["learning_rate"])
    terms, norms = [], []
    for suffix in sorted(name.removeprefix("hr") for name in case.inputs if name.startswith("hr")):
        optimizer.zero_grad()
        terms.append(losses.l1(network(case.series(scale, suffix)).sr, case.inputs[f"hr{suffix}"]))
        terms[-1].backward()
        norms.append(gradient_norms(network))
        optimizer.step()
    change = nn.utils.parameters_to_vector(network.parameters()) - before
    running = [value for name, value in network.named_buffers() if "running" in name]
    outputs = {"losses": torch.stack(terms), "gradient_norms": norms[0], "change": change}
    return outputs | ({"running": torch.cat(running)} if running else {})


def ltae(case: Case) -> Tensors:
    network = case.ready(LTAE2d(**renamed(case.facts)))
    x, dates = case.inputs["x"], case.inputs["dates"].to(case.dtype)
    with torch.no_grad():
        names = ("out", "attention", "out_masked", "attention_masked")
        return dict(zip(names, (*network(x, dates), *network(x, dates, case.inputs["padding"])), strict=True))


def unet(case: Case) -> Tensors:
    network = case.ready(UNet(**renamed(case.facts)))
    with torch.no_grad():
        condition = network.condition(case.inputs["features"], case.inputs["base"])
        return {"noise": network(case.inputs["x"], case.inputs["t"], condition)}


def make_srdiff(facts: Facts) -> SRDiff:
    conditioner: Backbone = Bicubic(scale=facts["unet"]["scale"])
    if facts["conditioner"] is not None:
        sizes = {**facts["conditioner"], **({"output_clamp": "hard"} if facts["conditioner_trains"] else {})}
        conditioner = BACKBONES[sizes.pop("network")](**sizes)
    schedule = dict(facts["schedule"])
    if schedule.pop("kind") == "cosine":
        path = Schedule.cosine(**schedule)
    else:
        path = Schedule.linear(**schedule, last_beta=0.999 if facts["residual"] else None)
    return SRDiff(
        denoise_fn=UNet(**renamed(facts["unet"])),
        backbone=conditioner,
        path=path,
        residual=facts["residual"],
        residual_rescale=facts["residual_rescale"],
        clip_input=facts["clip_residual"],
        fix_backbone=not facts["conditioner_trains"],
    )


def srdiff(case: Case) -> Tensors:
    model, inputs, trains = case.ready(make_srdiff(case.facts)), case.inputs, case.facts["conditioner_trains"]
    series = case.series(case.facts["unet"]["scale"])
    if "hr" not in inputs:
        return sampled(model, series, case)
    t, noise = inputs["t"], inputs["noise"]
    compute = partial(model.training_losses, series, inputs["hr"], t=t, noise=noise, aux_l1=trains, aux_ssim=trains)
    terms = compute()
    sum(terms.values(), torch.zeros((), dtype=case.dtype)).backward()
    if trains:
        return {"losses": torch.stack(list(terms.values())), "gradient_norms": gradient_norms(model)}
    with torch.no_grad():
        condition = model.denoise_fn.condition(model.rrdb(series).features, series.base)
        x_t = model.path.q_sample(model.residual(inputs["hr"], series.base), t, noise)
        return {
            "losses": torch.stack([compute(loss_type=name)["q"] for name in case.entry["losses_in_order"]]),
            "noise": model.denoise_fn(x_t, t, condition),
            "gradient_norms": gradient_norms(model.denoise_fn),
        }


def sampled(model: SRDiff, series: Series, case: Case) -> Tensors:
    shown: dict[float, Tensor] = {}
    image, _ = model.sample(
        series,
        sampler=partial(ddpm, times=model.path.times(model.path.timesteps)),
        noise=lambda t, shape: case.inputs[f"noise.{t}"].view(shape),
        callback=lambda step, t, x, x0: shown.update({t: x0}),
    )
    kept = re.search(r"at times (\d+), (\d+) and (\d+)", case.entry["note"])
    assert kept is not None
    return {"image": image, "denoised": torch.stack([shown[int(t)] for t in kept.groups()])}


def schedule(case: Case) -> Tensors:
    if case.name == "q_sample":
        return {"x_t": Schedule.cosine(**case.facts).q_sample(*(case.inputs[name] for name in ("x", "t", "noise")))}
    kinds = {name: Schedule.cosine if name == "cosine" else Schedule.linear for name in case.facts}
    tables = {name: kinds[name](**sizes).tables for name, sizes in case.facts.items()}
    return {name: torch.stack([of[key] for key in case.entry["names_in_order"]]) for name, of in tables.items()}


# Images


def image_losses(case: Case) -> Tensors:
    image, noise = case.inputs["truth"].float(), case.inputs["noise"].float()
    truth, prediction = image[..., 2:22, 2:22].to(case.dtype), (image[..., 4:24, 1:21] + 0.1 * noise).to(case.dtype)
    return {"l1_shift": losses.l1_shift(prediction, truth), "ssim": losses.ssim(prediction, truth)}


def repeated(levels: Tensor, times: int) -> Tensor:
    return levels.repeat_interleave(times, -1).repeat_interleave(times, -2).float()


def as_levels(x: Tensor) -> Tensor:
    return x.round().clamp(0, 255).byte()


def metrics(case: Case) -> Tensors:
    levels = repeated(case.inputs["levels"], 5)
    truth = levels[:, 3:27, 3:27].byte()
    first, second = case.inputs["float"]
    pairs = {
        "integers": (as_levels(levels[:, 5:29, 2:26] + (3 * case.inputs["noise"]).round()), truth),
        "floats": (to_uint8(1.3 * first), to_uint8(second)),
        "identical": (truth, truth),
    }
    measured = {name: measure(sr[None], hr[None]) for name, (sr, hr) in pairs.items()}
    order = case.facts["order"]
    return {name: torch.cat([values[metric] for metric in order]).double() for name, values in measured.items()}


def lpips(case: Case) -> Tensors:
    metric = LPIPS()
    filled = recipe.fill(metric.state_dict())
    metric.load_state_dict({name: value.abs() if name.startswith("lin") else value for name, value in filled.items()})
    truth = repeated(case.inputs["levels"], 4)
    return {"distance": metric(as_levels(truth + (20 * case.inputs["noise"]).round()), truth.byte())}


@cache
def vgg_state() -> Tensors:
    """VGG-19's convolutions under torchvision's names."""
    channels, state = 3, {}
    indices = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
    for index, width in zip(indices, (64, 64, 128, 128, *[256] * 4, *[512] * 8), strict=True):
        for part, shape in (("weight", (width, channels, 3, 3)), ("bias", (width,))):
            name = f"features.{index}.{part}"
            state[name] = torch.from_numpy(recipe.tensor(name, shape))
        channels = width
    return state


def perceptual(case: Case) -> Tensors:
    loss = losses.PerceptualLoss(vgg_state()).to(case.dtype)
    return {"loss": loss(case.inputs["prediction"], case.inputs["truth"])}


def radiometry(case: Case) -> Tensors:
    maxima, scale = case.facts["maxima"], case.facts["scale"]
    patch = case.inputs["levels"] // 8 * 8
    lr, series = (
        reflectance((1100 + 600 * case.inputs[name]).round().clamp(min=0).short()) for name in ("reflectance", "series")
    )
    near, enlarged = normalise_lr(lr, maxima), bicubic(series[0], scale=scale)
    return {
        "hr": normalise_hr(patch),
        "lr": near,
        "histogram": apply_table(patch, matching_table(count_levels(patch), near, method="histogram")),
        "moment": apply_table(patch, matching_table(count_levels(patch), near, method="moment")),
        "series_lr": normalise_lr(series, maxima),
        "bicubic": enlarged,
        "base": normalise_lr(enlarged, maxima),
    }


NETWORKS: dict[str, Callable[[Case], Tensors]] = {
    **dict.fromkeys(BACKBONES, backbone),
    "ltae": ltae,
    "ltae_position": lambda case: {"encoding": LTAE2d(**case.facts).position(case.inputs["dates"])[0, :, :8]},
    "unet": unet,
    "srdiff": srdiff,
    "schedule": schedule,
    "time_embedding": lambda case: {"embedding": time_embedding(case.inputs["t"].float(), case.facts["dim"])},
    "mish": lambda case: {"y": nn.Mish()(case.inputs["x"])},
    "losses": image_losses,
    "metrics": metrics,
    "lpips": lpips,
    "perceptual": perceptual,
    "radiometry": radiometry,
}
