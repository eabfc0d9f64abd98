"""A new UNet, and the state around it."""

import copy

import torch
from accelerate import Accelerator

from hfdiff.core.errors import BadInput
from hfdiff.data.augmentation import NUM_AUGMENTS
from hfdiff.data.table import ImageTable
from hfdiff.models.learned_schedule import LearnedSchedule
from hfdiff.models.unet import ClassStyleUNet2DModel
from hfdiff.training.config import OptimisationConfig, TrainConfig
from hfdiff.training.ema import PowerEMA, gamma_of_age, gamma_of_width
from hfdiff.training.state import TrainState

SCHEDULE_LEARNING_RATE = 1e-2  # of a learned schedule, at the peak


def build_unet(config: TrainConfig, table: ImageTable) -> ClassStyleUNet2DModel:
    """A new UNet of a resolved configuration; channels, size, classes and styles come from the data."""
    blocks = config.down_block_types or ()
    torch.manual_seed(config.seed)
    try:
        unet = ClassStyleUNet2DModel(
            sample_size=table.size,
            in_channels=table.channels,
            out_channels=table.channels,
            block_out_channels=config.block_out_channels,
            down_block_types=blocks,
            up_block_types=tuple(name.replace("Down", "Up") for name in reversed(blocks)),
            layers_per_block=config.layers_per_block,
            norm_num_groups=config.norm_num_groups,
            attention_head_dim=config.attention_head_dim,
            dropout=config.dropout,
            patch_size=config.patch_size,
            resnet_time_scale_shift=config.resnet_time_scale_shift,
            conditioning=config.conditioning,
            class_embedding=config.class_embedding,
            skip_connections=config.skip_connections,
            time_conditioning=config.time_conditioning,
            num_classes=len(table.class_names),
            num_styles=len(table.style_names) + len(config.styles),
            num_augments=NUM_AUGMENTS if config.augment else 0,
        )
    except ValueError as error:
        raise BadInput(str(error)) from error
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    return unet


def make_state(
    config: OptimisationConfig,
    unet: ClassStyleUNet2DModel,
    accelerator: Accelerator,
    learned: LearnedSchedule | None = None,
) -> TrainState:
    """Optimizer, EMA weights and scaler around a UNet, and an optimizer for a schedule that is learned."""
    unet = unet.to(accelerator.device).train()
    ema = PowerEMA(unet.parameters(), gamma_of_age(config.ema_share))
    profiles = {width: PowerEMA(unet.parameters(), gamma_of_width(width)) for width in config.ema_profiles}
    optimizer = torch.optim.AdamW(
        unet.parameters(),
        lr=config.learning_rate,
        betas=(0.9, config.adam_beta2),
        weight_decay=config.weight_decay,
        fused=True,
    )
    ema_unet = copy.deepcopy(unet).requires_grad_(False)
    prepared, optimizer = accelerator.prepare(unet, optimizer)
    num_micro_batches = config.gradient_accumulation_steps
    state = TrainState(
        prepared, ema_unet, ema, profiles, optimizer, accelerator.scaler, num_micro_batches=num_micro_batches
    )
    if learned is not None:
        state.learned = learned.to(accelerator.device)
        state.learned_optimizer = torch.optim.Adam(learned.parameters(), lr=SCHEDULE_LEARNING_RATE)
    return state
