"""What a configuration must fulfil before any data is loaded, and what its open choices stand for."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace

import torch
from accelerate import PartialState

from hfdiff.core.errors import BadInput
from hfdiff.core.files import existing_folder, folder_to_write
from hfdiff.core.names import unknown
from hfdiff.models.objectives import make_objective
from hfdiff.models.sizes import SIZES
from hfdiff.models.unet import check_shape
from hfdiff.training.config import TrainConfig
from hfdiff.training.precision import precision_of

# Keys, and the least and the greatest value that each may have.
RANGES = (
    ("batch_size", 1, 10**6),
    ("gradient_accumulation_steps max_train_images keep_checkpoints", 1, 10**15),
    ("logging_images validation_images sample_images checkpointing_images", 1, 10**15),
    ("block_out_channels norm_num_groups attention_head_dim", 1, 8192),
    ("layers_per_block", 1, 16),
    ("resolution", 4, 1024),
    ("learning_rate", 1e-12, 10),
    ("max_grad_norm max_minutes max_cpu_minutes", 1e-6, 1e9),
    ("lr_warmup_images", 0, 10**15),
    ("weight_decay", 0, 10),
    ("style_share augment drop_class drop_style drop_both dropout lr_decay_share", 0, 1),
    ("ema_share adam_beta2", 1e-6, 1 - 1e-6),
    ("ema_profiles", 0.01, 0.25),
    ("guide_share", 0, 0.9),
    ("flow_shift min_snr_gamma", 0.01, 1000),
    ("seed", 0, 2**63 - 1),
)


def resolve_config(config: TrainConfig, log: Callable[[str], None] = lambda text: None) -> TrainConfig:
    """The configuration with the shape of its size, and the precision of this machine; BadInput for values that cannot
    work together."""
    process = PartialState(cpu=not torch.accelerator.is_available())
    config = check_config(config, process.num_processes)
    precision, reason = precision_of(config.mixed_precision, process.device)
    log(f"precision: {precision} ({reason}); device: {process.device}")
    return replace(config, mixed_precision=precision)


def check_config(config: TrainConfig, num_processes: int = 1) -> TrainConfig:
    """The configuration with the shape of its size; BadInput for values that cannot work together."""
    for keys, low, high in RANGES:
        for key in keys.split():
            value = getattr(config, key)
            for number in value if isinstance(value, tuple) else (value,):
                if number is not None and not low <= number <= high:
                    raise BadInput(f"{key} is {value}; valid: {low} to {high}")
    if config.block_out_channels == ():
        raise BadInput("block_out_channels is empty; valid: the width of at least one level")
    config = with_shape(config)
    widths, blocks = config.block_out_channels or (), config.down_block_types or ()
    attend = {width for width, block in zip(widths, blocks) if "Attn" in block} | {widths[-1]}  # the middle attends
    try:
        check_shape(widths, attend, config.norm_num_groups or 0, config.attention_head_dim, config.patch_size or 0)
    except ValueError as error:
        raise BadInput(str(error)) from error
    if None not in (config.max_minutes, config.max_cpu_minutes):
        raise BadInput(
            f"max_minutes {config.max_minutes:g} and max_cpu_minutes {config.max_cpu_minutes:g} exclude each other"
        )
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
    return config


def check_outputs(config: TrainConfig) -> None:
    """BadInput where the run cannot be written, or the tracker that it is to report to is not installed."""
    folder, data_folder = folder_to_write(config.output_dir), existing_folder(config.dataset)
    if data_folder and folder.resolve().is_relative_to(data_folder.resolve()):
        raise BadInput(f"output_dir {folder} lies inside the dataset {data_folder}; its images would become data")
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
