"""YAML files, their chains of `base_config`, and `--hparams` overrides: from text to `Settings`.

Configurations of the reference implementation are translated (at the end), wherever one of its files is met.
"""

import dataclasses
import difflib
import logging
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from utils.config.settings import KEYS, SECTIONS, Model, Settings, is_word
from utils.errors import ConfigError

Flat = dict[str, Any]

logger = logging.getLogger(__name__)

_MOST_VALUES = 10_000  # of a configuration
_DEEPEST = 50  # brackets in brackets, or parts of a dotted key
_WORDS = {  # pydantic's, and ours
    "Value error, ": "", "Input should be": "must be", "Unexpected keyword argument": "is unknown",
    "greater than or equal to": "at least", "less than or equal to": "at most",
    "a valid boolean": "true or false", "a valid integer": "a whole number", "a valid tuple": "a list",
}  # fmt: skip

IGNORED = frozenset({"base_config", "work_dir", "exp_name", "infer", "validate"})  # steer loading, or are saved by it


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars (1e-4 is a number, `off` is a word), no objects, no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = True) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        if len(set(keys)) < len(keys):
            raise ValueError(f"key {max(keys, key=keys.count)!r} twice, {node.start_mark}")
        return super().construct_mapping(node, deep=True)


_SCALARS = {
    "tag:yaml.org,2002:bool": (r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    "tag:yaml.org,2002:float": (
        r"^[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|nan))$",
        "-+0123456789.",
    ),
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _SCALARS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, (_pattern, _firsts) in _SCALARS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), list(_firsts))


def _weigh(node: yaml.Node, weights: dict[int, int | None]) -> int:
    """How many values a node stands for, aliases spelled out. Raises ValueError for a few lines that mean millions."""
    if id(node) not in weights:
        weights[id(node)] = None  # being weighed
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        flat = [part for pair in parts for part in pair] if isinstance(node, yaml.MappingNode) else parts
        weights[id(node)] = 1 + sum(_weigh(part, weights) for part in flat)
    weight = weights[id(node)]
    if weight is None or weight > _MOST_VALUES:
        raise ValueError("it contains itself" if weight is None else f"more than {_MOST_VALUES} values")
    return weight


def parse_yaml(text: str, *, source: str) -> Any:
    """Plain data from YAML; ``source`` names the text in errors."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _weigh(node, {})
        return loader.construct_document(node)
    except Exception as error:  # PyYAML's own, and whatever its constructors do with a value of the wrong kind
        raise ConfigError(f"{source}: not readable as YAML: {' '.join(str(error).split())}") from None


def read_file(path: Path) -> Flat:
    """One YAML file as a mapping, its bases not looked at."""
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"), source=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration {path} can't be read: {error}") from None
    content = {} if content is None else content
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise ConfigError(f"{path}: a configuration is a mapping of keys to values")
    return content


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> Flat:
    """Nested mappings merge; lists and scalars replace."""
    merged = dict(below)
    for name, value in above.items():
        before: Any = merged.get(name)
        nested = isinstance(value, Mapping) and isinstance(before, Mapping)
        merged[name] = merge(before, value) if nested else value
    return merged


def load_chain(path: Path) -> Flat:
    """A file over its bases: depth first, left to right; a file that this chain has loaded is not loaded again."""
    return _load_chain(path, loaded=set())


def _load_chain(path: Path, *, loaded: set[Path]) -> Flat:
    loaded.add(path.resolve())
    content = read_file(path)
    bases = content.get("base_config") or []
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) and is_word(base) for base in bases):
        raise ConfigError(f"{path}: base_config is a path or a list of paths")
    below: Flat = {}
    for base in bases:
        base_path = path.parent / base if base.startswith(".") else Path(base)
        if not base_path.is_file():
            raise ConfigError(f"configuration {base_path} doesn't exist (base_config of {path})")
        if base_path.resolve() not in loaded:
            below = merge(below, _load_chain(base_path, loaded=loaded))
    return merge(below, content)


def _split(text: str, separator: str) -> list[str]:
    """Split at separators that stand outside brackets and quotes."""
    parts, depth = [""], 0
    for piece in re.findall(r"\"[^\"]*\"|'[^']*'|.", text, re.DOTALL):
        depth += (piece in "[{") - (piece in "]}")
        if depth > _DEEPEST or piece in "\"'":
            break
        if piece == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += piece
    else:
        if depth == 0:
            return parts
    raise ConfigError(f"--hparams: a bracket or quote is not closed, or too many are open, in {_shown(text)}")


def _parse_value(text: str) -> Any:
    """A value of --hparams: YAML, or a list whose items are parted by spaces or commas: [64 64], ["a" "b"]."""
    text = text.strip()
    if text.startswith("[") and text.endswith("]"):
        return [_parse_value(item) for part in _split(text[1:-1], ",") for item in _split(part, " ") if item]
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    return parse_yaml(text, source=f"--hparams value {_shown(text)}") if text else ""


def parse_hparams(text: str) -> Flat:
    """`a=1,b.c=2,d=[1 1 1]` as nested mappings. Raises ConfigError for what is not key=value."""
    overrides: Flat = {}
    for part in filter(str.strip, _split(text, ",")):
        name, equals, value = part.partition("=")
        names = name.strip().split(".")
        if not equals or not all(names) or len(names) > _DEEPEST:
            raise ConfigError(f"--hparams: {_shown(part.strip())} is not key=value")
        nested: Any = _parse_value(value)
        for level in reversed(names):
            nested = {level: nested}
        overrides = merge(overrides, nested)
    return overrides


def _shown(value: Any) -> str:
    """A value in an error: a little of it, however long or deep it is."""
    try:
        return reprlib.repr(value)
    except ValueError:  # Python refuses to write numbers of thousands of digits
        return "a number of thousands of digits"


def settings_from(flat: Mapping[str, Any], *, source: str) -> Settings:
    """Typed settings from flat keys.

    Raises:
        ConfigError: names the source, the key, what it must be, and the nearest known key.
    """
    sections: dict[str, Flat] = {section: {} for section in SECTIONS}
    for name, value in flat.items():
        if name in KEYS:
            sections[KEYS[name][0]][name] = value
        elif name not in IGNORED and name != "backbone":
            near = difflib.get_close_matches(str(name)[:99], [*KEYS, "backbone"], n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"{source}: unknown key {_shown(name)}{meant}")
    made = {section: _validated(SECTIONS[section], values, source=source) for section, values in sections.items()}
    backbone = flat.get("backbone")
    if backbone is not None:
        if not isinstance(backbone, Mapping) or not all(isinstance(name, str) for name in backbone):
            raise ConfigError(f"{source}: backbone must be a mapping of keys to values")
        backbone = _validated(Model, backbone, source=f"{source}, backbone")
    return Settings(**made, backbone=backbone)


def _validated(section: Any, values: Mapping[str, Any], *, source: str) -> Any:
    try:
        return section(**values)
    except ValidationError as error:
        wrong = error.errors()[0]
        said = wrong["msg"]
        for theirs, ours in _WORDS.items():
            said = said.replace(theirs, ours)
        raise ConfigError(f"{source}: {wrong['loc'][0]} {said}, not {_shown(wrong['input'])}") from None


def flatten(settings: Settings) -> Flat:
    """All keys with their values, as they are saved and shown; keys that are not set (None) are left out."""
    flat: Flat = {}
    for section in SECTIONS:
        for name, value in dataclasses.asdict(getattr(settings, section)).items():
            if value is not None:
                flat[name] = list(value) if isinstance(value, tuple) else value
    if settings.backbone is not None:
        flat["backbone"] = dataclasses.asdict(settings.backbone)
    return flat


def to_yaml(flat: Flat) -> str:
    return yaml.safe_dump(flat, sort_keys=True, allow_unicode=True)


# Configurations of the reference implementation

_TASKS = {
    "tasks.rrdb.RRDBSatTask": "rrdb",
    "tasks.highresnet.HighResnet": "highresnet",
    "tasks.hr_ltae.MISR": "hr_ltae",
    "tasks.rrdb_ltae.RRDBLtae": "rrdb_ltae",
    "tasks.rrdb_highresnet_fusion.RRDBhighresnet": "rrdb_highresnet",
    "tasks.srdiff_sat.SRDiffSat": "srdiff",
}

# The flags of a diffusion configuration, in the order in which the reference implementation asks for them.
_CONDITIONERS = {
    "use_rrdb": "rrdb", "use_ltae": "hr_ltae", "use_highresnet": "highresnet", "use_rrdb_ltae": "rrdb_ltae"
}  # fmt: skip

# Keys that had no effect there. They keep having none when one of its configurations is loaded,
# also where ours has such a key.
WITHOUT_EFFECT = frozenset(
    """accumulate_grad_batches amp binary_data_dir check_val_every_n_epoch clip_grad_norm crop_size data_augmentation
    data_interp debug denoise_fn ds_workers endless gn_groups load_ckpt max_epochs num_sanity_val_steps num_workers
    patch_size pred_noise print_arch print_nan_grads resume_from_checkpoint save_best save_codes seed
    show_training_process style_interp tb_log_interval test_crop_size test_input_dir test_thresh_size thresh_size
    valid_monitor_key valid_monitor_mode valid_steps""".split()  # noqa: SIM905
)
_WIDTH_OF_HIGHRESNETS = 64  # whatever hidden_size and num_block say


def translate(flat: Flat, *, source: str) -> Flat:
    """A configuration in our keys; those of the reference implementation name a class by its dotted path.

    Raises:
        ConfigError: ``source`` names a class that is not one of its tasks.
    """
    reference_class = flat.get("trainer_cls")
    if not isinstance(reference_class, str) or "." not in reference_class:
        return flat
    if reference_class not in _TASKS:
        raise ConfigError(f"{source}: trainer_cls {reference_class!r} is not known; known: {', '.join(_TASKS)}")
    task = _TASKS[reference_class]
    is_highresnet = task in ("highresnet", "hr_ltae")
    without_effect = WITHOUT_EFFECT | ({"hidden_size", "num_block"} if is_highresnet else set())
    ours = {name: value for name, value in flat.items() if name not in without_effect and name not in _CONDITIONERS}
    ours["trainer_cls"] = task
    ours["output_clamp"] = "hard"  # the clamp acts in training there, and its experiments go on as they began
    if is_highresnet:
        ours["hidden_size"] = _WIDTH_OF_HIGHRESNETS
    if task == "srdiff":
        name = next((backbone for flag, backbone in _CONDITIONERS.items() if flat.get(flag)), "none")
        # The conditioner as the configuration describes it: its own experiment is not asked any more.
        described = {"trainer_cls": "bicubic" if name == "none" else name, "output_clamp": "hard"}
        reference_image = ours.pop("misr_ref_image", "median")
        if name in ("rrdb", "rrdb_ltae"):
            described |= {"hidden_size": ours.get("rrdb_num_feat", 64), "num_block": ours.get("rrdb_num_block", 17)}
        elif name == "hr_ltae":
            described |= {"misr_ref_image": reference_image}
        ours |= {"conditioner": name, "backbone": described}
    if unused := sorted(set(flat) & without_effect):
        logger.info("%s: keys of the reference implementation without effect: %s", source, ", ".join(unused))
    return ours
