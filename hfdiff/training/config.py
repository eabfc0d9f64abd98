"""What a run is: the configuration, its ranges, and what a resumed run may change."""

import importlib.util
import math
from dataclasses import dataclass, replace
from typing import Literal

from hfdiff.core.errors import BadInput
from hfdiff.core.files import existing_folder, folder_to_write
from hfdiff.core.names import unknown
from hfdiff.data.columns import Reading
from hfdiff.models.objectives import ObjectiveConfig, make_objective
from hfdiff.models.sizes import SIZES, Block
from hfdiff.models.unet import check_shape

Precision = Literal["auto", "no", "fp16", "bf16"]


@dataclass(frozen=True)
class TrainConfig(ObjectiveConfig):
    """What a run is. Intervals and lengths are counted in training images and rounded up to a step."""

    dataset: str = "fashion_mnist_12k"
    """A data set of the table, a Hub id, or a folder of pictures."""
    output_dir: str = "runs/default"
    """Folder of the run; the same command again resumes it."""
    image_column: str | None = None
    """Column of the pictures, where the data has several."""
    label_column: str | None = None
    """Column of the classes, where the data has several."""
    style_columns: tuple[str, ...] = ()
    """Columns that give styles, where their types do not tell; "none" for none."""
    resolution: int | None = None
    """Resize all pictures to this many pixels a side."""

    styles: tuple[str, ...] = ("thick", "thin", "slanted")
    """Styles of the table to learn, beside those that the data names."""
    style_share: float = 0.5
    """Share of the training pictures that get a style."""
    flip: bool = False
    """Mirror half of the training pictures; samples will be mirrored too."""
    augment: float = 0.0
    """Probability of each change of the augmentation that the model is told, so that it stays out of the samples."""

    size: str = "small"
    """The model's shape, from tiny to large: tiny, small, base or large. Each of the next six keys overrides it."""
    block_out_channels: tuple[int, ...] | None = None
    """Width of each level of the UNet; by default the size's."""
    down_block_types: tuple[Block, ...] | None = None
    """diffusers' block of each level, as many as widths; the way up mirrors them. By default the size's."""
    layers_per_block: int | None = None
    norm_num_groups: int | None = None
    attention_head_dim: int | None = None
    patch_size: int | None = None
    """Fold pictures by this factor at the input: 1, 2 or 4; by default the size's."""
    dropout: float = 0.0
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    conditioning: Literal["add", "concat"] = "add"
    """How class and style embeddings join."""
    class_embedding: Literal["table", "one_hot_mlp"] = "table"
    skip_connections: bool = True
    """Show the way up of the UNet what the way down saw."""
    time_conditioning: bool = True
    """Tell the UNet the time; without, it sees time 0 always."""

    drop_class: float = 0.05
    """Share of the batch that is told the styles and not the class, for guidance."""
    drop_style: float = 0.1
    """Share that is told the class and not the styles."""
    drop_both: float = 0.1
    """Share that is told neither."""

    batch_size: int = 64
    """Images for each optimizer step, over all processes and micro-batches."""
    gradient_accumulation_steps: int = 1
    """Micro-batches that a step is taken in; more are taken where memory does not suffice. The result is the same."""
    gradient_checkpointing: bool = False
    """Compute activations again on the way back instead of keeping them: less memory, about a third more time."""
    max_train_images: int = 1_000_000
    max_minutes: float | None = None
    """End after this time, the learning rate brought down before."""
    learning_rate: float = 1e-3
    lr_schedule: Literal["constant", "cosine", "linear", "step"] = "linear"
    """linear: constant, then straight to zero over the last lr_decay_share of the run."""
    lr_warmup_images: int = 2_000
    lr_decay_share: float = 0.4
    weight_decay: float = 0.01
    adam_beta2: float = 0.99
    max_grad_norm: float = 1.0
    ema_share: float = 0.04
    """Mean age of the averaged weights, as a share of the run so far."""
    mixed_precision: Precision = "auto"
    seed: int = 0

    logging_images: int = 2_000
    validation_images: int = 50_000
    sample_images: int = 200_000
    """Interval of pictures with fixed noise, and of the judge's metrics where the data has a judge."""
    best_by: Literal["val_loss", "frechet_judge"] = "val_loss"
    """What decides which weights `pipeline/` holds: the validation loss, or the distance in the judge's features."""
    checkpointing_images: int = 100_000
    keep_checkpoints: int = 2
    init_from: str | None = None
    """Start from this trained model: a pipeline folder, a run's folder or a Hub id."""
    resume: Literal["auto", "never"] = "auto"
    report_to: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    push_to_hub: bool = False
    """Publish the model at the end; where the Hub fails, the same command tries again."""
    hub_model_id: str | None = None
    """OWNER/NAME on the Hub; by default your own, and the name of output_dir."""
    hub_private_repo: bool = True
    license: str = "apache-2.0"
    """Of the weights, as the Hub spells it; for the model's card."""

    @property
    def num_steps(self) -> int:
        return math.ceil(self.max_train_images / self.batch_size)

    @property
    def reading(self) -> Reading:
        return Reading(self.resolution, self.image_column, self.label_column, self.style_columns)


# What may differ when a run is resumed: how it is watched, where, and how long it goes on.
RESUMABLE_KEYS = frozenset(
    "output_dir max_train_images max_minutes logging_images validation_images sample_images checkpointing_images "
    "keep_checkpoints resume report_to push_to_hub hub_model_id hub_private_repo license".split()
)

# The keys of a configuration that a trained UNet decides.
SHAPE_KEYS = (
    "block_out_channels",
    "down_block_types",
    "layers_per_block",
    "norm_num_groups",
    "attention_head_dim",
    "patch_size",
    "resnet_time_scale_shift",
    "conditioning",
    "class_embedding",
    "skip_connections",
    "time_conditioning",
)

# Keys, and the least and the greatest value that each may have.
RANGES = (
    ("batch_size", 1, 10**6),
    ("gradient_accumulation_steps max_train_images keep_checkpoints", 1, 10**15),
    ("logging_images validation_images sample_images checkpointing_images", 1, 10**15),
    ("block_out_channels norm_num_groups attention_head_dim", 1, 8192),
    ("layers_per_block", 1, 16),
    ("resolution", 4, 1024),
    ("learning_rate", 1e-12, 10),
    ("max_grad_norm max_minutes", 1e-6, 1e9),
    ("lr_warmup_images", 0, 10**15),
    ("weight_decay", 0, 10),
    ("style_share augment drop_class drop_style drop_both dropout lr_decay_share", 0, 1),
    ("ema_share adam_beta2", 1e-6, 1 - 1e-6),
    ("flow_shift min_snr_gamma", 0.01, 1000),
    ("seed", 0, 2**63 - 1),
)


def check_config(config: TrainConfig, num_processes: int = 1) -> None:
    """BadInput for values that cannot work together, before any data is loaded."""
    for keys, low, high in RANGES:
        for key in keys.split():
            value = getattr(config, key)
            for number in value if isinstance(value, tuple) else (value,):
                if number is not None and not low <= number <= high:
                    raise BadInput(f"{key} is {value}; valid: {low} to {high}")
    if config.block_out_channels == ():
        raise BadInput("block_out_channels is empty; valid: the width of at least one level")
    shape = with_shape(config)
    widths, blocks = shape.block_out_channels or (), shape.down_block_types or ()
    attend = {width for width, block in zip(widths, blocks) if "Attn" in block} | {widths[-1]}  # the middle attends
    try:
        check_shape(widths, attend, shape.norm_num_groups or 0, shape.attention_head_dim, shape.patch_size or 0)
    except ValueError as error:
        raise BadInput(str(error)) from error
    if config.drop_class + config.drop_style + config.drop_both > 1:
        raise BadInput("drop_class, drop_style and drop_both add up to more than 1")
    parts = num_processes * config.gradient_accumulation_steps
    if config.batch_size % parts:
        raise BadInput(
            f"batch_size {config.batch_size} is not divisible by processes x gradient_accumulation_steps = "
            f"{num_processes} x {config.gradient_accumulation_steps}"
        )
    make_objective(config)
    check_outputs(config)


def check_outputs(config: TrainConfig) -> None:
    """BadInput where the run cannot be written, or the tracker that it is to report to is not installed."""
    folder, data_folder = folder_to_write(config.output_dir), existing_folder(config.dataset)
    if data_folder and folder.resolve().is_relative_to(data_folder.resolve()):
        raise BadInput(f"output_dir {folder} lies inside the data set {data_folder}; its pictures would become data")
    if config.report_to != "none" and importlib.util.find_spec(config.report_to) is None:
        raise BadInput(
            f"report_to {config.report_to!r} is not installed; pip install 'hfdiff[trackers]', or report_to none"
        )


def with_shape(config: TrainConfig) -> TrainConfig:
    """The configuration with the shape of its size wherever it leaves a key of the shape open."""
    if config.size not in SIZES:
        raise unknown("size", config.size, SIZES)
    preset = vars(SIZES[config.size])
    config = replace(config, **{key: value for key, value in preset.items() if getattr(config, key) is None})
    widths, blocks = config.block_out_channels or (), config.down_block_types or ()
    if len(widths) != len(blocks):
        raise BadInput(
            f"block_out_channels {list(widths)} and down_block_types {list(blocks)} differ in length "
            f"(size {config.size!r} gives what is not given); valid: one block for each width"
        )
    return config
