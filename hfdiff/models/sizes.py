"""The table of model sizes: what a configuration that names only a size is made of."""

from dataclasses import dataclass
from typing import Any, Literal

Block = Literal["DownBlock2D", "AttnDownBlock2D"]
CONV: Block = "DownBlock2D"
ATTEND: Block = "AttnDownBlock2D"


@dataclass(frozen=True)
class Size:
    """The shape of a UNet, by the keys that a configuration has for it; the first level is the finest."""

    block_out_channels: tuple[int, ...]
    down_block_types: tuple[Block, ...]
    layers_per_block: int
    norm_num_groups: int
    attention_head_dim: int
    patch_size: int


# For images of 28 to 32 pixels a side: the finest level of "tiny" has 8, of "small" 16, of the others 32.
SIZES = {
    "tiny": Size((16, 32), (CONV, ATTEND), 1, 8, 16, 4),
    "small": Size((64, 128), (CONV, ATTEND), 1, 8, 32, 2),
    "base": Size((128, 256, 256, 256), (CONV, ATTEND, ATTEND, CONV), 2, 32, 64, 1),
    "large": Size((192, 384, 384, 384), (CONV, ATTEND, ATTEND, CONV), 3, 32, 64, 1),
}


def describe_shape(config: Any) -> str:
    """The size that a configuration names, and what it has otherwise."""
    own = vars(SIZES[config.size])
    other = [f"{key} {getattr(config, key)}" for key, value in own.items() if getattr(config, key) != value]
    return f"size {config.size}" + (f" but for {', '.join(other)}" if other else "")
