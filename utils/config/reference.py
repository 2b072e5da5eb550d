"""Configurations of the reference implementation, translated: one table, used wherever one of its files is met."""

import logging
from typing import Any

from utils.errors import ConfigError

logger = logging.getLogger(__name__)

TASKS = {
    "tasks.rrdb.RRDBSatTask": "rrdb",
    "tasks.highresnet.HighResnet": "highresnet",
    "tasks.hr_ltae.MISR": "hr_ltae",
    "tasks.rrdb_ltae.RRDBLtae": "rrdb_ltae",
    "tasks.rrdb_highresnet_fusion.RRDBhighresnet": "rrdb_highresnet",
    "tasks.srdiff_sat.SRDiffSat": "srdiff",
}

# The flags of a diffusion configuration, in the order in which the reference implementation asks for them.
CONDITIONERS = {"use_rrdb": "rrdb", "use_ltae": "hr_ltae", "use_highresnet": "highresnet", "use_rrdb_ltae": "rrdb_ltae"}

# Keys that had no effect there. They keep having none when one of its configurations is loaded,
# also where ours has such a key.
WITHOUT_EFFECT = frozenset(
    """accumulate_grad_batches amp binary_data_dir check_val_every_n_epoch clip_grad_norm crop_size data_augmentation
    data_interp debug denoise_fn ds_workers endless gn_groups load_ckpt max_epochs num_sanity_val_steps num_workers
    patch_size pred_noise print_arch print_nan_grads resume_from_checkpoint save_best save_codes seed
    show_training_process style_interp tb_log_interval test_crop_size test_input_dir test_thresh_size thresh_size
    valid_monitor_key valid_monitor_mode valid_steps""".split()  # noqa: SIM905
)
WITHOUT_EFFECT_IN_HIGHRESNETS = frozenset({"hidden_size", "num_block"})  # their width is 64
WIDTH_OF_HIGHRESNETS = 64


def translate(flat: dict[str, Any], *, source: str) -> dict[str, Any]:
    """A configuration in our keys; those of the reference implementation name a class by its dotted path.

    Raises:
        ConfigError: ``source`` names a class that is not one of its tasks.
    """
    reference_class = flat.get("trainer_cls")
    if not isinstance(reference_class, str) or "." not in reference_class:
        return flat
    if reference_class not in TASKS:
        raise ConfigError(f"{source}: trainer_cls {reference_class!r} is not known; known: {', '.join(TASKS)}")
    task = TASKS[reference_class]
    without_effect = WITHOUT_EFFECT | (
        WITHOUT_EFFECT_IN_HIGHRESNETS if task in ("highresnet", "hr_ltae") else frozenset()
    )
    ours = {name: value for name, value in flat.items() if name not in without_effect and name not in CONDITIONERS}
    ours["trainer_cls"] = task
    ours["output_clamp"] = "hard"  # the clamp acts in training there, and its experiments go on as they began
    if task in ("highresnet", "hr_ltae"):
        ours["hidden_size"] = WIDTH_OF_HIGHRESNETS
    if task == "srdiff":
        set_flags = [backbone for flag, backbone in CONDITIONERS.items() if flat.get(flag)]
        ours["conditioner"] = set_flags[0] if set_flags else "none"
        ours.pop("misr_ref_image", None)
        ours["backbone"] = _conditioner(ours, reference_image=flat.get("misr_ref_image", "median"))
    if unused := sorted(set(flat) & without_effect):
        logger.info("%s: keys of the reference implementation without effect: %s", source, ", ".join(unused))
    return ours


def _conditioner(ours: dict[str, Any], *, reference_image: str) -> dict[str, Any]:
    """The conditioner as a diffusion configuration describes it: its own experiment is not asked any more."""
    name = ours["conditioner"]
    described = {"trainer_cls": "bicubic" if name == "none" else name, "output_clamp": "hard"}
    if name in ("rrdb", "rrdb_ltae"):
        described |= {"hidden_size": ours.get("rrdb_num_feat", 64), "num_block": ours.get("rrdb_num_block", 17)}
    elif name == "hr_ltae":
        described |= {"misr_ref_image": reference_image}
    return described
