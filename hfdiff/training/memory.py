"""How much memory there is, how much was taken, and the largest micro-batch that fits."""

import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from tqdm import tqdm

from hfdiff.core.errors import TrainingFailed
from hfdiff.core.threads import num_local_processes

CGROUP = Path("/sys/fs/cgroup")
ESTIMATED = ("cpu",)  # devices on which too much memory raises nothing: the system ends the process
SLACK = 1.25  # of the system's over the tensors': workspaces of the kernels and gaps between allocations

Attempt = Callable[[int], None]
"""Runs forward and backward on that many images, and leaves gradients behind."""


def peak_memory_gib(device: torch.device) -> float:
    """The most memory taken so far: of the GPU, or of this process where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 2**30
    import resource  # which Unix alone has

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def available_bytes() -> int:
    """Memory that this process may still take before the system ends it: the machine's, or its container's if less."""
    free = psutil.virtual_memory().available
    try:
        limit, used = (int((CGROUP / f"memory.{name}").read_text(encoding="utf-8")) for name in ("max", "current"))
        counts = dict(line.split() for line in (CGROUP / "memory.stat").read_text(encoding="utf-8").splitlines())
        return min(free, limit - used + int(counts["inactive_file"]))
    except (OSError, ValueError, KeyError):  # no container, or one without a limit ("max")
        return free


class LiveBytes(TorchDispatchMode):
    """While entered, `peak` is the most bytes that tensors made inside were alive with at one moment."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in given:
                self._born(tensor.untyped_storage())
        return out

    def _born(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self.known:
            self.known.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._died, key, size)

    def _died(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


def is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)


def bytes_of(attempt: Attempt, rows: int) -> float:
    """Peak bytes of the tensors that an attempt makes, in proportion from two images; the gradients are there."""
    few = min(rows, 2)
    with LiveBytes() as memory:
        attempt(few)
    return memory.peak * rows / few


def fits(attempt: Attempt, rows: int, optimizer: Any, device: torch.device) -> bool:
    """Whether an attempt finds the memory that it needs, with room for the optimizer's moments if it has none yet."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = 0 if optimizer.state else 2 * sum(parameter.nbytes for parameter in parameters)
    try:
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)  # as in every micro-batch after the first
        if device.type in ESTIMATED:
            needed = SLACK * (bytes_of(attempt, rows) + moments)
            return needed <= available_bytes() / num_local_processes()
        aside = torch.empty(moments, dtype=torch.uint8, device=device)
        attempt(rows)
        del aside
        return True
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return False


def fitting_micro_batches(
    num_micro_batches: int, share: int, attempt: Attempt, optimizer: Any, accelerator: Accelerator
) -> int:
    """The least number of micro-batches, from `num_micro_batches` up, with which every process can take its `share`.

    Only gradients are touched, and cleared. All processes try the same numbers together, so none waits for another.
    """
    device, fewest = accelerator.device, num_micro_batches
    while True:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            fitting = fits(attempt, share // num_micro_batches, optimizer, device)
        release(optimizer, device)
        if accelerator.reduce(torch.tensor(float(fitting), device=device), "sum") == accelerator.num_processes:
            break
        num_micro_batches = more_micro_batches(num_micro_batches, share, device)
    if num_micro_batches > fewest:
        announce(share // fewest, share // num_micro_batches, num_micro_batches, accelerator)
    return num_micro_batches


def micro_batches_after_failure(num_micro_batches: int, share: int, optimizer: Any, accelerator: Accelerator) -> int:
    """The next larger number of micro-batches, after one that ran out of memory; its gradients are cleared."""
    release(optimizer, accelerator.device)
    more = more_micro_batches(num_micro_batches, share, accelerator.device)
    announce(share // num_micro_batches, share // more, more, accelerator)
    return more


def more_micro_batches(num_micro_batches: int, share: int, device: torch.device) -> int:
    """The next larger number of parts of equal size; TrainingFailed where a part is one image already."""
    if num_micro_batches >= share:
        raise TrainingFailed(
            f"a step does not fit into the memory of {device}, even in micro-batches of one image; "
            "take a smaller size of model, smaller images, or gradient_checkpointing"
        )
    return next(number for number in range(num_micro_batches + 1, share + 1) if share % number == 0)


def announce(old: int, new: int, num_micro_batches: int, accelerator: Accelerator) -> None:
    if accelerator.is_main_process:
        tqdm.write(
            f"micro-batches of {old} images do not fit into the memory of {accelerator.device}: "
            f"going on with {new}, {num_micro_batches} for each step and process, which learns the same"
        )


def release(optimizer: Any, device: torch.device) -> None:
    """Give back the gradients and what an attempt left; the peak counts from here."""
    optimizer.zero_grad()
    if device.type not in ESTIMATED:
        clear_device_cache(garbage_collection=True)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
