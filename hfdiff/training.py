"""Training: a configuration, a state, and a generator that yields after every optimizer step.

Everything random in step k (pictures, flips, styles, noise, times, dropout) is drawn for the whole batch by one
generator seeded with (seed, k); processes and micro-batches take their slices. So a resumed run, more accumulation or
another number of processes learns the same. (Model dropout is seeded for each micro-batch: there the split matters.)
"""

import copy
import importlib.util
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from diffusers.training_utils import EMAModel
from torch import Tensor

from hfdiff.core.errors import BadInput, TrainingFailed
from hfdiff.core.files import existing_folder, folder_to_write
from hfdiff.core.names import unknown
from hfdiff.core.seeds import seed_of
from hfdiff.data.augmentation import NUM_AUGMENTS, NUM_DRAWS, augment
from hfdiff.data.columns import Reading
from hfdiff.data.styles import apply_styles, draw_styles
from hfdiff.data.table import ImageTable, to_unit_range
from hfdiff.memory import Attempt, fitting_parts, is_out_of_memory, parts_after_failure
from hfdiff.models.learned_schedule import LearnedSchedule
from hfdiff.models.objectives import Noised, Objective, ObjectiveConfig, make_objective
from hfdiff.models.sizes import SIZES, Block
from hfdiff.models.unet import ClassStyleUNet2DModel, check_shape
from hfdiff.pipelines import UNSPECIFIED

Precision = Literal["auto", "no", "fp16", "bf16"]

SCHEDULE_LEARNING_RATE = 1e-2  # of a learned schedule, at the peak
MAX_SKIPPED_STEPS = 40  # fp16 halves its loss scale at each: from 65,536 to far below 1


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


def choose_precision(
    requested: Precision, device_type: str, capability: tuple[int, int] | None = None, cpu_has_bf16: bool = False
) -> tuple[Precision, str]:
    """The precision to train in ("no", "fp16" or "bf16") and the reason.

    A GPU below compute capability 8.0 (a T4 is 7.5) only emulates bf16, though torch calls it supported.
    """
    if requested == "fp16" and device_type == "cpu":
        raise BadInput("mixed_precision 'fp16' needs a GPU, and this run is on a CPU; valid here: auto, no, bf16")
    if requested != "auto":
        return requested, "as asked"
    if device_type == "cuda" and capability is not None:
        name = ".".join(map(str, capability))
        if capability >= (8, 0):
            return "bf16", f"compute capability {name} has bf16"
        return "fp16", f"compute capability {name} is below 8.0 and only emulates bf16"
    if device_type == "cpu" and cpu_has_bf16:
        return "bf16", "this CPU has bf16 instructions"
    if device_type == "cpu":
        return "no", "this CPU has no bf16 instructions"
    return "no", f"bf16 and fp16 are only taken when asked for on {device_type}"


def precision_of(requested: Precision, device: torch.device) -> tuple[Precision, str]:
    """`choose_precision` for a device of this machine; a launcher's own --mixed_precision counts where we say auto."""
    launcher = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if requested == "auto" and launcher in ("fp16", "bf16"):
        requested = "fp16" if launcher == "fp16" else "bf16"
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return choose_precision(
        requested, device.type, capability, bool(features.get("avx512_bf16") or features.get("amx_bf16"))
    )


def build_unet(config: TrainConfig, table: ImageTable) -> ClassStyleUNet2DModel:
    """A new UNet for this data: channels, size and classes come from the pictures."""
    config = with_shape(config)
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


@dataclass
class TrainState:
    """All that changes while training, and so all that a checkpoint holds, but for `parts`: a matter of the machine."""

    unet: torch.nn.Module  # as prepared by accelerate
    ema_unet: ClassStyleUNet2DModel  # the averaged weights as a model, refreshed by `averaged`
    ema: EMAModel
    optimizer: Any
    scaler: torch.amp.GradScaler | None
    learned: LearnedSchedule | None = None
    learned_optimizer: torch.optim.Optimizer | None = None
    step: int = 0
    best_score: float = math.inf  # of `config.best_by`, the lowest so far
    best_step: int = 0  # that it was reached at
    quality_n: int = 0  # samples that the quality is measured on; 0: not yet decided
    quality_seconds: float = 0.0  # spent on that
    quality_cost: float = 0.0  # seconds of a sample, a matter of the machine; 0: not yet known
    loss_sum: Tensor | float = 0.0  # over the steps since the last log point; on the device, to be read seldom
    loss_steps: int = 0
    seconds: float = 0.0  # spent training, earlier launches included
    decays_by_time: bool | None = None  # max_minutes ends the run before max_train_images; None: not yet known
    parts: int = 1  # micro-batches that a process takes its share of a step in

    def averaged(self) -> ClassStyleUNet2DModel:
        """The UNet with the averaged weights; the weights in training are not touched."""
        self.ema.copy_to(self.ema_unet.parameters())
        return self.ema_unet.eval()

    def tensors(self, accelerator: Accelerator) -> dict[str, dict[str, Tensor]]:
        """Weights, averaged weights and optimizer moments by name, in groups; two more for a learned schedule."""
        model = accelerator.unwrap_model(self.unet)
        names = [name for name, _ in model.named_parameters()]
        groups = {
            "unet": dict(model.state_dict()),
            "ema": dict(zip(names, self.ema.shadow_params)),
            "optimizer": get_moments(self.optimizer, names),
        }
        if self.learned is not None:
            groups["schedule"] = dict(self.learned.state_dict())
            groups["schedule_optimizer"] = get_moments(self.learned_optimizer, list(groups["schedule"]))
        return groups

    def numbers(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "best_score": self.best_score if math.isfinite(self.best_score) else None,
            "best_step": self.best_step,
            "quality_n": self.quality_n,
            "quality_seconds": self.quality_seconds,
            "loss_sum": float(self.loss_sum),
            "loss_steps": self.loss_steps,
            "seconds": self.seconds,
            "decays_by_time": self.decays_by_time,
            "ema_step": self.ema.optimization_step,
            "scaler": self.scaler.state_dict() if self.scaler else None,
        }

    def load(self, tensors: dict[str, dict[str, Tensor]], numbers: dict[str, Any], accelerator: Accelerator) -> None:
        """Take over what `tensors` and `numbers` gave."""
        model = accelerator.unwrap_model(self.unet)
        model.load_state_dict(tensors["unet"])
        names = [name for name, _ in model.named_parameters()]
        for shadow, name in zip(self.ema.shadow_params, names):
            shadow.copy_(tensors["ema"][name])
        set_moments(self.optimizer, names, tensors["optimizer"])
        if self.learned is not None:
            self.learned.load_state_dict(tensors["schedule"])
            set_moments(self.learned_optimizer, list(self.learned.state_dict()), tensors["schedule_optimizer"])
        self.ema.optimization_step = numbers["ema_step"]
        self.step = numbers["step"]
        self.best_score = math.inf if numbers["best_score"] is None else numbers["best_score"]
        self.best_step = numbers.get("best_step", 0)  # absent in older checkpoints
        self.quality_n, self.quality_seconds = numbers["quality_n"], numbers["quality_seconds"]
        self.loss_sum, self.loss_steps = numbers["loss_sum"], numbers["loss_steps"]
        self.seconds = numbers["seconds"]
        self.decays_by_time = numbers["decays_by_time"]
        if self.scaler and numbers["scaler"]:
            self.scaler.load_state_dict(numbers["scaler"])


def get_moments(optimizer: Any, names: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of an optimizer as NAME/MOMENT, the names in the order of its parameters."""
    states = optimizer.state_dict()["state"]
    return {f"{names[i]}/{key}": value for i, state in states.items() for key, value in state.items()}


def set_moments(optimizer: Any, names: Sequence[str], tensors: dict[str, Tensor]) -> None:
    """Take over what `get_moments` gave."""
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, moment = key.rsplit("/", 1)
        states.setdefault(names.index(name), {})[moment] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})


def make_state(
    config: TrainConfig,
    unet: ClassStyleUNet2DModel,
    accelerator: Accelerator,
    learned: LearnedSchedule | None = None,
) -> TrainState:
    """Optimizer, averaged weights and scaler around a UNet, and an optimizer for a schedule that is learned."""
    unet = unet.to(accelerator.device).train()
    # A power-function average (Karras et al. 2024, https://arxiv.org/abs/2312.02696, Equation 127): its mean age grows
    # in proportion to the run; diffusers' warm-up with power 1 is that average.
    ema = EMAModel(
        unet.parameters(), decay=1.0, use_ema_warmup=True, inv_gamma=1 / config.ema_share - 1, power=1.0, foreach=True
    )
    optimizer = torch.optim.AdamW(
        unet.parameters(),
        lr=config.learning_rate,
        betas=(0.9, config.adam_beta2),
        weight_decay=config.weight_decay,
        fused=True,
    )
    ema_unet = copy.deepcopy(unet).requires_grad_(False)
    prepared, optimizer = accelerator.prepare(unet, optimizer)
    parts = config.gradient_accumulation_steps
    state = TrainState(prepared, ema_unet, ema, optimizer, accelerator.scaler, parts=parts)
    if learned is not None:
        state.learned = learned.to(accelerator.device)
        state.learned_optimizer = torch.optim.Adam(learned.parameters(), lr=SCHEDULE_LEARNING_RATE)
    return state


def lr_factor(config: TrainConfig, images: int, seconds: float = 0.0, decays_by_time: bool = False) -> float:
    """The learning rate after `images` images, as a share of its peak."""
    warmup = min(1.0, (images + config.batch_size) / max(config.lr_warmup_images, 1))
    left = max(0.0, 1 - images / (config.num_steps * config.batch_size))
    if config.lr_schedule == "cosine":
        decay = 0.5 * (1 - math.cos(math.pi * left))
    elif config.lr_schedule == "linear":
        decay = min(1.0, left / config.lr_decay_share) if config.lr_decay_share else 1.0
    elif config.lr_schedule == "step":
        decay = 0.1 ** sum(images >= share * config.num_steps * config.batch_size for share in (0.6, 0.85))
    else:
        decay = 1.0
    if decays_by_time and config.max_minutes and config.lr_decay_share:
        time_left = max(0.0, 1 - seconds / (60 * config.max_minutes))
        decay = min(decay, time_left / config.lr_decay_share)
    return warmup * decay


@dataclass(frozen=True)
class Draw:
    """The random choices of one batch; index it with a slice for the share of a process or micro-batch."""

    rows: Tensor  # (B,) int64, which pictures
    mirrored: Tensor  # (B,) bool
    strengths: Tensor  # (B, S) of the styles of the table
    augments: Tensor  # (B, A) uniform, for `augment`
    times: Tensor  # (B,) uniform
    tells_class: Tensor  # (B,) bool
    tells_styles: Tensor  # (B,) bool
    noise: Tensor  # (B, C, H, W) float32, on the device; all else is on the CPU

    def __getitem__(self, part: slice) -> "Draw":
        return Draw(**{name: value[part] for name, value in vars(self).items()})


def draw_batch(config: TrainConfig, table: ImageTable, batch_size: int, step: int | str, device: torch.device) -> Draw:
    """All random choices of one optimizer step, a function of (config.seed, step)."""
    generator = torch.Generator().manual_seed(seed_of(config.seed, step))
    on_device = torch.Generator(device).manual_seed(seed_of(config.seed, step, "noise"))

    def uniform(*shape: int) -> Tensor:
        return torch.rand((batch_size, *shape), generator=generator)

    rows = torch.randint(len(table), (batch_size,), generator=generator)
    mirrored = (uniform() < 0.5) & config.flip
    strengths = draw_styles(batch_size, config.styles, config.style_share, generator)
    augments = uniform(NUM_DRAWS)
    times = uniform()
    if config.stratified:
        times = (torch.randperm(batch_size, generator=generator) + times) / batch_size
    dropped = uniform()
    both = config.drop_both
    class_alone = both + config.drop_class
    style_alone = class_alone + config.drop_style
    tells_class = dropped >= class_alone
    tells_styles = (dropped >= both) & (dropped < class_alone) | (dropped >= style_alone)
    noise = torch.randn((batch_size, *table.pixels.shape[1:]), generator=on_device, device=device)
    return Draw(rows, mirrored, strengths, augments, times, tells_class, tells_styles, noise)


@dataclass(frozen=True)
class Inputs:
    """What one forward and its loss need."""

    noised: Noised
    conditions: dict[str, Tensor | None]  # keyword arguments of the UNet


def make_inputs(config: TrainConfig, table: ImageTable, objective: Objective, draw: Draw) -> Inputs:
    """Pictures with their styles, noised, and the conditions that the model is told; all in float32."""
    device = draw.noise.device
    rows = draw.rows.to(table.pixels.device)
    pixels = to_unit_range(table.pixels[rows].to(device))
    if config.flip:
        pixels = torch.where(draw.mirrored.to(device).reshape(-1, 1, 1, 1), pixels.flip(-1), pixels)
    pixels = apply_styles(pixels, draw.strengths, config.styles)
    augment_labels = None
    if config.augment:
        pixels, augment_labels = augment(pixels, draw.augments.to(device), config.augment)
    noised = objective.noise(pixels * 2 - 1, draw.noise, objective.quantile(draw.times.to(device)))
    labels = table.labels[rows].to(device).where(draw.tells_class.to(device), len(table.class_names))
    weights = torch.cat([table.style_weights[rows].to(device), draw.strengths.to(device)], dim=1)
    weights = weights.where(draw.tells_styles.to(device)[:, None], UNSPECIFIED)
    conditions = {
        "class_labels": labels,
        "style_weights": weights if weights.shape[1] else None,
        "augment_labels": augment_labels,
    }
    return Inputs(noised, conditions)


@dataclass(frozen=True)
class Step:
    """What one optimizer step did."""

    step: int  # steps done, this one included
    images: int  # training images seen
    loss: Tensor  # scalar on the device, the mean over the batch; read it seldom
    learning_rate: float
    data_seconds: float  # spent preparing the batch


def train(
    config: TrainConfig, table: ImageTable, state: TrainState, objective: Objective, accelerator: Accelerator
) -> Iterator[Step]:
    """Train from the state's step to the end of the run; yields after every optimizer step, the state up to date.

    A step whose fp16 gradients overflowed is taken again at a lower loss scale, one that ran out of memory in more
    micro-batches; nothing else moves meanwhile.
    """
    share = config.batch_size // accelerator.num_processes
    state.parts = fitting_parts(
        state.parts, share, _attempt(config, table, state, objective, accelerator), state.optimizer, accelerator
    )
    started = time.monotonic() - state.seconds
    skipped = 0
    while state.step < config.num_steps and not _out_of_time(config, state):
        images = state.step * config.batch_size
        learning_rate = config.learning_rate * lr_factor(config, images, state.seconds, bool(state.decays_by_time))
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate
        done = _gradients(config, table, state, objective, accelerator)
        if done is None:
            state.parts = parts_after_failure(state.parts, share, state.optimizer, accelerator)
            continue
        loss, data_seconds = done
        accelerator.unscale_gradients()
        torch.nn.utils.clip_grad_norm_(state.unet.parameters(), config.max_grad_norm, foreach=True)
        moved = _optimizer_step(state)
        loss = accelerator.reduce(loss, "mean")
        if not moved:
            skipped += 1
            if skipped > MAX_SKIPPED_STEPS or not torch.isfinite(loss):
                raise TrainingFailed(
                    f"step {state.step + 1}: loss {loss.item()}, gradients not finite at any loss scale"
                )
            continue
        skipped = 0
        state.seconds = _agreed(time.monotonic() - started, config, accelerator)
        if state.learned is not None:
            _learn_schedule(state, learning_rate / config.learning_rate, accelerator)
        state.step += 1
        state.loss_sum += loss
        state.loss_steps += 1
        _average(state.ema, accelerator.unwrap_model(state.unet))
        state.decays_by_time = _decays_by_time(config, state)
        yield Step(state.step, state.step * config.batch_size, loss, learning_rate, data_seconds)


def _gradients(
    config: TrainConfig, table: ImageTable, state: TrainState, objective: Objective, accelerator: Accelerator
) -> tuple[Tensor, float] | None:
    """Leave a step's gradients in the UNet; this process's loss, and the seconds spent on data. None: out of memory."""
    rows = config.batch_size // (state.parts * accelerator.num_processes)
    data_seconds, loss = 0.0, torch.zeros((), device=accelerator.device)
    tick = time.perf_counter()
    if state.learned_optimizer is not None:
        state.learned_optimizer.zero_grad()  # what a step that was not taken left
    try:
        draw = draw_batch(config, table, config.batch_size, state.step, accelerator.device)
        for part in range(state.parts):
            start = (part * accelerator.num_processes + accelerator.process_index) * rows
            inputs = make_inputs(config, table, objective, draw[start : start + rows])
            data_seconds += time.perf_counter() - tick
            if config.dropout:
                torch.manual_seed(seed_of(config.seed, state.step, start))
            last = part == state.parts - 1
            with nullcontext() if last else accelerator.no_sync(state.unet):
                errors = errors_of(state.unet, inputs, accelerator)
                part_loss = (inputs.noised.weight * errors).mean() / state.parts
                accelerator.backward(part_loss)
            loss += part_loss.detach()
            if state.learned is not None:
                scale = state.scaler.get_scale() if state.scaler else 1.0
                objective.learn(inputs.noised, errors.detach(), scale / (rows * state.parts), 1 / state.parts)
            tick = time.perf_counter()
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if accelerator.num_processes > 1:  # the others wait for these gradients, and cannot be told
            raise TrainingFailed(
                f"step {state.step + 1}: out of memory with micro-batches of {rows} pictures; "
                f"raise gradient_accumulation_steps above {state.parts}"
            ) from error
        return None
    return loss, data_seconds


def _attempt(
    config: TrainConfig, table: ImageTable, state: TrainState, objective: Objective, accelerator: Accelerator
) -> Attempt:
    """Forward and backward on the first pictures of the next step, in this process alone."""
    unet = accelerator.unwrap_model(state.unet)
    draw = draw_batch(config, table, config.batch_size, state.step, accelerator.device)

    def attempt(rows: int) -> None:
        loss_of(unet, make_inputs(config, table, objective, draw[:rows]), accelerator).backward()

    return attempt


@torch.no_grad()
def _average(ema: EMAModel, unet: torch.nn.Module) -> None:
    """`ema.step` in one pass over the weights, where the library's takes three."""
    ema.optimization_step += 1
    weight = 1 - ema.get_decay(ema.optimization_step)
    torch._foreach_lerp_(ema.shadow_params, list(unet.parameters()), weight)


def _optimizer_step(state: TrainState) -> bool:
    """Take a step; False where the gradients overflowed and the optimizer left the weights alone.

    Accelerate's `step_was_skipped` does not see it: a fused optimizer is called all the same and skips inside.
    """
    before = state.scaler.get_scale() if state.scaler else 0.0
    state.optimizer.step()
    state.optimizer.zero_grad()
    return state.scaler is None or state.scaler.get_scale() >= before


def _learn_schedule(state: TrainState, factor: float, accelerator: Accelerator) -> None:
    """A step of the learned schedule, which all processes take alike."""
    assert state.learned is not None
    assert state.learned_optimizer is not None
    for weight in state.learned.parameters():
        weight.grad = accelerator.reduce(weight.grad, "mean")
    for group in state.learned_optimizer.param_groups:
        group["lr"] = SCHEDULE_LEARNING_RATE * factor
    state.learned_optimizer.step()


def errors_of(unet: torch.nn.Module, inputs: Inputs, accelerator: Accelerator) -> Tensor:
    """Mean squared error of each picture (B,) in float32; only the UNet runs in the autocast precision."""
    noised = inputs.noised
    with accelerator.autocast():
        prediction = unet(noised.sample, noised.timestep, return_dict=False, **inputs.conditions)[0]
    return (prediction.float() - noised.target).square().flatten(1).mean(dim=1)


def loss_of(unet: torch.nn.Module, inputs: Inputs, accelerator: Accelerator) -> Tensor:
    """The weighted mean of `errors_of`."""
    return (inputs.noised.weight * errors_of(unet, inputs, accelerator)).mean()


def check_finite(state: TrainState, loss: Tensor) -> None:
    """TrainingFailed if the loss or a weight is not finite: nothing may be saved then."""
    if not torch.isfinite(loss):
        raise TrainingFailed(f"step {state.step}: the loss is {loss.item()}; nothing of it is saved")
    schedule = () if state.learned is None else state.learned.parameters()
    weights = [*state.unet.parameters(), *state.ema.shadow_params, *schedule]
    if not torch.isfinite(torch.nn.utils.get_total_norm(weights)):
        raise TrainingFailed(f"step {state.step}: the weights are not finite; nothing of them is saved")


def _out_of_time(config: TrainConfig, state: TrainState) -> bool:
    return config.max_minutes is not None and state.seconds >= 60 * config.max_minutes


def is_finished(config: TrainConfig, state: TrainState) -> bool:
    return state.step >= config.num_steps or _out_of_time(config, state)


def _agreed(seconds: float, config: TrainConfig, accelerator: Accelerator) -> float:
    """The first process's clock, where it decides anything."""
    if config.max_minutes is None or accelerator.num_processes == 1:
        return seconds
    return broadcast(torch.tensor(seconds, device=accelerator.device)).item()


def _decays_by_time(config: TrainConfig, state: TrainState) -> bool | None:
    """Decided once, when the time left is that of the decay: will the clock end the run before the images do?"""
    if config.max_minutes is None or state.decays_by_time is not None:
        return state.decays_by_time
    total = 60 * config.max_minutes
    if state.seconds < (1 - config.lr_decay_share) * total:
        return None
    return state.step * total / state.seconds < config.num_steps


@torch.no_grad()
def validate(
    config: TrainConfig, table: ImageTable, state: TrainState, objective: Objective, accelerator: Accelerator
) -> float:
    """Loss of the averaged weights on the validation pictures (at most 1,000), with fixed noise, times and styles.

    Every condition is told. The times are the mid-points of equal shares of the objective's distribution. Where the
    schedule is learned, it is the loss of the variational bound, which moves only with the model.
    """
    unet = state.averaged()
    count = min(1000, len(table))
    told = replace(config, drop_class=0.0, drop_style=0.0, drop_both=0.0, flip=False, augment=0.0, seed=0)
    draw = draw_batch(told, table, count, "validation", accelerator.device)
    order = torch.linspace(0, len(table) - 1, count).round().long()
    times = (draw.times.argsort() + 0.5) / count
    draw = replace(draw, rows=order, times=times)
    chunk = max(1, config.batch_size // (state.parts * accelerator.num_processes))
    total = 0.0
    starts = range(0, count, chunk)
    for start in starts[accelerator.process_index :: accelerator.num_processes]:
        part = draw[start : min(start + chunk, count)]
        inputs = make_inputs(told, table, objective, part)
        weight = inputs.noised.weight if state.learned is None else objective.bound_weight(inputs.noised.timestep)
        total += (weight * errors_of(unet, inputs, accelerator)).sum().item()
    return accelerator.reduce(torch.tensor(total, device=accelerator.device)).item() / count
