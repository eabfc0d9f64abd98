"""The precision that a machine trains in, and why."""

import os
from contextlib import AbstractContextManager, nullcontext

import torch
from accelerate import Accelerator
from torch.nn.attention import SDPBackend, sdpa_kernel

from hfdiff.core.errors import BadInput
from hfdiff.training.config import Precision


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


def autocast_bf16(device: torch.device) -> torch.autocast:
    """Where training in bf16 is chosen for this device, its context; elsewhere one that changes nothing: fp16 would
    need the scale of a loss."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision_of("auto", device)[0] == "bf16")


def attention_kernel(accelerator: Accelerator) -> AbstractContextManager:
    """In bf16 on a CPU, attention by its formula: torch's fused kernel takes 2.2 to 4.5 times as long there, forward
    and backward (torch 2.13, AMX, 49 tokens). Elsewhere what torch chooses."""
    slow = accelerator.device.type == "cpu" and accelerator.mixed_precision == "bf16"
    return sdpa_kernel(SDPBackend.MATH) if slow else nullcontext()
