"""What an untrusted configuration declares, held against its files before it takes memory or hours."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.nn import Module

CONFIGS = ("config.json", "scheduler_config.json", "preprocessor_config.json", "processor_config.json")
# The largest that a key may say; layers are counted by the tensors that are there.
LIMITS = {
    "num_train_timesteps": 100_000,
    "sample_size": 1024,
    "image_size": 4096,
    **dict.fromkeys(("height", "width", "shortest_edge", "longest_edge"), 4096),
}


def tensor_sizes(folder: Path) -> list[int]:
    """The number of elements of each tensor in a folder's safetensors, by their headers."""
    sizes = []
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            sizes += [torch.Size(tensors.get_slice(name).get_shape()).numel() for name in tensors.keys()]  # noqa: SIM118
    return sizes


def check_configs(folder: Path) -> None:
    """ValueError for sizes in a model's configurations that nothing here has, as a million layers in a block."""
    for file in (file for name in CONFIGS for place in ("", "*/") for file in sorted(folder.glob(place + name))):
        num_tensors = len(tensor_sizes(file.parent))
        for key, value in _numbers(json.loads(file.read_text(encoding="utf-8"))):
            most = num_tensors if "layers" in key else LIMITS.get(key)
            if most is not None and not 0 <= value <= most:
                raise ValueError(f"{file.relative_to(folder)} says {key} {value}; valid: 0 to {most}")


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a configuration, with the name it stands under."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _numbers(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _numbers(item, key)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield key, value


def check_size(build: Callable[[], Module], folder: Path) -> None:
    """ValueError where a module is far larger than the weights in its folder; built without memory, on meta."""
    with torch.device("meta"):
        module = build()
    declared = sum(tensor.numel() for tensor in (*module.parameters(), *module.buffers()))
    held = sum(tensor_sizes(folder))
    if declared > 4 * held + 1_000_000:  # tied weights and buffers are not in the files
        raise ValueError(f"{folder.name} declares {declared:,} numbers, and its files hold {held:,}")
