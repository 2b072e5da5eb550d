from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from models import losses
from models.diffusion import SRDiff
from models.samplers import Noise, PredictClean, States, ddim, ddpm, dpmpp_2m
from models.schedule import Path, Schedule, StraightFlow
from models.series import Prediction, Series
from models.unet import UNet
from tests.golden.cases import vgg_state
from tests.models.nets import BACKBONES, random_series, small_backbone, small_srdiff


def seeded_noise(seed: int = 0) -> Noise:
    """A function of time and shape alone."""
    return lambda t, shape: torch.randn(shape, generator=torch.Generator().manual_seed(seed * 1000 + t))


def training_terms(srdiff: SRDiff, series: Series, **options: Any) -> dict[str, Tensor]:
    hr = seeded_noise(7)(0, series.base.shape).clamp(-1, 1)
    t = torch.arange(len(hr)) % srdiff.path.timesteps
    return srdiff.training_losses(series, hr, t=t, noise=seeded_noise(8)(0, hr.shape), **options)


every_backbone = pytest.mark.parametrize("name", [*BACKBONES, "bicubic"])


@every_backbone
@pytest.mark.parametrize("scale", [4, 8])
def test_any_backbone_conditions(name: str, scale: int) -> None:
    series = random_series(views=3, height=4, width=6, scale=scale)
    srdiff = small_srdiff(name, scale=scale).eval()
    sampler = partial(dpmpp_2m, times=[9, 4, 1, 0])
    image, backbone = srdiff.sample(series, sampler=sampler, noise=seeded_noise())
    assert image.shape == series.base.shape
    assert (image - series.base).abs().max() <= 0.5
    assert backbone.features.shape[1] == srdiff.rrdb.feature_channels
    other = series._replace(lr=-series.lr)  # the features reach the result
    assert not torch.allclose(srdiff.sample(other, sampler=sampler, noise=seeded_noise())[0], image)


@every_backbone
def test_state_dict_is_tables_network_backbone(name: str) -> None:
    keys = list(small_srdiff(name).state_dict())
    assert keys[:12] == list(Schedule.cosine(10).tables)
    parts = [key.split(".")[0] for key in keys[12:]]
    assert parts == sorted(parts)  # all of denoise_fn, then all of rrdb
    assert set(parts) == {"denoise_fn", "rrdb"} - ({"rrdb"} if name == "bicubic" else set())


@pytest.mark.parametrize("name", list(BACKBONES))
def test_a_fixed_backbone_stays_as_it_is(name: str) -> None:
    srdiff = small_srdiff(name, fix_backbone=True).train()
    assert srdiff.denoise_fn.training
    assert not any(module.training for module in srdiff.rrdb.modules())
    before = {key: value.clone() for key, value in srdiff.rrdb.state_dict().items()}
    terms = training_terms(srdiff, random_series(), aux_l1=True, aux_ssim=True)
    assert set(terms) == {"q"}
    terms["q"].backward()
    assert all(parameter.grad is None for parameter in srdiff.rrdb.parameters())
    assert all(parameter.grad is not None for parameter in srdiff.denoise_fn.parameters())
    assert all(torch.equal(value, before[key]) for key, value in srdiff.rrdb.state_dict().items())


@pytest.mark.parametrize("name", list(BACKBONES))
def test_a_backbone_that_trains_along_hears_of_the_noise_loss(name: str) -> None:
    srdiff = small_srdiff(name, fix_backbone=False).train()
    assert srdiff.rrdb.training
    training_terms(srdiff, random_series())["q"].backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in srdiff.rrdb.parameters())
    assert not srdiff.eval().rrdb.training


def test_auxiliary_losses_compare_the_backbone_with_the_truth() -> None:
    srdiff, series = small_srdiff("rrdb", fix_backbone=False), random_series(height=4, width=4)
    perceptual = losses.PerceptualLoss(vgg_state())
    terms = training_terms(srdiff, series, aux_l1=True, aux_ssim=True, perceptual=perceptual)
    hr, sr = seeded_noise(7)(0, series.base.shape).clamp(-1, 1), srdiff.rrdb(series).sr
    assert list(terms) == ["q", "aux_l1", "aux_ssim", "aux_percep"]
    torch.testing.assert_close(terms["aux_l1"], (sr - hr).abs().mean())
    torch.testing.assert_close(terms["aux_ssim"], 1 - losses.ssim(sr, hr))
    torch.testing.assert_close(terms["aux_percep"], perceptual(sr, hr))
    sum((terms[key] for key in terms if key != "q"), torch.zeros(())).backward()
    assert srdiff.rrdb.conv_first.weight.grad.any()  # type: ignore[union-attr, operator]
    assert all(parameter.grad is None for parameter in srdiff.denoise_fn.parameters())


def start_of(model: SRDiff, series: Series, **options: Any) -> tuple[Tensor, Tensor, Prediction]:
    """What a sampler starts from, the image that it is where nothing is done to it, and the backbone's prediction."""
    seen: list[Tensor] = []

    def sampler(predict_clean: PredictClean, x: Tensor, path: Path, noise: Noise) -> States:
        seen.append(x)
        yield 0, x, x

    image, backbone = model.sample(series, sampler=sampler, noise=seeded_noise(), **options)
    return seen[0], image, backbone


@pytest.mark.parametrize(("clip_input", "rescale"), [(True, 2.0), (True, 1.0), (False, 2.0)])
def test_the_residual_is_scaled_and_clamped(clip_input: bool, rescale: float) -> None:
    srdiff = small_srdiff("bicubic", clip_input=clip_input, residual_rescale=rescale)
    base, difference = torch.rand(1, 3, 8, 8), torch.linspace(-2, 2, 192).view(1, 3, 8, 8)
    residual = srdiff.residual(base + difference, base)
    torch.testing.assert_close(
        residual, rescale * difference if not clip_input else (rescale * difference).clamp(-1, 1)
    )
    back = srdiff.image(2 * residual, base) - base
    torch.testing.assert_close(back, (2 * residual if not clip_input else (2 * residual).clamp(-1, 1)) / rescale)


def test_sampling_starts_from_noise_alone_or_the_noisy_base_without_residual() -> None:
    series, noise = random_series(), seeded_noise()(10, torch.Size((2, 3, 24, 32)))
    x, image, _ = start_of(small_srdiff("rrdb").eval(), series)
    assert torch.equal(x, noise)
    torch.testing.assert_close(image, x.clamp(-1, 1) / 2 + series.base)
    whole = small_srdiff("rrdb", residual=False).eval()
    x, image, _ = start_of(whole, series)
    torch.testing.assert_close(x, whole.path.q_sample(series.base, torch.full((2,), 9), noise))
    assert torch.equal(image, x)
    assert torch.equal(whole.residual(image, series.base), image)


@pytest.mark.parametrize("process", ["diffusion", "flow"])
def test_sampling_may_start_from_the_backbone(process: str) -> None:
    model, series = small_flow() if process == "flow" else small_srdiff("rrdb", timesteps=100).eval(), random_series()
    x, _, backbone = start_of(model, series, start=30)
    alpha, sigma = model.path.alpha_sigma(30)
    residual = model.residual(backbone.sr.clamp(-1, 1), series.base)
    torch.testing.assert_close(x, alpha * residual + sigma * seeded_noise()(100, series.base.shape))


def test_samples_of_one_series_lie_side_by_side_and_share_one_condition() -> None:
    srdiff, series = small_srdiff("rrdb").eval(), random_series()
    calls: list[int] = []
    srdiff.rrdb.register_forward_hook(lambda *_: calls.append(1))
    srdiff.denoise_fn.cond_proj.register_forward_hook(lambda *_: calls.append(2))
    every_step = partial(ddpm, times=range(9, -1, -1))
    images, backbone = srdiff.sample(series, sampler=every_step, noise=seeded_noise(), samples=3)
    assert calls == [1, 2]  # once, not once a step
    assert backbone.sr.shape[0] == 2
    assert images.shape[0] == 6
    # Each is what it would be by itself with its part of the noise.
    doubled = Series(*(part.repeat_interleave(3, 0) for part in series))
    torch.testing.assert_close(srdiff.sample(doubled, sampler=every_step, noise=seeded_noise())[0], images)
    assert not torch.allclose(images[0], images[1])


def test_tables_follow_the_model() -> None:
    srdiff = small_srdiff("bicubic").double()
    assert srdiff.path.tables["betas"] is srdiff.betas
    assert srdiff.betas.dtype == torch.float64


def test_under_autocast_the_state_stays_float32_and_the_result_close() -> None:
    series, sampler = random_series(), partial(ddpm, times=range(9, -1, -1))
    srdiff = small_srdiff("rrdb").eval()
    dtypes: set[torch.dtype] = set()

    def look(step: int, t: float, x: Tensor, x0: Tensor) -> None:
        dtypes.update((x.dtype, x0.dtype))

    expected, _ = srdiff.sample(series, sampler=sampler, noise=seeded_noise())
    with torch.autocast("cpu", torch.bfloat16):
        image, _ = srdiff.sample(series, sampler=sampler, noise=seeded_noise(), callback=look)
        assert training_terms(srdiff, series)["q"].dtype == torch.float32
    assert dtypes == {torch.float32}
    assert (image - expected).abs().mean() < 0.02


# A straight flow in the place of the diffusion


def small_flow(**options: Any) -> SRDiff:
    backbone = small_backbone("rrdb")
    shortcut = options.pop("shortcut", False)
    denoise_fn = UNet(dim=8, dim_mults=(1, 2), cond_channels=backbone.feature_channels, step_input=shortcut)
    path = StraightFlow(100, source_std=options.pop("source_std", 1.0))
    return SRDiff(denoise_fn=denoise_fn, backbone=backbone, path=path, **options).eval()


def test_a_flow_learns_the_velocity() -> None:
    flow, series = small_flow(source_std=0.5), random_series()
    hr, noise = series.base + 0.1, seeded_noise()(1, series.base.shape)
    x0 = torch.full_like(hr, 0.2)  # the residual, twice as large
    t = torch.tensor([100.0, 25.0])
    x_t = torch.stack([0.5 * noise[0], 0.75 * x0[1] + 0.25 * 0.5 * noise[1]])
    condition = flow.denoise_fn.condition(flow.rrdb(series).features, series.base)
    expected = (flow.denoise_fn(x_t, t, condition) - (0.5 * noise - x0)).square().mean()
    found = flow.training_losses(series, hr, t=t, noise=noise, loss_type="l2")
    torch.testing.assert_close(found["q"], expected)


def test_a_flow_has_no_tables() -> None:
    assert {name.split(".")[0] for name in small_flow().state_dict()} == {"denoise_fn", "rrdb"}
    of_diffusion = small_srdiff("rrdb").state_dict()
    assert all(of_diffusion[name].shape == value.shape for name, value in small_flow().state_dict().items())


def test_one_step_is_what_the_velocity_says() -> None:
    flow, series = small_flow(), random_series()
    image, backbone = flow.sample(series, sampler=partial(ddim, times=flow.path.times(1)), noise=seeded_noise())
    noise = seeded_noise()(100, series.base.shape)
    condition = flow.denoise_fn.condition(backbone.features, series.base)
    x0 = noise - flow.denoise_fn(noise, torch.full((2,), 100.0), condition)
    torch.testing.assert_close(image, x0.clamp(-1, 1) / 2 + series.base)


def test_the_residual_may_be_that_of_the_backbone() -> None:
    x, image, backbone = start_of(small_flow(base="backbone"), random_series())
    torch.testing.assert_close(image, x.clamp(-1, 1) / 2 + backbone.sr.clamp(-1, 1))


def test_a_shortcut_learns_where_two_steps_lead() -> None:
    flow, series = small_flow(shortcut=True), random_series(batch=3)
    torch.nn.init.normal_(flow.denoise_fn.step_mlp[-1].weight)  # type: ignore[index, arg-type]
    hr, noise = series.base, seeded_noise()(1, series.base.shape)
    t, step = torch.tensor([100.0, 25.0, 60.0]), torch.tensor([50.0, 12.5, 0.0])
    condition = flow.denoise_fn.condition(flow.rrdb(series).features, series.base)
    x, sizes = flow.path.q_sample(torch.zeros_like(hr), t, noise), torch.tensor([25.0, 0.0, 0.0])  # the smallest: 0
    half = torch.tensor([25.0, 6.25, 0.0])
    with torch.no_grad():
        first = flow.denoise_fn(x, t, condition, sizes)
        second = flow.denoise_fn(x - (half / 100).view(-1, 1, 1, 1) * first, t - half, condition, sizes)
    target = torch.where((step > 0).view(-1, 1, 1, 1), (first + second) / 2, noise)
    terms = flow.training_losses(series, hr, t=t, noise=noise, step=step, loss_type="l2")
    expected = (flow.denoise_fn(x, t, condition, step) - target).square().mean()
    torch.testing.assert_close(terms["q"], expected)
    terms["q"].backward()
    gradients = {name: p.grad for name, p in flow.denoise_fn.named_parameters()}
    flow.zero_grad()
    expected.backward()  # the targets have no gradient
    for name, parameter in flow.denoise_fn.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad)


def test_at_first_the_size_of_a_step_has_no_effect() -> None:
    flow, x = small_flow(shortcut=True), seeded_noise()(1, torch.Size((2, 3, 24, 32)))
    condition, t = torch.zeros(2, 8, 24, 32), torch.tensor([100.0, 30.0])
    assert torch.equal(flow.denoise_fn(x, t, condition), flow.denoise_fn(x, t, condition, torch.tensor([50.0, 12.5])))
