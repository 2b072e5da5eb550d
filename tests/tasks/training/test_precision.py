"""Options of training: each does what it says."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from tasks.trainer import main, parser
from tests.golden.large import ROOT
from tests.tasks.training.test_state import settings_of, train_state, trained
from tests.trainings import Experiments, same
from utils.checkpoint import file_name, write
from utils.distributed import World
from utils.errors import ConfigError

has_bfloat16 = pytest.mark.skipif(not World(torch.device("cpu")).has_bfloat16, reason="this processor has no bfloat16")


@pytest.fixture
def plain(unstopped: Experiments) -> Experiments:
    """Trainings in float32 by names of configurations; each is made once."""
    if not unstopped.folder("plain_hr_ltae").exists():
        unstopped.train("plain_rrdb", "rrdb").succeeded()
        unstopped.train("plain_srdiff", "srdiff", rrdb_ckpt="checkpoints/plain_rrdb").succeeded()
        unstopped.train("plain_hr_ltae", "hr_ltae").succeeded()
    return unstopped


def psnr_of(experiments: Experiments, name: str) -> float:
    return json.loads((experiments.folder(name) / "summary.json").read_text())["metrics"]["psnr"]["mean"]


def test_memory_format(experiments: Experiments, plain: Experiments) -> None:
    experiments.train("format", channels_last=True).succeeded()
    assert experiments.column("format", "loss") == pytest.approx(plain.column("plain_rrdb", "loss"), rel=1e-4)


@pytest.mark.parametrize("amp", [pytest.param("bf16", marks=has_bfloat16), "fp16"])
@pytest.mark.parametrize("config", ["rrdb", "hr_ltae", "srdiff"])
def test_mixed_precision(experiments: Experiments, plain: Experiments, config: str, amp: str) -> None:
    """About the same losses, by other arithmetic; what is saved is float32."""
    options = {"rrdb_ckpt": plain.folder("plain_rrdb")} if config == "srdiff" else {}
    experiments.train("mixed", config, amp=amp, **options).succeeded()
    mixed, exact = experiments.column("mixed", "loss"), plain.column(f"plain_{config}", "loss")
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
        psnr[amp] = psnr_of(plain, "plain_srdiff")
    assert psnr["bf16"] != psnr["off"]
    assert psnr["bf16"] == pytest.approx(psnr["off"], abs=0.3)


@has_bfloat16
@pytest.mark.parametrize("config", ["rrdb", "hr_ltae", "srdiff"])
def test_where_precision_matters_it_stays(tiny_data: Path, config: str) -> None:
    """The network computes in bf16; the noise's arithmetic, the losses, the gradients and the optimiser in float32."""
    state = train_state(settings_of(config, amp="bf16", fix_rrdb=False, aux_ssim_loss=True), tiny_data)
    seen: dict[str, set[torch.dtype]] = {"network": set(), "input": set(), "terms": set()}
    for module in state.task.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, inputs, output: seen["network"].add(output.dtype))
    if config == "srdiff":
        state.task.model.denoise_fn.register_forward_hook(lambda _, inputs, out: seen["input"].add(inputs[0].dtype))
    state.task.register_forward_hook(lambda _, inputs, terms: seen["terms"].update(t.dtype for t in terms.values()))
    trained(state, 1)
    assert seen["network"] == {torch.bfloat16}
    assert seen["terms"] == {torch.float32}
    assert seen["input"] <= {torch.float32}
    assert all(parameter.grad is None or parameter.grad.dtype == torch.float32 for parameter in state.parameters)


def test_averaged_weights_are_evaluated(experiments: Experiments) -> None:
    """In validation, and by --infer, which says so: the figures are those of these weights, not of the others."""
    experiments.train("averaged", ema_decay=0.5).succeeded()
    experiments.infer("averaged", ema_decay=0.5, extra=("--split", "val"))
    last = experiments.column("averaged", "psnr", "val_res.csv")[-1]
    assert psnr_of(experiments, "averaged") == pytest.approx(last, rel=1e-9)
    done = experiments.infer("averaged", ema_decay=0.5)
    assert "averaged weights" in done.stderr
    folder, plain = experiments.folder("averaged"), experiments.folder("plain")
    assert json.loads((folder / "summary.json").read_text())["averaged_weights"] is True
    content = experiments.checkpoint("averaged", 12)
    average, own = content.pop("ema"), content["state_dict"]["model"]
    assert not same(dict(own), dict(average))
    write(plain / file_name(12), {**content, "state_dict": {"model": average}})
    (plain / "config.yaml").write_text((folder / "config.yaml").read_text())
    assert "averaged weights" not in experiments.infer("plain", ema_decay=0.5).stderr
    assert (plain / "test_results.csv").read_text() == (folder / "test_results.csv").read_text()


@pytest.mark.slow
def test_compiled(experiments: Experiments, plain: Experiments) -> None:
    """The same losses, the same names; resumed without."""
    done = experiments.train("compiled", compile=True, max_updates=8).succeeded()
    if "compile stays off" in done.stderr:
        pytest.skip(done.stderr)
    content = experiments.checkpoint("compiled", 8)
    assert list(content["state_dict"]["model"]) == list(plain.checkpoint("plain_rrdb", 12)["state_dict"]["model"])
    experiments.train("compiled", max_updates=12).succeeded()
    assert experiments.column("compiled", "loss") == pytest.approx(plain.column("plain_rrdb", "loss"), rel=1e-4)


def test_without_a_compiler(experiments: Experiments, plain: Experiments) -> None:
    """One line, and the same training."""
    nothing = {"PATH": str(experiments.root), "CXX": "", "TORCHINDUCTOR_CACHE_DIR": str(experiments.root / "cache")}
    done = experiments.train("off", compile=True, environment=nothing).succeeded()
    (line,) = (line for line in done.stderr.splitlines() if "compile" in line)
    assert line.startswith("compile stays off: it needs a working C++ compiler (")
    assert same(experiments.checkpoint("off", 12), plain.checkpoint("plain_rrdb", 12))


def test_bfloat16_is_not_emulated(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On an older processor training refuses it before anything is written; prediction takes float32, and says so."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64", "avx2": True})
    monkeypatch.chdir(tmp_path)
    command = ["--config", str(ROOT / "configs/rrdb/rrdb.yaml"), "--exp_name", "a", "--device", "cpu", "--hparams"]
    small = f"data_root={tiny_data},hidden_size=8,num_block=2,num_workers=0,batch_size=2,max_updates=0"
    saved = tmp_path / "checkpoints" / "a" / "config.yaml"
    with pytest.raises(ConfigError, match=r"amp=bf16.*amp=auto"):
        main(parser().parse_args([*command, f"{small},amp=bf16"]))
    assert not saved.exists()
    main(parser().parse_args([*command, f"{small},amp=auto"]))
    assert "amp: 'off'" in saved.read_text()
    here = World(torch.device("cpu"))
    here.place(nn.Linear(1, 1), amp="bf16")
    assert "it predicts in float32" in caplog.text
    with here.autocast("bf16"):
        assert nn.Linear(1, 1)(torch.ones(1)).dtype == torch.float32


def test_what_auto_decides_stands(experiments: Experiments) -> None:
    """It is said and saved, once for all processes; the same command goes on with it, as one that was given it."""
    options = {"amp": "auto", "channels_last": "auto", "batch_size": 2}
    said = "".join(
        done.succeeded().stderr for done in experiments.train_together(2, "chosen", max_updates=1, **options)
    )
    assert said.count("channels_last=auto: a step of") == 1
    saved = yaml.safe_load((experiments.folder("chosen") / "config.yaml").read_text())
    assert isinstance(saved["channels_last"], bool)
    assert saved["amp"] == ("bf16" if World(torch.device("cpu")).has_bfloat16 else "off")
    assert "auto" not in experiments.train("chosen", max_updates=2, **options).succeeded().stderr


def test_the_learning_rate_is_a_function_of_the_step(experiments: Experiments) -> None:
    experiments.train("rates", decay_steps=5, decay_factor=0.5, warmup_steps=3, tb_log_interval=1).succeeded()
    expected = [1e-3 * 0.5 ** (step // 5) * min(1, (step + 1) / 3) for step in range(12)]
    assert experiments.column("rates", "lr") == pytest.approx(expected)


def test_gradients_are_clipped(tiny_data: Path) -> None:
    """To the norm, together; the log shows the norm before."""
    free = train_state(settings_of("rrdb"), tiny_data)
    trained(free, 1)
    norm = free.means()["grad_norm"]
    clipped = train_state(settings_of("rrdb", clip_grad_norm=norm / 4), tiny_data)
    trained(clipped, 1)
    assert clipped.means()["grad_norm"] == pytest.approx(norm)
    for one, other in zip(clipped.parameters, free.parameters, strict=True):
        torch.testing.assert_close(one.grad, other.grad / 4, rtol=1e-4, atol=1e-9)  # type: ignore[operator]


def test_fine_tuning(experiments: Experiments, plain: Experiments) -> None:
    """init_from takes what fits, and says what it took and what it didn't."""
    source = plain.folder("plain_rrdb")
    state = plain.checkpoint("plain_rrdb", 12)["state_dict"]["model"]
    done = experiments.train("tuned", init_from=source, max_updates=1, lr=0).succeeded()
    assert f"init_from {source}/{file_name(12)}: {len(state)} tensors loaded; new: none; not used: none" in done.stderr
    assert same(dict(experiments.checkpoint("tuned", 1)["state_dict"]["model"]), dict(state))
    for name, changed, said in (
        ("deeper", {"num_block": 3}, f"{len(state)} tensors loaded; new: 30 (RRDB_trunk.2.RDB1.conv1.weight, "),
        ("wider", {"hidden_size": 16}, "1 tensors loaded"),  # the bias of the last layer has the same shape
    ):
        assert said in experiments.train(name, init_from=source, max_updates=0, **changed).succeeded().stderr
    done = experiments.train("other", "hr_ltae", init_from=source, max_updates=1)
    assert done.returncode == 4 and "init_from" in done.error
