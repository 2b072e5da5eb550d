import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from models import losses
from models.highresnet import HighResNet
from models.losses import LaplaceHead, laplace_deviation, laplace_loss
from tasks.backbone import BackboneTask
from tasks.base import RandomKey, blank_batch
from tests.golden.cases import vgg_state
from tests.models.nets import random_series
from utils.config.settings import Data


def images(seed: int, *shape: int) -> Tensor:
    return torch.rand(*(shape or (2, 3, 20, 24)), generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_l1_shift_finds_the_shift() -> None:
    truth = images(0)
    prediction = torch.roll(truth, shifts=(2, -3), dims=(2, 3))
    assert losses.l1_shift(prediction, truth) == 0
    assert losses.l1_shift(torch.roll(truth, shifts=4, dims=2), truth) > 0.1


def test_l1_shift_gives_the_gradient_of_the_best_shift() -> None:
    truth = images(3)
    prediction = (torch.roll(truth, shifts=1, dims=3) + 0.1).requires_grad_()
    losses.l1_shift(prediction, truth).backward()
    inner = torch.zeros_like(prediction)
    inner[..., 3:-3, 3:-3] = 1 / inner[..., 3:-3, 3:-3].numel()
    torch.testing.assert_close(prediction.grad, inner)


def test_ssim_of_equal_images_is_one() -> None:
    assert losses.ssim(images(4), images(4)).item() == pytest.approx(1, abs=1e-6)
    assert losses.ssim(images(4), images(5)) < 0.5


def test_ssim_keeps_its_precision_under_autocast() -> None:
    a, b = images(8), images(8) + 0.01
    with torch.autocast("cpu", torch.bfloat16):
        inside = losses.ssim(a, b)
    assert inside.item() == pytest.approx(losses.ssim(a, b).item(), rel=1e-6)


def test_perceptual_loss() -> None:
    loss = losses.PerceptualLoss({**vgg_state(), "classifier.0.weight": torch.zeros(1)})
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    a, b = images(9, 1, 3, 16, 16).requires_grad_(), images(10, 1, 3, 16, 16)
    assert loss(a, a) == 0
    loss(a, b).backward()
    assert a.grad is not None
    assert a.grad.abs().sum() > 0
    state = dict(vgg_state())
    del state["features.34.bias"]
    with pytest.raises(KeyError, match=r"features\.34\.bias"):
        losses.PerceptualLoss(state)


# How far off a pixel is


def test_the_loss_is_the_negative_log_likelihood() -> None:
    random = np.random.RandomState(0)
    error, scale = random.standard_normal(50), random.rand(50) + 0.1
    ours = laplace_loss(torch.from_numpy(np.log(scale)), torch.from_numpy(error))
    assert float(ours) == pytest.approx(-stats.laplace(scale=scale).logpdf(error).mean())
    stated = laplace_deviation(torch.from_numpy(np.log(scale)))
    assert stated.numpy() == pytest.approx(stats.laplace(scale=scale).std())


def test_the_image_learns_as_without_it() -> None:
    series = random_series()
    batch = blank_batch(Data(sen2_amount=4), size=8, samples=2)._replace(
        lr=series.lr[..., :6, :], dates=series.dates, mask=series.mask, base=series.base, hr=series.base.flip(0)
    )
    key = RandomKey(0, 0, torch.arange(2))
    weights = {}
    for head in (False, True):
        torch.manual_seed(0)
        backbone = HighResNet(width=8, layers=1)
        scale_head = LaplaceHead(features=8, scale=4) if head else None
        task = BackboneTask(backbone, loss_type="l1", scale_head=scale_head)
        optimizer = torch.optim.Adam(task.trainable(), lr=1e-3)
        for _ in range(3):
            optimizer.zero_grad()
            terms = task(batch, key)
            torch.stack(list(terms.values())).sum().backward()
            optimizer.step()
        assert ("laplace" in terms) == head
        weights[head] = task.model.state_dict()
    assert all(torch.equal(weights[True][name], value) for name, value in weights[False].items())
    assert any(name.startswith("scale_head.") for name in weights[True])
