"""What this project computes for each golden case, and how close that is to the reference implementation."""

import json
import re
import zlib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

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

Outputs = dict[str, Tensor]
Inputs = dict[str, Tensor]
Facts = dict[str, Any]
FOLDER = Path(__file__).parent
CASES: dict[str, dict[str, Any]] = json.loads((FOLDER / "index.json").read_text())["cases"]


@cache
def arrays() -> Any:
    return np.load(FOLDER / "golden_small.npz")


def check(case: str, dtype: torch.dtype, *, change: Callable[[Inputs], Inputs] = lambda inputs: inputs) -> None:
    """Fails unless all outputs of a case in this precision are close; ``change`` makes the inputs wrong on purpose."""
    entry = CASES[case]
    expected = outputs_of(case, dtype)
    inputs = {name: make_input(f"{case}.{name}", how) for name, how in entry.get("inputs", {}).items()}
    inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    found = NETWORKS[entry["network"]](case, entry, change(inputs), dtype)
    suffix = "64" if dtype == torch.float64 else ""
    for name in expected:
        spec, ours = entry["outputs"][name], found[name.removesuffix("64") if suffix else name]
        assert list(ours.shape) == spec["shape"], f"{case}, {name}: {tuple(ours.shape)}"
        theirs = arrays()[f"{case}/{name}"]
        np.testing.assert_allclose(
            ours.detach().flatten()[:: spec["stride"]].numpy(),
            theirs.reshape(-1),
            rtol=spec["rtol"],
            atol=spec["atol"],
            err_msg=f"{case}, {name}",
        )


def outputs_of(case: str, dtype: torch.dtype) -> list[str]:
    return [name for name in CASES[case]["outputs"] if name.endswith("64") == (dtype == torch.float64)]


def make_input(name: str, how: dict[str, Any]) -> Tensor:
    kind, what = next(iter(how.items()))
    return torch.tensor(what) if kind == "value" else torch.from_numpy(getattr(recipe, kind)(name, what))


def ready(network: Any, entry: dict[str, Any], dtype: torch.dtype) -> Any:
    """The network with the recipe's weights, after its names were compared with the reference's."""
    state = network.state_dict()
    lines = {
        "names_crc32": [f"{name} {list(value.shape)}" for name, value in state.items()],
        "parameters_crc32": [name for name, _ in network.named_parameters()],
    }
    for key, names in lines.items():
        assert zlib.crc32("\n".join(names).encode()) == entry["state"][key], f"other names than the reference's: {key}"
    recipe.fill(network)
    return network.eval().to(dtype)


# Networks


def series_of(inputs: Inputs, scale: int, suffix: str = "") -> Series:
    return make_series(
        inputs[f"lr{suffix}"], inputs.get("dates"), inputs.get("alphas"), inputs.get("base"), scale=scale
    )


def make_backbone(network: str, facts: Facts) -> Backbone:
    facts = dict(facts)
    if "clamp" in facts:
        facts["output_clamp"] = facts.pop("clamp")
    kinds: dict[str, Callable[..., Backbone]] = {
        "rrdb": RRDBNet,
        "highresnet": HighResNet,
        "highresnet_ltae": HighResLTAE,
        "rrdb_ltae": RRDBLTAE,
        "rrdb_highresnet": RRDBHighResNet,
    }
    return kinds[network](**facts)


def backbone(case: str, entry: dict[str, Any], inputs: Inputs, dtype: torch.dtype) -> Outputs:
    network = ready(make_backbone(entry["network"], entry["facts"]), entry, dtype)
    if case.endswith("_training"):
        return train(network, entry, inputs)
    with torch.no_grad():
        series = series_of(inputs, entry["facts"]["scale"])
        outputs = network(series)._asdict()
        if "maps64" in entry["outputs"]:
            outputs["maps"] = torch.stack(network.encode(series.nearest()), dim=1)
    return outputs


def gradient_norms(module: nn.Module) -> Tensor:
    return torch.stack([p.grad.norm() for p in module.parameters() if p.grad is not None])


def train(network: Backbone, entry: dict[str, Any], inputs: Inputs) -> Outputs:
    """A step of Adam on the L1 loss for each batch."""
    for module in network.train().modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    before = nn.utils.parameters_to_vector(network.parameters()).detach()
    optimizer = torch.optim.Adam(network.parameters(), lr=entry["learning_rate"])
    terms, norms = [], []
    for suffix in sorted(name.removeprefix("hr") for name in inputs if name.startswith("hr")):
        optimizer.zero_grad()
        sr = network(series_of(inputs, entry["facts"]["scale"], suffix)).sr
        loss = losses.l1(sr, inputs[f"hr{suffix}"])
        loss.backward()
        terms.append(loss)
        norms.append(gradient_norms(network))
        optimizer.step()
    change = nn.utils.parameters_to_vector(network.parameters()) - before
    running = [value for name, value in network.named_buffers() if "running" in name]
    outputs = {"losses": torch.stack(terms), "gradient_norms": norms[0], "change": change}
    return outputs | ({"running": torch.cat(running)} if running else {})


def ltae(case: str, entry: dict[str, Any], inputs: Inputs, dtype: torch.dtype) -> Outputs:
    facts = dict(entry["facts"])
    network = ready(LTAE2d(positional_encoding=facts.pop("position"), **facts), entry, dtype)
    x, dates = inputs["x"], inputs["dates"].to(dtype)
    with torch.no_grad():
        out, attention = network(x, dates)
        out_masked, attention_masked = network(x, dates, inputs["padding"])
    return {
        **{"out": out, "attention": attention},
        **{"out_masked": out_masked, "attention_masked": attention_masked},
    }


def position(case: str, entry: dict[str, Any], inputs: Inputs, dtype: torch.dtype) -> Outputs:
    return {"encoding": LTAE2d(**entry["facts"]).position(inputs["dates"])[0, :, :8]}


def make_unet(facts: Facts) -> UNet:
    facts = dict(facts)
    switches = {"use_attn": "attention", "up_input": "base_enters", "use_wn": "weight_norm"}
    return UNet(**{ours: facts.pop(theirs) for ours, theirs in switches.items() if theirs in facts}, **facts)


def unet(case: str, entry: dict[str, Any], inputs: Inputs, dtype: torch.dtype) -> Outputs:
    network = ready(make_unet(entry["facts"]), entry, dtype)
    with torch.no_grad():
        condition = network.condition(inputs["features"], inputs["base"])
        return {"noise": network(inputs["x"], inputs["t"], condition)}


def make_srdiff(facts: Facts, *, dtype: torch.dtype, entry: dict[str, Any]) -> SRDiff:
    conditioner: Backbone = Bicubic(scale=facts["unet"]["scale"])
    if facts["conditioner"] is not None:
        sizes = {**facts["conditioner"], **({"clamp": "hard"} if facts["conditioner_trains"] else {})}
        conditioner = make_backbone(sizes.pop("network"), sizes)
    schedule = dict(facts["schedule"])
    if schedule.pop("kind") == "cosine":
        path = Schedule.cosine(**schedule)
    else:
        path = Schedule.linear(**schedule, last_beta=0.999 if facts["residual"] else None)
    srdiff = SRDiff(
        denoise_fn=make_unet(facts["unet"]),
        backbone=conditioner,
        path=path,
        residual=facts["residual"],
        residual_rescale=facts["residual_rescale"],
        clip_input=facts["clip_residual"],
        fix_backbone=not facts["conditioner_trains"],
    )
    return ready(srdiff, entry, dtype)


def srdiff(case: str, entry: dict[str, Any], inputs: Inputs, dtype: torch.dtype) -> Outputs:
    facts = entry["facts"]
    model = make_srdiff(facts, dtype=dtype, entry=entry)
    series = series_of(inputs, facts["unet"]["scale"])
    if "hr" not in inputs:
        return sampled(model, series, entry, inputs)
    trains = facts["conditioner_trains"]
    compute = partial(
        model.training_losses,
        series,
        inputs["hr"],
        t=inputs["t"],
        noise=inputs["noise"],
        aux_l1=trains,
        aux_ssim=trains,
    )
    terms = compute()
    sum(terms.values(), torch.zeros((), dtype=dtype)).backward()
    if trains:
        return {"losses": torch.stack(list(terms.values())), "gradient_norms": gradient_norms(model)}
    with torch.no_grad():
        condition = model.denoise_fn.condition(model.rrdb(series).features, series.base)
        x_t = model.path.q_sample(model.residual(inputs["hr"], series.base), inputs["t"], inputs["noise"])
        return {
            "losses": torch.stack([compute(loss_type=name)["q"] for name in entry["losses_in_order"]]),
            "noise": model.denoise_fn(x_t, inputs["t"], condition),
            "gradient_norms": gradient_norms(model.denoise_fn),
        }


def sampled(model: SRDiff, series: Series, entry: dict[str, Any], inputs: Inputs) -> Outputs:
    times = model.path.times(model.path.timesteps)
    shown: dict[float, Tensor] = {}
    image, _ = model.sample(
        series,
        sampler=partial(ddpm, times=times),
        noise=lambda t, shape: inputs[f"noise.{t}"].view(shape),
        callback=lambda step, t, x, x0: shown.update({t: x0}),
    )
    kept = re.search(r"at times (\d+), (\d+) and (\d+)", entry["note"])
    assert kept is not None
    return {"image": image, "denoised": torch.stack([shown[int(t)] for t in kept.groups()])}


def schedule(case: str, entry: dict[str, Any], inputs: Inputs, dtype: torch.dtype) -> Outputs:
    facts = entry["facts"]
    if case == "q_sample":
        return {"x_t": Schedule.cosine(**facts).q_sample(inputs["x"], inputs["t"], inputs["noise"])}
    made = {
        name: (Schedule.cosine if name == "cosine" else Schedule.linear)(**sizes).tables
        for name, sizes in facts.items()
    }
    return {name: torch.stack([tables[key] for key in entry["names_in_order"]]) for name, tables in made.items()}


def embedded_time(case: str, entry: dict[str, Any], inputs: Inputs, dtype: torch.dtype) -> Outputs:
    return {"embedding": time_embedding(inputs["t"].float(), entry["facts"]["dim"])}


def mish(case: str, entry: dict[str, Any], inputs: Inputs, dtype: torch.dtype) -> Outputs:
    return {"y": torch.nn.Mish()(inputs["x"])}


# Images


def image_losses(case: str, entry: dict[str, Any], inputs: Inputs, dtype: torch.dtype) -> Outputs:
    image, noise = inputs["truth"].float(), inputs["noise"].float()
    truth, prediction = image[..., 2:22, 2:22].to(dtype), (image[..., 4:24, 1:21] + 0.1 * noise).to(dtype)
    return {"l1_shift": losses.l1_shift(prediction, truth), "ssim": losses.ssim(prediction, truth)}


def repeated(levels: Tensor, times: int) -> Tensor:
    return levels.repeat_interleave(times, -1).repeat_interleave(times, -2).float()


def as_levels(x: Tensor) -> Tensor:
    return x.round().clamp(0, 255).byte()


def metrics(case: str, entry: dict[str, Any], inputs: Inputs, dtype: torch.dtype) -> Outputs:
    levels = repeated(inputs["levels"], 5)
    truth = levels[:, 3:27, 3:27].byte()
    result = as_levels(levels[:, 5:29, 2:26] + (3 * inputs["noise"]).round())
    first, second = inputs["float"]
    pairs = {
        "integers": (result, truth),
        "floats": (to_uint8(1.3 * first), to_uint8(second)),
        "identical": (truth, truth),
    }
    measured = {name: measure(sr[None], hr[None]) for name, (sr, hr) in pairs.items()}
    order = entry["facts"]["order"]
    return {name: torch.cat([values[metric] for metric in order]).double() for name, values in measured.items()}


def lpips(case: str, entry: dict[str, Any], inputs: Inputs, dtype: torch.dtype) -> Outputs:
    metric = LPIPS()
    filled = recipe.fill(metric.state_dict())
    metric.load_state_dict({name: value.abs() if name.startswith("lin") else value for name, value in filled.items()})
    truth = repeated(inputs["levels"], 4)
    return {"distance": metric(as_levels(truth + (20 * inputs["noise"]).round()), truth.byte())}


@cache
def vgg_state() -> dict[str, Tensor]:
    """VGG-19's convolutions under torchvision's names."""
    channels, state = 3, {}
    indices = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
    for index, width in zip(indices, (64, 64, 128, 128, *[256] * 4, *[512] * 8), strict=True):
        for part, shape in (("weight", (width, channels, 3, 3)), ("bias", (width,))):
            name = f"features.{index}.{part}"
            state[name] = torch.from_numpy(recipe.tensor(name, shape))
        channels = width
    return state


def perceptual(case: str, entry: dict[str, Any], inputs: Inputs, dtype: torch.dtype) -> Outputs:
    loss = losses.PerceptualLoss(vgg_state()).to(dtype)
    return {"loss": loss(inputs["prediction"], inputs["truth"])}


def radiometry(case: str, entry: dict[str, Any], inputs: Inputs, dtype: torch.dtype) -> Outputs:
    facts = entry["facts"]
    maxima, scale = facts["maxima"], facts["scale"]
    patch = inputs["levels"] // 8 * 8
    stored, series = ((1100 + 600 * inputs[name]).round().clamp(min=0).short() for name in ("reflectance", "series"))
    lr = normalise_lr(reflectance(stored), maxima)
    enlarged = bicubic(reflectance(series[0]), scale=scale)
    matched = {
        method: apply_table(patch, matching_table(count_levels(patch), lr, method=method))
        for method in ("histogram", "moment")
    }
    return {
        "hr": normalise_hr(patch),
        "lr": lr,
        **matched,
        "series_lr": normalise_lr(reflectance(series), maxima),
        "bicubic": enlarged,
        "base": normalise_lr(enlarged, maxima),
    }


NETWORKS: dict[str, Callable[[str, dict[str, Any], Inputs, torch.dtype], Outputs]] = {
    **dict.fromkeys(["rrdb", "highresnet", "highresnet_ltae", "rrdb_ltae", "rrdb_highresnet"], backbone),
    "ltae": ltae,
    "ltae_position": position,
    "unet": unet,
    "srdiff": srdiff,
    "schedule": schedule,
    "time_embedding": embedded_time,
    "mish": mish,
    "losses": image_losses,
    "metrics": metrics,
    "lpips": lpips,
    "perceptual": perceptual,
    "radiometry": radiometry,
}
