"""Initialise a run from a trained model: fine-tuning, for the user with three hundred images."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hfdiff.core.errors import BadInput
from hfdiff.data.table import ImageTable
from hfdiff.models.loading import load_pipeline
from hfdiff.models.objectives import make_objective, resolve_objective
from hfdiff.models.samplers import process_of
from hfdiff.models.unet import ClassStyleUNet2DModel
from hfdiff.pipelines import ClassStylePipeline, find_name
from hfdiff.training.build import build_unet
from hfdiff.training.config import SHAPE_KEYS, TrainConfig


def initialise_from(config: TrainConfig, table: ImageTable) -> tuple[TrainConfig, ClassStyleUNet2DModel]:
    """A UNet for `table` with the weights of `config.init_from`, and the configuration with that model's shape.

    Classes and styles are kept by name (case does not matter); a new class starts as "any class".
    """
    source = load_pipeline(str(config.init_from))
    check_init_from(source, config, table)
    saved = {key: source.unet.config[key] for key in SHAPE_KEYS}
    shape: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in saved.items()}
    config = replace(config, **shape)
    unet = build_unet(config, table)
    weights = unet.state_dict()
    classes = (source.class_names, table.class_names)
    styles = (source.style_names, (*table.style_names, *config.styles))
    for name, old in source.unet.state_dict().items():
        if name == "class_embed.weight":
            weights[name] = keep_rows(old, *classes, fresh=old[-1:])
        elif name == "class_embed.0.weight":
            weights[name] = keep_rows(old.T, *classes, fresh=old.T[-1:]).T
        elif name == "style_embed.0.weight" and name in weights:
            weights[name] = keep_rows(old.T, *styles, fresh=weights[name].T).T
        elif name in weights and weights[name].shape == old.shape:
            weights[name] = old
    unet.load_state_dict({name: value.contiguous() for name, value in weights.items()})
    return config, unet


def keep_rows(old: Tensor, old_names: Sequence[str], new_names: Sequence[str], fresh: Tensor) -> Tensor:
    """Rows (len(old_names) + 1, D) -> (len(new_names) + 1, D): by name where known, else from `fresh`; the last stays.

    `fresh` holds one row for all new names, or a row for each of them.
    """
    found = [find_name(name, old_names) for name in new_names]
    rows = [
        fresh[min(i, len(fresh) - 1)] if name is None else old[old_names.index(name)] for i, name in enumerate(found)
    ]
    return torch.stack([*rows, old[-1]])


def check_init_from(source: ClassStylePipeline, config: TrainConfig, table: ImageTable) -> None:
    """BadInput where the model makes images of another kind, or was trained for another objective."""
    kinds = {1: "grey", 3: "colour"}
    channels = source.unet.config.in_channels
    if channels != table.channels:
        raise BadInput(
            f"init_from {config.init_from}: it makes {kinds.get(channels, channels)} images, "
            f"the dataset {config.dataset!r} is {kinds[table.channels]}"
        )
    found, wanted = process_of(source.scheduler), make_objective(config).process()
    if found.prediction_type != wanted.prediction_type:
        raise BadInput(
            f"init_from {config.init_from}: its model predicts {found.prediction_type!r}, objective "
            f"{config.objective!r} {wanted.prediction_type!r}"
        )
    same = len(found.betas) == len(wanted.betas) and all(
        math.isclose(a, b, abs_tol=1e-5) for a, b in zip(found.betas, wanted.betas)
    )
    if not same:
        raise BadInput(
            f"init_from {config.init_from}: its noise schedule is another than the one that objective "
            f"{config.objective!r} has with schedule {resolve_objective(config).schedule!r}"
        )
