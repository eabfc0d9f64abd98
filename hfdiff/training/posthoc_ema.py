"""EMA weights of any length after training, from snapshots of a few averages (Karras et al. 2024, Section 3.2).

A snapshot is one safetensors file with the averages after one step, as SIGMA_REL/NAME.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from hfdiff.core.errors import BadInput
from hfdiff.core.files import write_file
from hfdiff.training.ema import gamma_of_width

NUM_SNAPSHOTS = 16  # of a run, evenly spread over its length
MOST_ERROR = 0.1  # of a profile, above which the average is another than the one asked for


@dataclass(frozen=True)
class Reconstruction:
    """EMA weights by name, float32, of a length that was not kept."""

    weights: dict[str, Tensor]
    step: int  # that they are the average after
    sigma_rel: float
    error: float  # L2 distance of the profile from the one asked for, as a share of that one's norm
    num_snapshots: int


def is_due(before: float, after: float) -> bool:
    """Does a snapshot fall between two shares of the run's length?"""
    return int(after * NUM_SNAPSHOTS) > int(before * NUM_SNAPSHOTS)


def save_snapshot(folder: Path, step: int, tensors: Mapping[str, Tensor]) -> None:
    """Save the averages after `step`, complete or not at all."""
    content = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})
    write_file(folder / f"step-{step:09d}.safetensors", content)


def list_snapshots(folder: Path) -> dict[int, Path]:
    """The snapshots by their step, the oldest first."""
    found = {
        match[1]: path for path in folder.glob("*") if (match := re.fullmatch(r"step-(\d+)\.safetensors", path.name))
    }
    return {int(step): path for step, path in sorted(found.items(), key=lambda item: int(item[0]))}


def drop_later(folder: Path, step: int) -> None:
    """Delete the snapshots of steps after the one that a run is resumed from."""
    for later, path in list_snapshots(folder).items():
        if later > step:
            path.unlink()


def reconstruct(folder: Path, sigma_rel: float) -> Reconstruction:
    """The EMA weights of width `sigma_rel` after the last snapshot's step.

    BadInput where there are no snapshots, one is damaged, or none of their combinations is near enough to that width.
    """
    if not 0.01 <= sigma_rel <= 0.25:
        raise BadInput(f"sigma_rel is {sigma_rel}; valid: 0.01 to 0.25")
    snapshots = {step: _open(path) for step, path in list_snapshots(folder).items()}
    if not snapshots:
        raise BadInput(f"no snapshots of EMA weights in {folder}; train with --ema_profiles 0.05 0.1 to keep some")
    last, (_, keys) = max(snapshots.items())
    if any(others != keys for _, others in snapshots.values()):
        raise BadInput(f"the snapshots in {folder} are not all of one run; leave only those that are")
    widths, names = _split(keys)
    kept = list(product(snapshots, widths))
    steps = torch.tensor([step for step, _ in kept], dtype=torch.float64)
    gammas = torch.tensor([gamma_of_width(float(width)) for _, width in kept], dtype=torch.float64)
    coefficients, error = solve(steps, gammas, last, gamma_of_width(sigma_rel))
    if error > MOST_ERROR:
        raise BadInput(
            f"sigma_rel {sigma_rel} is too far from what {folder} holds ({len(snapshots)} snapshots of sigma_rel "
            f"{', '.join(widths)}): its profile is met to {error:.0%}; valid: to {MOST_ERROR:.0%}"
        )
    parts = [(snapshots[step][0], width, c) for (step, width), c in zip(kept, coefficients.tolist())]
    return Reconstruction({name: _combine(parts, name) for name in names}, last, sigma_rel, error, len(snapshots))


def solve(steps: Tensor, gammas: Tensor, step: float, gamma: float) -> tuple[Tensor, float]:
    """The combination (N,) of averages (N,) that comes nearest to another by its profile (Algorithm 3), and its error.

    All float64. The error is the L2 distance of the profiles, as a share of the norm of the one wanted.
    """
    wanted = torch.tensor(step, dtype=torch.float64), torch.tensor(gamma, dtype=torch.float64)
    gram = dot(steps[:, None], gammas[:, None], steps, gammas)  # (N, N)
    against = dot(steps, gammas, *wanted)  # (N,)
    coefficients = torch.linalg.lstsq(gram, against[:, None], driver="gelsd").solution[:, 0]
    # Weights that never moved are to come out as they are; the paper leaves the sum at 1 +- 0.0001.
    coefficients = coefficients / coefficients.sum()
    norm = dot(*wanted, *wanted)
    square = coefficients @ gram @ coefficients - 2 * coefficients @ against + norm
    return coefficients, (square.clamp(min=0) / norm).sqrt().item()


def dot(step_a: Tensor, gamma_a: Tensor, step_b: Tensor, gamma_b: Tensor) -> Tensor:
    """The integral of the product of two profiles (gamma + 1) t^gamma / step^(gamma + 1) for t from 0 to step."""
    first = torch.minimum(step_a, step_b)
    powers = (first / step_a) ** gamma_a * (first / step_b) ** gamma_b / torch.maximum(step_a, step_b)
    return (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1) * powers


def _combine(parts: Sequence[tuple[Any, str, float]], name: str) -> Tensor:
    """The sum of the averages of one weight, times their coefficients, in float64; returned as float32."""
    return torch.stack([c * file.get_tensor(f"{width}/{name}").double() for file, width, c in parts]).sum(dim=0).float()


def _open(path: Path) -> tuple[Any, frozenset[str]]:
    """A snapshot's file, of which tensors are read one by one, and their keys."""
    try:
        file = safe_open(path, "pt")
        keys = frozenset(file.keys())
    except (OSError, SafetensorError) as error:
        raise BadInput(f"snapshot {path} cannot be read ({error}); delete it, the others may suffice") from error
    if not all(re.fullmatch(r"0\.\d+/.+", key) for key in keys):
        raise BadInput(f"snapshot {path} holds other tensors than averages by width; delete it")
    return file, keys


def _split(keys: Iterable[str]) -> tuple[list[str], list[str]]:
    """The widths, as they are written, and the names in a snapshot's keys."""
    pairs = [key.split("/", 1) for key in keys]
    return sorted({width for width, _ in pairs}, key=float), sorted({name for _, name in pairs})
