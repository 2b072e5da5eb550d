"""LPIPS against the published package's distances, and where its weights come from."""

import functools
import hashlib
import http.server
import io
import math
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.golden.large import Golden
from utils.errors import CheckpointError
from utils.metrics import lpips
from utils.metrics.lpips import LPIPS, load_lpips


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose files are the public downloads, from a server of their own."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for name, content in public_files(LPIPS().state_dict()).items():
            (folder / name).write_bytes(content)
            address = f"http://127.0.0.1:{server.server_port}/{name}"
            monkeypatch.setitem(lpips.DOWNLOADS, name, (address, hashlib.sha256(content).hexdigest()))
        yield folder
        server.shutdown()


def public_files(weights: dict[str, torch.Tensor]) -> dict[str, bytes]:
    """The two public files: torchvision's network with its classifier, and the heads."""
    network = {key: value for key, value in weights.items() if key.startswith("features.")}
    network["classifier.1.weight"] = torch.zeros(2, 2)
    heads = {key: value for key, value in weights.items() if key.startswith("lin")}
    files = {}
    for name, content in (("alexnet-owt-7be5be79.pth", network), ("lpips-v0.1-alex.pth", heads)):
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


def test_downloads_are_kept(hub: Path, served: Path) -> None:
    metric = load_lpips("")
    assert metric is not None
    assert sorted(file.name for file in hub.iterdir()) == sorted(lpips.DOWNLOADS)
    for file in served.iterdir():
        file.unlink()
    again = load_lpips("")  # from what was kept
    assert again is not None
    assert all(torch.equal(value, metric.state_dict()[key]) for key, value in again.state_dict().items())


@pytest.mark.parametrize("damage", ["absent", "another file"])
def test_without_the_downloads_one_line_says_so(
    hub: Path, served: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = served / "alexnet-owt-7be5be79.pth"
    file.unlink() if damage == "absent" else file.write_bytes(file.read_bytes()[:-1])
    with caplog.at_level("INFO"):
        assert load_lpips("") is None
    assert len(caplog.messages) == 1 and "LPIPS is left empty" in caplog.messages[0]
    assert list(hub.glob("*")) == []
