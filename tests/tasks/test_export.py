"""One file that takes an experiment folder's place everywhere."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from models.series import Series
from tasks.base import blank_batch
from tasks.build import build_task
from tasks.export import damped
from tests.trainings import Experiments, Finished, run, same
from utils.checkpoint import BEST, file_name
from utils.config.settings import Data, Model, Settings
from utils.errors import ConfigError


def export(experiments: Experiments, *arguments: object) -> Finished:
    return run("tasks/export.py", *arguments, cwd=experiments.root)


@pytest.fixture
def averaged(unstopped: Experiments) -> Experiments:
    """An experiment with averaged weights, exported to model.pt; it is made once."""
    if not (unstopped.root / "model.pt").exists():
        unstopped.train("exported", ema_decay=0.5).succeeded()
        done = export(unstopped, "checkpoints/exported", "model.pt").succeeded()
        assert file_name(12) in done.stdout
    return unstopped


def test_what_the_file_holds(averaged: Experiments) -> None:
    """Plain tensors, the averaged weights, what is needed to use them, where they come from; no path of a machine."""
    content = torch.load(averaged.root / "model.pt", weights_only=True)
    checkpoint = averaged.checkpoint("exported", 12)
    assert same(dict(content["state_dict"]), dict(checkpoint["ema"]))
    assert content["averaged"] is True
    assert content["global_step"] == 12
    assert content["maxima"] == checkpoint["maxima"]
    assert content["format_version"] == 1
    assert content["config"]["hidden_size"] == 8
    assert str(averaged.data) not in repr(content["config"])
    assert content["provenance"]["checkpoint"].endswith(file_name(12))
    assert "torch" in content["provenance"]["packages"]
    assert (averaged.root / "model.pt").stat().st_size < 0.6 * (
        averaged.folder("exported") / file_name(12)
    ).stat().st_size


def test_evaluated_in_place_of_the_folder(averaged: Experiments, experiments: Experiments) -> None:
    """By itself: the folder is not there any more."""
    averaged.infer("exported", ema_decay=0.5)
    expected = (averaged.folder("exported") / "test_results.csv").read_text()
    shutil.copy(averaged.root / "model.pt", experiments.root / "model.pt")
    weights = f"data_root={averaged.data},lpips_weights={averaged.data / 'lpips.pt'},num_workers=0"
    done = run(
        "tasks/trainer.py",
        *("--config", "model.pt", "--exp_name", "elsewhere", "--infer", "--device", "cpu", "--hparams", weights),
        cwd=experiments.root,
    ).succeeded()
    assert "averaged weights" in done.stderr
    folder = experiments.folder("elsewhere")
    assert (folder / "test_results.csv").read_text() == expected
    assert json.loads((folder / "summary.json").read_text())["averaged_weights"] is True


def test_conditions_and_starts_others(averaged: Experiments, experiments: Experiments) -> None:
    model = averaged.root / "model.pt"
    state = torch.load(model, weights_only=True)["state_dict"]
    done = experiments.train("srdiff", "srdiff", rrdb_ckpt=model, max_updates=1).succeeded()
    assert "conditioner: 72 of 72 tensors" in done.stderr
    diffusion = experiments.checkpoint("srdiff", 1)["state_dict"]["model"]
    assert all(torch.equal(diffusion[f"rrdb.{name}"], value) for name, value in state.items())
    experiments.train("tuned", init_from=model, max_updates=1, lr=0).succeeded()
    assert same(dict(experiments.checkpoint("tuned", 1)["state_dict"]["model"]), dict(state))


@pytest.mark.parametrize(("config", "key"), [("srdiff", "rrdb_ckpt"), ("rrdb", "init_from")])
def test_nothing_starts_from_another_normalisation(
    averaged: Experiments, experiments: Experiments, config: str, key: str
) -> None:
    """The colours that a conditioner, or a pretrained model, knows would be others."""
    foreign = experiments.root / "foreign.pt"
    torch.save({**torch.load(averaged.root / "model.pt", weights_only=True), "maxima": [0.25, 0.2, 0.15]}, foreign)
    done = experiments.train("mixed", config, **{key: foreign})
    assert done.returncode == 3
    assert "--maxima 0.25 0.2 0.15" in done.error
    assert not list(experiments.folder("mixed").glob("*.ckpt"))


def test_a_diffusion_model_travels_with_its_conditioner(averaged: Experiments, experiments: Experiments) -> None:
    options: dict[str, object] = {"rrdb_ckpt": averaged.root / "model.pt", "max_updates": 2}
    experiments.train("srdiff", "srdiff", **options).succeeded()
    experiments.infer("srdiff", "srdiff", **options)
    expected = (experiments.folder("srdiff") / "test_results.csv").read_text()
    export(experiments, "checkpoints/srdiff", "diffusion.pt").succeeded()
    config = torch.load(experiments.root / "diffusion.pt", weights_only=True)["config"]
    assert config["backbone"]["trainer_cls"] == "rrdb"
    assert str(averaged.root) not in repr(config)
    shutil.rmtree(experiments.folder("srdiff"))
    weights = f"data_root={averaged.data},lpips_weights={averaged.data / 'lpips.pt'},num_workers=0"
    run(
        "tasks/trainer.py",
        *("--config", "diffusion.pt", "--exp_name", "srdiff", "--infer", "--device", "cpu", "--hparams", weights),
        cwd=experiments.root,
    ).succeeded()
    assert (experiments.folder("srdiff") / "test_results.csv").read_text() == expected


def test_which_checkpoint(averaged: Experiments) -> None:
    best = torch.load(averaged.folder("exported") / BEST, weights_only=True)
    for which, step in (("best", best["global_step"]), ("5", 5), ("newest", 12)):
        name = f"which_{which}.pt"
        export(averaged, "checkpoints/exported", name, "--ckpt", which, "--overwrite").succeeded()
        assert torch.load(averaged.root / name, weights_only=True)["global_step"] == step
    export(averaged, f"checkpoints/exported/{file_name(10)}", "which_file.pt", "--overwrite").succeeded()
    assert torch.load(averaged.root / "which_file.pt", weights_only=True)["global_step"] == 10


def test_the_same_file_each_time(averaged: Experiments) -> None:
    export(averaged, "checkpoints/exported", "again.pt", "--overwrite").succeeded()
    assert (averaged.root / "again.pt").read_bytes() == (averaged.root / "model.pt").read_bytes()


def test_what_can_not_be(averaged: Experiments, experiments: Experiments, tmp_path: Path) -> None:
    done = export(averaged, "checkpoints/exported", "model.pt")
    assert (done.returncode, "model.pt exists; --overwrite replaces it" in done.stderr) == (2, True)
    done = export(averaged, "checkpoints/nothing", "new.pt")
    assert done.returncode == 4
    done = export(averaged, "checkpoints/exported", "new.pt", "--ckpt", "77")
    assert (done.returncode, "holds no checkpoint '77'" in done.stderr) == (4, True)
    done = export(averaged, "checkpoints/exported", "new.pt", "--ckpt", "newset")
    assert done.returncode in (2, 4)
    assert "newset" in done.error
    alone = tmp_path / file_name(12)
    shutil.copy(averaged.folder("exported") / file_name(12), alone)
    done = export(experiments, alone, "new.pt")
    assert (done.returncode, "no config.yaml beside it" in done.stderr) == (4, True)
    done = run("tasks/trainer.py", "--config", averaged.root / "model.pt", "--exp_name", "new", cwd=experiments.root)
    assert (done.returncode, "use --hparams init_from=FILE" in done.stderr) == (2, True)
    assert not (averaged.root / "new.pt").exists()


def test_damped_the_difference_to_the_bicubic_image_is_smaller() -> None:
    settings = Settings(model=Model(trainer_cls="hr_ltae", base_residual=True, hidden_size=16, ltae_d_model=128))
    network = build_task(settings).model.eval()
    series = blank_batch(Data(sen2_amount=3), size=8)
    inputs = Series(torch.rand_like(series.lr), series.dates, series.mask, torch.rand_like(series.base))
    with torch.no_grad():
        whole = network(inputs).sr - inputs.base
        network.load_state_dict(damped(network.state_dict(), settings, 0.5))
        torch.testing.assert_close(network(inputs).sr - inputs.base, 0.5 * whole)
    with pytest.raises(ConfigError, match="--damping"):
        damped(network.state_dict(), settings, 1.5)
