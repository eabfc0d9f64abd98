"""What a run is: five groups of keys that stand flat in a configuration file and on the command line.

A part takes the group that it reads. Free of heavy imports, as the command line starts with it.
"""

import math
from dataclasses import dataclass
from typing import Literal

from hfdiff.data.config import DataConfig
from hfdiff.models.config import ModelConfig, ObjectiveConfig

Precision = Literal["auto", "no", "fp16", "bf16"]


@dataclass(frozen=True)
class OptimisationConfig:
    """Steps, their length and their learning rate."""

    batch_size: int = 64
    """Images for each optimizer step, over all processes and micro-batches."""
    gradient_accumulation_steps: int = 1
    """Micro-batches of a step; more are taken where memory does not suffice, and the result is the same."""
    gradient_checkpointing: bool = False
    """Compute activations again on the way back instead of keeping them: less memory, about a third more time."""
    max_train_images: int = 1_000_000
    """Length of the run, in training images."""
    max_minutes: float | None = None
    """End after this time, the learning rate decayed before."""
    max_cpu_minutes: float | None = None
    """The same of processor time, all threads of the first process together: fair where others share the cores."""
    learning_rate: float = 1e-3
    """Of AdamW, at its peak."""
    lr_schedule: Literal["constant", "cosine", "linear", "step"] = "linear"
    """linear: constant, then straight to zero over the last lr_decay_share of the run."""
    lr_warmup_images: int = 2_000
    """Images over which the learning rate rises."""
    lr_decay_share: float = 0.4
    """Share of the run in which linear decays."""
    weight_decay: float = 0.01
    """Of AdamW."""
    adam_beta2: float = 0.99
    """Decay of AdamW's second moment."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    ema_share: float = 0.04
    """Mean age of the EMA weights, as a share of the run so far."""
    ema_profiles: tuple[float, ...] = ()
    """Keep snapshots of EMAs of these lengths too (sigma_rel: 0.05 0.1), of which `hfdiff ema` makes any other."""
    guide_share: float = 0.0
    """Keep the EMA weights of this share of the run (0.06; by images or the clock) as guide_unet for autoguidance."""
    mixed_precision: Precision = "auto"
    """auto: bf16 where the hardware has it, else fp16 on a GPU; no: float32."""
    seed: int = 0
    """Of everything random in the run."""

    @property
    def num_steps(self) -> int:
        return math.ceil(self.max_train_images / self.batch_size)


@dataclass(frozen=True)
class RunConfig:
    """Where a run is kept, what it starts from, and how it is watched; intervals in training images."""

    output_dir: str = "runs/default"
    """Folder of the run; the same command again resumes it."""
    logging_images: int = 2_000
    """Interval of lines in metrics.jsonl."""
    validation_images: int = 50_000
    """Interval of the validation loss."""
    sample_images: int = 200_000
    """Interval of samples with fixed noise, and of the judge's metrics where the data has a judge."""
    best_by: Literal["val_loss", "frechet_judge"] = "val_loss"
    """What decides which weights `pipeline/` holds: the validation loss, or the distance in the judge's features."""
    checkpointing_images: int = 100_000
    """Interval of checkpoints."""
    keep_checkpoints: int = 2
    """Checkpoints that are kept."""
    choose_settings: bool = True
    """At the end, search in a tenth of the training time for the guidance, sampler and steps that the model keeps."""
    init_from: str | None = None
    """Fine-tune from this trained model: a pipeline folder, a run's folder or a Hub id."""
    resume: Literal["auto", "never"] = "auto"
    """never: refuse a folder that holds a run."""
    report_to: Literal["none", "tensorboard", "wandb", "trackio"] = "none"
    """A tracker beside metrics.jsonl."""
    push_to_hub: bool = False
    """Publish the model at the end; where the Hub fails, the same command tries again."""
    hub_model_id: str | None = None
    """OWNER/NAME on the Hub; by default your own, and the name of output_dir."""
    hub_private_repo: bool = True
    """Only you see a new repository."""
    license: str = "apache-2.0"
    """Of the weights, as the Hub spells it; for the model's card."""


@dataclass(frozen=True)
class TrainConfig(RunConfig, OptimisationConfig, ObjectiveConfig, ModelConfig, DataConfig):
    """What a run is. Intervals and lengths are counted in training images and rounded up to a step."""


# What may differ when a run is resumed: how it is watched, where, and how long it goes on.
RESUMABLE_KEYS = frozenset(
    "dataset output_dir max_train_images max_minutes max_cpu_minutes logging_images validation_images sample_images "
    "checkpointing_images keep_checkpoints choose_settings resume report_to push_to_hub hub_model_id hub_private_repo "
    "license".split()
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
