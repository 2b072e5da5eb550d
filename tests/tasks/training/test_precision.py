"""Options of training: each does what it says."""

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from tasks.build import build_task
from tasks.trainer import main, parser
from tasks.training.state import TrainState
from tests.golden.large import ROOT
from tests.tasks.training.test_state import settings_of, train_state, trained
from tests.trainings import Experiments, same
from utils.checkpoint import file_name, write
from utils.distributed import World
from utils.errors import ConfigError

has_bfloat16 = pytest.mark.skipif(not World(torch.device("cpu")).has_bfloat16, reason="this processor has no bfloat16")


def losses(experiments: Experiments, name: str, column: str = "loss") -> list[float]:
    with (experiments.folder(name) / "train_loss.csv").open(newline="") as file:
        return [float(row[column]) for row in csv.DictReader(file, delimiter=";")]


@pytest.fixture
def plain(unstopped: Experiments) -> Experiments:
    """Trainings in float32 by names of configurations; each is made once."""
    if not unstopped.folder("plain_hr_ltae").exists():
        unstopped.train("plain_rrdb", "rrdb").succeeded()
        unstopped.train("plain_srdiff", "srdiff", rrdb_ckpt="checkpoints/plain_rrdb").succeeded()
        unstopped.train("plain_hr_ltae", "hr_ltae").succeeded()
    return unstopped


@pytest.mark.parametrize("amp", [pytest.param("bf16", marks=has_bfloat16), "fp16"])
@pytest.mark.parametrize("config", ["rrdb", "hr_ltae", "srdiff"])
def test_mixed_precision(experiments: Experiments, plain: Experiments, config: str, amp: str) -> None:
    """About the same losses, by other arithmetic; what is saved is float32."""
    options = {"rrdb_ckpt": plain.folder("plain_rrdb")} if config == "srdiff" else {}
    experiments.train("mixed", config, amp=amp, **options).succeeded()
    mixed, exact = losses(experiments, "mixed"), losses(plain, f"plain_{config}")
    assert mixed != exact
    assert mixed == pytest.approx(exact, rel=0.03)
    content = experiments.checkpoint("mixed", 12)
    assert all(value.dtype in (torch.float32, torch.int64) for value in content["state_dict"]["model"].values())
    assert ("scaler" in content) == (amp == "fp16")


@has_bfloat16
def test_an_evaluation_computes_in_the_precision_that_is_asked_for(plain: Experiments) -> None:
    psnr = {}
    for amp in ("off", "bf16"):
        plain.infer("plain_srdiff", "srdiff", amp=amp)
        summary = json.loads((plain.folder("plain_srdiff") / "summary.json").read_text())
        psnr[amp] = summary["metrics"]["psnr"]["mean"]
    assert psnr["bf16"] != psnr["off"]
    assert psnr["bf16"] == pytest.approx(psnr["off"], abs=0.3)


@has_bfloat16
@pytest.mark.parametrize("config", ["rrdb", "hr_ltae", "srdiff"])
def test_where_precision_matters_it_stays(tiny_data: Path, config: str) -> None:
    """The network computes in bf16; the noise's arithmetic, the losses, the gradients and the optimiser in float32."""
    state = train_state(settings_of(config, amp="bf16", fix_rrdb=False, aux_ssim_loss=True), tiny_data)
    seen: dict[str, set[torch.dtype]] = {"network": set(), "input": set(), "terms": set()}

    def watch_network(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen["network"].add(output.dtype)

    for module in state.task.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(watch_network)
    if config == "srdiff":
        state.task.model.denoise_fn.register_forward_hook(lambda _, inputs, out: seen["input"].add(inputs[0].dtype))
    state.task.register_forward_hook(lambda _, inputs, terms: seen["terms"].update(t.dtype for t in terms.values()))
    trained(state, 1)
    assert seen["network"] == {torch.bfloat16}
    assert seen["terms"] == {torch.float32}
    assert seen["input"] <= {torch.float32}
    assert all(parameter.grad is None or parameter.grad.dtype == torch.float32 for parameter in state.parameters)


def test_averaged_weights_are_evaluated(experiments: Experiments) -> None:
    """--infer says so, and gives the figures of these weights, not of the others."""
    experiments.train("averaged", ema_decay=0.5).succeeded()
    done = experiments.infer("averaged", ema_decay=0.5)
    assert "averaged weights" in done.stderr
    folder = experiments.folder("averaged")
    figures = (folder / "test_results.csv").read_text()
    assert json.loads((folder / "summary.json").read_text())["averaged_weights"] is True
    content = experiments.checkpoint("averaged", 12)
    average = content.pop("ema")
    own = content["state_dict"]["model"]
    assert not same(dict(own), dict(average))
    write(experiments.folder("plain") / file_name(12), {**content, "state_dict": {"model": average}})
    (experiments.folder("plain") / "config.yaml").write_text((folder / "config.yaml").read_text())
    done = experiments.infer("plain", ema_decay=0.5)
    assert "averaged weights" not in done.stderr
    assert (experiments.folder("plain") / "test_results.csv").read_text() == figures


def test_validation_is_of_the_averaged_weights(experiments: Experiments) -> None:
    experiments.train("averaged", ema_decay=0.5).succeeded()
    experiments.infer("averaged", ema_decay=0.5, extra=("--split", "val"))
    summary = json.loads((experiments.folder("averaged") / "summary.json").read_text())
    assert losses_of_validation(experiments, "averaged", "psnr")[-1] == pytest.approx(
        summary["metrics"]["psnr"]["mean"], rel=1e-9
    )


def losses_of_validation(experiments: Experiments, name: str, column: str) -> list[float]:
    with (experiments.folder(name) / "val_res.csv").open(newline="") as file:
        return [float(row[column]) for row in csv.DictReader(file, delimiter=";")]


@pytest.mark.slow
def test_compiled(experiments: Experiments, plain: Experiments) -> None:
    """The same losses, the same names; resumed without, and evaluated."""
    done = experiments.train("compiled", compile=True, max_updates=8).succeeded()
    if "compile stays off" in done.stderr:
        pytest.skip(done.stderr)
    content = experiments.checkpoint("compiled", 8)
    assert list(content["state_dict"]["model"]) == list(plain.checkpoint("plain_rrdb", 12)["state_dict"]["model"])
    experiments.train("compiled", max_updates=12).succeeded()
    assert losses(experiments, "compiled") == pytest.approx(losses(plain, "plain_rrdb"), rel=1e-4)


def test_without_a_compiler(experiments: Experiments, plain: Experiments) -> None:
    """One line, and the same training."""
    nothing = {"PATH": str(experiments.root), "CXX": "", "TORCHINDUCTOR_CACHE_DIR": str(experiments.root / "cache")}
    done = experiments.train("off", compile=True, environment=nothing).succeeded()
    assert [line for line in done.stderr.splitlines() if "compile" in line] == [done.stderr.splitlines()[0]]
    assert done.stderr.startswith("compile stays off: it needs a working C++ compiler (")
    assert same(experiments.checkpoint("off", 12), plain.checkpoint("plain_rrdb", 12))


@pytest.fixture
def without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """An older processor."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", "avx2": True})


@pytest.mark.usefixtures("without_bfloat16")
def test_bfloat16_is_not_emulated(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Training refuses it before anything is written; prediction takes float32, and says so."""
    monkeypatch.chdir(tmp_path)
    command = ["--config", str(ROOT / "configs/rrdb/rrdb.yaml"), "--exp_name", "a", "--device", "cpu", "--hparams"]
    small = f"data_root={tiny_data},hidden_size=8,num_block=2,num_workers=0,batch_size=2,max_updates=0"
    with pytest.raises(ConfigError, match=r"amp=bf16: this device doesn't compute in bfloat16.*amp=auto"):
        main(parser().parse_args([*command, f"{small},amp=bf16"]))
    assert not (tmp_path / "checkpoints" / "a" / "config.yaml").exists()
    main(parser().parse_args([*command, f"{small},amp=auto"]))
    assert "amp: 'off'" in (tmp_path / "checkpoints" / "a" / "config.yaml").read_text()
    here = World(torch.device("cpu"))
    here.place(nn.Linear(1, 1), amp="bf16")
    assert "it predicts in float32" in caplog.text
    with here.autocast("bf16"):
        assert nn.Linear(1, 1)(torch.ones(1)).dtype == torch.float32


def test_what_auto_decides_stands(experiments: Experiments) -> None:
    """It is said and saved; the same command goes on with it, as a training does that was given it."""
    options = {"amp": "auto", "channels_last": "auto"}
    first = experiments.train("chosen", max_updates=5, **options).succeeded()
    assert len([line for line in first.stderr.splitlines() if line.startswith("channels_last=auto: a step of")]) == 1
    saved = yaml.safe_load((experiments.folder("chosen") / "config.yaml").read_text())
    assert isinstance(saved["channels_last"], bool)
    assert saved["amp"] == ("bf16" if World(torch.device("cpu")).has_bfloat16 else "off")
    second = experiments.train("chosen", **options).succeeded()
    assert "auto" not in second.stderr
    experiments.train("given", amp=saved["amp"], channels_last=saved["channels_last"]).succeeded()
    assert same(experiments.checkpoint("chosen", 12), experiments.checkpoint("given", 12))


def test_all_processes_take_the_same_memory_format(experiments: Experiments) -> None:
    done = experiments.train_together(2, "both", channels_last="auto", max_updates=2)
    assert [run.returncode for run in done] == [0, 0]
    assert sum(run.stderr.count("channels_last=auto: a step") for run in done) == 1


def test_memory_format(experiments: Experiments, plain: Experiments) -> None:
    experiments.train("format", channels_last=True).succeeded()
    assert losses(experiments, "format") == pytest.approx(losses(plain, "plain_rrdb"), rel=1e-4)


def test_the_learning_rate_is_a_function_of_the_step(experiments: Experiments) -> None:
    options = {"decay_steps": 5, "decay_factor": 0.5, "warmup_steps": 3, "tb_log_interval": 1}
    experiments.train("rates", **options).succeeded()
    base = [1e-3 * 0.5 ** (step // 5) * min(1, (step + 1) / 3) for step in range(12)]
    assert losses(experiments, "rates", "lr") == pytest.approx(base)


def test_gradients_are_clipped(tiny_data: Path) -> None:
    """To the norm, together; the log shows the norm before."""
    free = train_state(settings_of("rrdb"), tiny_data)
    trained(free, 1)
    norm = free.means()["grad_norm"]
    clipped = train_state(settings_of("rrdb", clip_grad_norm=norm / 4), tiny_data)
    trained(clipped, 1)
    assert clipped.means()["grad_norm"] == pytest.approx(norm)
    for one, other in zip(clipped.parameters, free.parameters, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.allclose(one.grad, other.grad / 4, rtol=1e-4, atol=1e-9)


def test_fine_tuning(experiments: Experiments, plain: Experiments) -> None:
    """init_from takes what fits, and says what it took and what it didn't."""
    source = plain.folder("plain_rrdb")
    done = experiments.train("tuned", init_from=source, max_updates=1, lr=0).succeeded()
    state = plain.checkpoint("plain_rrdb", 12)["state_dict"]["model"]
    line = next(line for line in done.stderr.splitlines() if line.startswith("init_from"))
    assert line == f"init_from {source}/{file_name(12)}: {len(state)} tensors loaded; new: none; not used: none"
    assert same(dict(experiments.checkpoint("tuned", 1)["state_dict"]["model"]), dict(state))
    assert experiments.checkpoint("tuned", 1)["global_step"] == 1
    done = experiments.train("deeper", init_from=source, max_updates=1, num_block=3).succeeded()
    assert f"{len(state)} tensors loaded; new: 30 (RRDB_trunk.2.RDB1.conv1.weight, " in done.stderr
    done = experiments.train("wider", init_from=source, max_updates=1, hidden_size=16)
    assert done.returncode == 0
    assert "1 tensors loaded" in done.stderr, "only the bias of the last layer has the same shape"
    done = experiments.train("other", "hr_ltae", init_from=source, max_updates=1)
    assert done.returncode == 4
    assert "none of its" in done.stderr


def test_initial_weights_depend_on_the_seed_alone(tiny_data: Path) -> None:
    def initial(seed: int) -> dict[str, Tensor]:
        return train_state(settings_of("rrdb", seed=seed), tiny_data).task.model.state_dict()

    assert same(dict(initial(1)), dict(initial(1)))
    assert not same(dict(initial(1)), dict(initial(2)))


def test_one_view_needs_no_fusion(tiny_data: Path) -> None:
    """Parameters without a gradient stay as they are."""
    state = train_state(settings_of("hr_ltae", sen2_amount=1), tiny_data)
    assert isinstance(state, TrainState)
    assert build_task(state.settings).trainable()
    trained(state, 2)
    state.check_finite()
