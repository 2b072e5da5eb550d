"""LPIPS against the published package's distances, and where its weights come from."""

import io
import math
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.golden import Golden
from utils.errors import CheckpointError
from utils.metrics import lpips
from utils.metrics.lpips import LPIPS, load_lpips


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


class Answer(io.BytesIO):
    """What urlopen gives back."""

    def __init__(self, content: bytes, *, length: int | None = None) -> None:
        super().__init__(content)
        self.headers = {"Content-Length": str(len(content) if length is None else length)}


def serve(monkeypatch: pytest.MonkeyPatch, contents: dict[str, bytes], **extra: Any) -> list[str]:
    """Answer downloads by the end of their address; the list collects the addresses asked for."""
    asked = []

    def urlopen(url: str, *, timeout: float) -> Answer:
        asked.append(url)
        for end, content in contents.items():
            if url.endswith(end):
                return Answer(content, **extra)
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return asked


def public_files(weights: dict[str, torch.Tensor]) -> dict[str, bytes]:
    """The two public files: torchvision's network with its classifier, and the heads."""
    network = {key: value for key, value in weights.items() if key.startswith("features.")}
    network["classifier.1.weight"] = torch.zeros(2, 2)
    heads = {key: value for key, value in weights.items() if key.startswith("lin")}
    files = {}
    for name, content in (("alexnet-owt-7be5be79.pth", network), ("v0.1/alex.pth", heads)):
        buffer = io.BytesIO()
        torch.save(content, buffer)
        files[name] = buffer.getvalue()
    return files


def test_golden(golden: Golden, lpips_weights: Path) -> None:
    metric = load_lpips(lpips_weights)
    assert metric is not None
    for name, case in golden.load("lpips.pt").items():
        distance = metric(case["a"].float(), case["b"].float())
        assert distance.shape == (1,)
        assert distance.item() == pytest.approx(float(case["lpips"]), abs=1e-4), name


def test_batch_is_the_single_images() -> None:
    torch.manual_seed(0)
    metric = LPIPS()
    a, b = torch.randint(0, 256, (2, 3, 3, 64, 48), dtype=torch.uint8)
    together = metric(a, b)
    assert together.unique().numel() == 3
    for i in range(3):
        torch.testing.assert_close(metric(a[i : i + 1], b[i : i + 1])[0], together[i], rtol=1e-4, atol=1e-7)


def test_equal_constant_and_small_images() -> None:
    metric = LPIPS()
    black = torch.zeros(2, 3, 31, 40)
    assert metric(black, black).tolist() == [0, 0]
    assert metric(black, black + 255).isfinite().all()
    assert all(math.isnan(value) for value in metric(black[..., :30, :], black[..., :30, :]).tolist())


def test_frozen() -> None:
    metric = LPIPS()
    assert not metric.training
    assert not any(parameter.requires_grad for parameter in metric.parameters())


def test_bad_files_are_one_line_errors(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_lpips(tmp_path / "absent.pt")
    (tmp_path / "damaged.pt").write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(CheckpointError, match="can't be read"):
        load_lpips(tmp_path / "damaged.pt")
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="not LPIPS's weights"):
        load_lpips(tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="no weights by name"):
        load_lpips(tmp_path / "list.pt")
    torch.save(dict.fromkeys(LPIPS().state_dict(), 3), tmp_path / "numbers.pt")
    with pytest.raises(CheckpointError, match="not LPIPS's weights"):
        load_lpips(tmp_path / "numbers.pt")


def test_downloads_are_kept(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = LPIPS().state_dict()
    asked = serve(monkeypatch, public_files(weights))
    for _ in range(2):
        metric = load_lpips(None)
        assert metric is not None
        assert all(torch.equal(value, weights[key]) for key, value in metric.state_dict().items())
    assert asked == list(lpips.DOWNLOADS.values())  # once each
    assert sorted(file.name for file in hub.iterdir()) == sorted(lpips.DOWNLOADS)


def test_no_network_is_no_metric(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = serve(monkeypatch, {})
    assert load_lpips(None) is None
    assert len(asked) == 1
    assert list(hub.glob("*")) == []


def test_a_download_that_breaks_off_leaves_nothing(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, public_files(LPIPS().state_dict()), length=10**9)
    assert load_lpips(None) is None
    assert list(hub.glob("*")) == []
