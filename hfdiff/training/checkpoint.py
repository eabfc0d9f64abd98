"""Checkpoints: complete or absent, which are kept, and what a resume may change.

A checkpoint holds safetensors, a JSON of numbers, and a manifest with the SHA-256 of each file. The old is deleted
only after the new is in place.
"""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hfdiff.core.config import to_mapping
from hfdiff.core.errors import BadInput
from hfdiff.core.files import MOVED, clear_unfinished, recover_folder, sha256, to_json, write_folder
from hfdiff.training.config import RESUMABLE_KEYS, SHAPE_KEYS, TrainConfig
from hfdiff.training.run_folder import RunFolder, saved_config

MANIFEST = "manifest.json"
NUMBERS = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read back: tensors by group and name, and the numbers beside them."""

    path: Path
    tensors: dict[str, dict[str, Tensor]]
    numbers: dict[str, Any]


def save_checkpoint(
    checkpoints: Path, tensors: dict[str, dict[str, Tensor]], numbers: dict[str, Any], keep: int
) -> Path:
    """Save step `numbers["step"]`, then delete all but the newest `keep`, and later ones, left from before a resume."""
    target = checkpoints / f"step-{numbers['step']:09d}"

    def fill(folder: Path) -> None:
        for group, named in tensors.items():
            save_file(
                {name: value.detach().contiguous() for name, value in named.items()}, folder / f"{group}.safetensors"
            )
        (folder / NUMBERS).write_text(to_json(numbers), encoding="utf-8")
        hashes = {path.name: sha256(path) for path in sorted(folder.iterdir())}
        (folder / MANIFEST).write_text(to_json(hashes), encoding="utf-8")

    write_folder(target, fill)
    paths = list_checkpoints(checkpoints)
    newest = paths.index(target)
    for old in paths[:newest] + paths[newest + keep :]:
        doomed = old.with_name(f".{old.name}.gone")
        old.rename(doomed)
        shutil.rmtree(doomed)
    return target


def list_checkpoints(checkpoints: Path) -> list[Path]:
    """The checkpoint folders, the newest first."""
    found = checkpoints.glob("step-*") if checkpoints.is_dir() else ()
    return sorted((path for path in found if re.fullmatch(r"step-\d{9,}", path.name) and path.is_dir()), reverse=True)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and verify one checkpoint; ValueError or OSError says what is damaged."""
    hashes = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(hashes, dict) or NUMBERS not in hashes or len(hashes) < 2:
        raise ValueError(f"{MANIFEST} does not list the files of a checkpoint")
    for name, expected in hashes.items():
        if name != Path(name).name:
            raise ValueError(f"{MANIFEST} lists {name}, which is no file in it")
        if sha256(path / name) != expected:
            raise ValueError(f"{name} does not match its hash")
    groups = {Path(name).stem: load_file(path / name) for name in hashes if name.endswith(".safetensors")}
    numbers = json.loads((path / NUMBERS).read_text(encoding="utf-8"))
    if not {"unet", "ema", "optimizer"} <= groups.keys() or not isinstance(numbers, dict) or "data" not in numbers:
        raise ValueError("it lacks a part of the state")
    return Checkpoint(path, groups, numbers)


def recover_run(run: RunFolder) -> None:
    """Put right what a crash left half replaced in the run's folder, whose lock is held."""
    recover_folder(run.pipeline)
    for match in filter(None, (MOVED.fullmatch(path.name) for path in run.checkpoints.glob(".step-*"))):
        recover_folder(run.checkpoints / match[1])
    for path in run.checkpoints.glob(".step-*.gone"):
        shutil.rmtree(path)
    for folder in (run.path, run.checkpoints, run.snapshots, run.samples):
        clear_unfinished(folder)


def newest_checkpoint(run: RunFolder, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole; None where there never was one, BadInput where all are damaged or gone."""
    checkpoints = run.checkpoints
    paths = list_checkpoints(checkpoints)
    for path in paths:
        try:
            return read_checkpoint(path)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            warn(f"checkpoint {path} is damaged ({error}); trying the one before it")
    if paths:
        raise BadInput(
            f"no usable checkpoint left in {checkpoints}: all {len(paths)} are damaged; give another output_dir"
        )
    if run.record.exists():  # written after a checkpoint only
        raise BadInput(f"the checkpoints of the run in {run.path} are gone; put them back, or give another output_dir")
    return None


def check_same_data(numbers: dict[str, Any], fingerprint: str, config: TrainConfig) -> None:
    """BadInput where a checkpoint was trained on other images than those of `fingerprint`."""
    if numbers["data"] != fingerprint:
        raise BadInput(
            f"dataset {config.dataset!r} is another than that of the run in {config.output_dir}, or has changed since "
            f"(fingerprint {numbers['data']} -> {fingerprint}); give another output_dir"
        )


def check_resume(run: RunFolder, config: TrainConfig) -> TrainConfig:
    """The configuration of the run in this folder, resumed with `config`; BadInput names the keys that differ."""
    if not run.config.exists():
        if run.path.exists() and any(not path.name.startswith(".") for path in run.path.iterdir()):
            raise BadInput(f"output_dir {run.path} holds something that is no run; give an empty or a new folder")
        return config
    if config.resume == "never":
        raise BadInput(f"output_dir {run.path} holds a run, and resume is 'never'; give another output_dir")
    saved = saved_config(run.config)
    if not (list_checkpoints(run.checkpoints) or run.pipeline.exists()):
        return config  # that run ended before it had anything to lose
    if config.init_from:  # the model that the run was initialised from decided its shape
        config = replace(config, **{key: getattr(saved, key) for key in SHAPE_KEYS})
    old, new = to_mapping(saved), to_mapping(config)
    # The same images may lie elsewhere: `check_same_data` looks at them.
    differing = [
        f"{key} {old[key]!r} -> {new[key]!r}" for key in new if key not in RESUMABLE_KEYS and old[key] != new[key]
    ]
    if config.max_train_images < saved.max_train_images:
        differing.append(
            f"max_train_images {saved.max_train_images} -> {config.max_train_images} (only longer is possible)"
        )
    if differing:
        raise BadInput(f"output_dir {run.path} holds a run with another configuration: {'; '.join(differing)}")
    return config
