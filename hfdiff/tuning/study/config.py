"""What a study is: a base, what is varied, an equal budget for every run, and how samples are judged."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from hfdiff.core.config import from_mapping, read_yaml
from hfdiff.core.errors import BadInput, check_range
from hfdiff.core.files import at_home
from hfdiff.core.names import unknown
from hfdiff.core.threads import cores
from hfdiff.data.config import DatasetConfig
from hfdiff.training.checks import check_config
from hfdiff.training.config import TrainConfig

BASE = "base"
MOST_VARIANTS, LONGEST_NAME = 1000, 100
# The study's budget -> the key of training that it sets.
BUDGETS = {"images": "max_train_images", "cpu_minutes": "max_cpu_minutes", "minutes": "max_minutes"}
# What the study gives each run itself, or what a run of a study has no use for.
OWN_KEYS = {
    *BUDGETS.values(),
    *"output_dir seed resume choose_settings push_to_hub hub_model_id hub_private_repo".split(),
}
# What all runs of a study share, since one reference judges them.
SHARED_KEYS = {field.name for field in fields(DatasetConfig)}
KEYS = {field.name for field in fields(TrainConfig)} - OWN_KEYS


@dataclass(frozen=True)
class StudyConfig:
    """The keys of a study's file. One of images, cpu_minutes and minutes is the budget."""

    config: str | None = None
    """YAML file of the base's training configuration, relative to the study's file; by default training's defaults."""
    base: dict[str, Any] = field(default_factory=dict)
    """Keys of training that override it."""
    factors: dict[str, Any] = field(default_factory=dict)
    """KEY: [values], or NAME: {option: {key: value, ...}, ...}."""
    design: Literal["one_at_a_time", "crossed"] = "one_at_a_time"
    """Each option alone against the base, or all combinations of one option from each factor."""
    images: int | None = None
    """Training images that each run sees."""
    cpu_minutes: float | None = None
    """Processor time of each run: fair where others share the cores."""
    minutes: float | None = None
    """Time of each run by the clock."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each variant is trained with each; differences are taken between runs of one seed."""
    guidance_scale: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0)
    """Each variant is judged at its best of these, of class and style alike."""
    num_images: int = 1000
    """Plain samples for each guidance scale."""
    num_styled: int = 0
    """Samples in styles, for style_fidelity."""
    at_once: int = 1
    """Runs at the same time, each with its share of the cores."""
    halving: int | None = None
    """Successive halving: every variant gets a share of the budget, one in so many goes on to so many times more."""


@dataclass(frozen=True)
class Variant:
    """What is tried: the base with other values."""

    name: str
    options: Mapping[str, str]  # factor -> option; empty: the base
    changes: Mapping[str, Any]  # key of training -> value, as YAML gives it


@dataclass(frozen=True)
class Study:
    """A study's file, read and checked."""

    config: StudyConfig
    base: Mapping[str, Any]  # keys of training, as YAML gives them
    variants: tuple[Variant, ...]  # the base first
    home: Path  # where its runs lie

    def training(self, variant: Variant, share: float = 1.0) -> TrainConfig:
        """The configuration of a variant's runs, with this share of the budget; BadInput for values that cannot be."""
        config = from_mapping(TrainConfig, {**self.base, **variant.changes}, f"variant {variant.name!r}")
        name, budget = budget_of(self.config)
        limits: dict[str, Any] = {"max_train_images": 10**9, "max_cpu_minutes": None, "max_minutes": None}
        limits[BUDGETS[name]] = max(1, round(budget * share)) if name == "images" else budget * share
        return replace(config, choose_settings=False, output_dir=str(self.home / "runs"), **limits)


def read_study(file: Path, home: Path) -> Study:
    """The study of a file, whose runs will lie in `home`; BadInput names whatever is wrong."""
    config = from_mapping(StudyConfig, read_yaml(file), str(file))
    check(config, str(file))
    base = read_yaml(file.parent / at_home(config.config)) if config.config else {}
    for key in config.base:
        check_key(key, "base")
    base = {key: value for key, value in {**base, **config.base}.items() if key not in OWN_KEYS}
    study = distinct(Study(config, base, (Variant(BASE, {}, {}), *variants_of(config)), home))
    for variant in study.variants:
        try:
            training = study.training(variant)
            if training.lr_schedule in ("cosine", "step") and config.images is None:
                raise BadInput(f"lr_schedule {training.lr_schedule} goes by images; give the budget in images")
            check_config(training)
        except BadInput as error:
            raise BadInput(f"variant {variant.name!r}: {error}") from error
    return study


def distinct(study: Study) -> Study:
    """Without the variants that are the base, or one before them, in other words; BadInput where none is left."""
    kept: dict[TrainConfig, Variant] = {}
    for variant in study.variants:
        kept.setdefault(study.training(variant), variant)
    variants = tuple(kept.values())
    names = [variant.name for variant in variants]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadInput(f"two variants are called {twice[0]!r}; valid: factors and options whose names differ")
    if len(variants) == 1:
        raise BadInput("every option of the factors is what the base has; valid: one that differs")
    return replace(study, variants=variants)


def check(config: StudyConfig, where: str) -> None:
    """BadInput for values that no study can have."""
    budget_of(config)
    if not config.factors:
        raise BadInput(f"{where} has no factors; valid: factors: {{learning_rate: [1e-3, 2e-3]}}, for example")
    for name in ("seeds", "guidance_scale"):
        values = getattr(config, name)
        if not values or len(set(values)) < len(values):
            raise BadInput(f"{name} is {list(values)}; valid: at least one, each once")
    for seed in config.seeds:
        check_range("seeds", seed, 0, 2**63 - 1)
    for scale in config.guidance_scale:
        check_range("guidance_scale", scale, 0, 1000)
    check_range("num_images", config.num_images, 1, 1_000_000)
    check_range("num_styled", config.num_styled, 0, 1_000_000)
    if not 1 <= config.at_once <= len(cores()):
        raise BadInput(f"at_once is {config.at_once}; valid: 1 to {len(cores())}, the cores that there are")
    if config.halving is not None:
        check_range("halving", config.halving, 2, 100)


def budget_of(config: StudyConfig) -> tuple[str, float]:
    """The name of the budget that is given, and its amount."""
    given = {name: getattr(config, name) for name in BUDGETS if getattr(config, name) is not None}
    if len(given) != 1:
        raise BadInput(f"a study's budget is {', '.join(given) or 'not given'}; valid: one of {', '.join(BUDGETS)}")
    [(name, amount)] = given.items()
    check_range(name, amount, 1 if name == "images" else 1e-3, 1e12)
    return name, amount


def variants_of(config: StudyConfig) -> Iterator[Variant]:
    """Each option alone, or all combinations."""
    factors = named("factors", [(name, options_of(name, given)) for name, given in config.factors.items()])
    if config.design == "one_at_a_time":
        combinations: Any = ([(name, option)] for name, options in factors.items() for option in options)
    elif (count := math.prod(map(len, factors.values()))) > MOST_VARIANTS:
        raise BadInput(f"all combinations are {count:,} variants; valid: at most {MOST_VARIANTS:,}")
    else:
        combinations = itertools.product(*([(name, option) for option in options] for name, options in factors.items()))
    for chosen in combinations:
        changes: dict[str, Any] = {}
        for name, option in chosen:
            if twice := changes.keys() & factors[name][option].keys():
                raise BadInput(f"factor {name!r} sets {', '.join(sorted(twice))}, which another factor of it sets")
            changes |= factors[name][option]
        yield Variant(", ".join(f"{name}={option}" for name, option in chosen), dict(chosen), changes)


def options_of(name: str, given: Any) -> dict[str, dict[str, Any]]:
    """Option -> the keys that it sets; BadInput for a factor that varies nothing, or what cannot be varied."""
    if not isinstance(given, list | dict) or not given:
        raise BadInput(f"factor {name!r} is {given!r}; valid: a list of values, or options with their keys")
    if isinstance(given, list):
        check_varied(name, f"factor {name!r}, a list,")
        return named(f"options of factor {name!r}", [(value, {name: value}) for value in given])
    for option, keys in given.items():
        if not isinstance(keys, dict) or not keys:
            raise BadInput(f"option {option!r} of factor {name!r} is {keys!r}; valid: keys of training with values")
        for key in keys:
            check_varied(key, f"option {option!r} of factor {name!r}")
    return named(f"options of factor {name!r}", [(option, dict(keys)) for option, keys in given.items()])


def named(what: str, given: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
    """By names on one line each, as they stand in tables, comments and folders; BadInput for two that are then one."""
    found = {" ".join(str(name).split()): value for name, value in given}
    if long := [name for name in found if len(name) > LONGEST_NAME]:
        raise BadInput(f"a name has {len(long[0]):,} characters: {long[0][:50]}...; valid: at most {LONGEST_NAME}")
    if len(found) < len(given):
        raise BadInput(f"two {what} have one name; valid: names that differ")
    return found


def check_key(key: str, where: str) -> None:
    if key in OWN_KEYS:
        raise BadInput(f"{where} sets {key}, which a study sets itself")
    if key not in KEYS:
        raise unknown(f"key of training in {where}", key, sorted(KEYS))


def check_varied(key: str, where: str) -> None:
    check_key(key, where)
    if key in SHARED_KEYS:
        raise BadInput(f"{where} sets {key}; all runs of a study are judged by the same images, which base names")


def rungs(config: StudyConfig, num_variants: int) -> list[tuple[float, int]]:
    """(share of the budget, variants beside the base that are trained with it), the whole budget last.

    Successive halving (Jamieson & Talwalkar 2016, https://arxiv.org/abs/1502.07943, Algorithm 1), each rung trained
    anew: warm-up, decay and EMA follow a run's length.
    """
    if config.halving is None:
        return [(1.0, num_variants)]
    counts = [num_variants]
    while counts[-1] > 1:
        counts.append(math.ceil(counts[-1] / config.halving))
    return [(config.halving ** (i + 1.0 - len(counts)), count) for i, count in enumerate(counts)]
