"""Threads: what must be set before torch is imported, and a process's share of the machine's cores."""

import os

# Threads that spin while they wait stall each other on a machine that is shared (5 times here); read once, by torch.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def num_local_processes() -> int:
    """Processes of one launch on this machine, as the launcher says."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def cores() -> list[int]:
    """The numbers of the cores that this process may run on, in order."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def use_all_cores(num_processes: int) -> None:
    """Give each process its share of the cores: `accelerate launch` leaves it one."""
    import torch  # not before the line above

    torch.set_num_threads(max(1, len(cores()) // num_processes))
