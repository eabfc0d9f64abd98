"""The network's shape, and what it is trained to predict; free of heavy imports, as the command line starts with it."""

from dataclasses import dataclass
from typing import Literal

from hfdiff.models.sizes import Block

Spacing = Literal["auto", "karras", "exponential"]


@dataclass(frozen=True)
class ModelConfig:
    """The shape of the UNet."""

    size: str = "small"
    """tiny, small, base or large; each of the next six keys overrides it."""
    block_out_channels: tuple[int, ...] | None = None
    """Width of each level; by default the size's."""
    down_block_types: tuple[Block, ...] | None = None
    """diffusers' block of each level on the way down, as many as widths; the way up mirrors them."""
    layers_per_block: int | None = None
    """Residual layers of each block."""
    norm_num_groups: int | None = None
    """Groups of each group normalisation; divides every width."""
    attention_head_dim: int | None = None
    """Channels of an attention head; divides every width that attends."""
    patch_size: int | None = None
    """Fold images by this factor at the input: 1, 2 or 4."""
    dropout: float = 0.0
    """Share of activations dropped in training."""
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    """How conditions act on a block: added (default), or scale and shift."""
    conditioning: Literal["add", "concat"] = "add"
    """How class and style embeddings join."""
    class_embedding: Literal["table", "one_hot_mlp"] = "table"
    """How a class becomes a vector."""
    skip_connections: bool = True
    """Show the way up of the UNet what the way down saw."""
    time_conditioning: bool = True
    """Condition the UNet on the time; without, it sees time 0 always."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """What the model predicts and when, and the sampler it is saved with; `auto` takes what suits the others."""

    objective: str = "flow"
    """What the model predicts: flow, epsilon, v_prediction, sample, edm."""
    schedule: str = "auto"
    """Noise schedule of epsilon, v_prediction and sample: cosine (auto), linear, scaled_linear, sigmoid, learned."""
    zero_terminal_snr: bool = False
    """Rescale the schedule so that its last timestep is pure noise (v_prediction and sample)."""
    flow_shift: float | None = None
    """Time shift of flow towards noise; by default grows with the resolution, from 1 at 32 pixels."""
    loss_weight: str = "auto"
    """none (auto): of what is predicted; min_snr, edm: of the clean image, weighted by the signal-to-noise ratio."""
    min_snr_gamma: float | None = None
    """Where the weight of min_snr stops growing; by default 5."""
    time_sampling: str = "auto"
    """How training draws times: uniform, logit_normal (auto of flow), log_normal of sigma (auto of edm)."""
    stratified: bool = False
    """Spread the times of a batch evenly over their distribution."""
    sampler: str = "auto"
    """Sampler that is saved with the model: dpmpp_2m (auto), ddpm, ddim, heun, unipc, euler, ipndm."""
    spacing: Spacing = "auto"
    """Spacing of the sampler's steps in noise: karras (Karras et al. 2022, Equation 5), exponential, or its own."""
    drop_class: float = 0.05
    """Share of the batch whose class alone is dropped, for guidance."""
    drop_style: float = 0.1
    """Share whose styles alone are dropped."""
    drop_both: float = 0.1
    """Share that is unconditional."""
