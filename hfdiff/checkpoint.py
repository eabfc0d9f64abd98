"""A run's folder: checkpoints that are complete or absent, and the exported pipeline.

A checkpoint holds safetensors, a JSON of numbers, and a manifest with the SHA-256 of each file. The old is deleted
only after the new is in place.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hfdiff.core.config import from_mapping, read_yaml, to_mapping
from hfdiff.core.errors import BadInput
from hfdiff.core.files import existing_folder, recover_folder, write_file, write_folder
from hfdiff.models.loading import MODEL_INDEX
from hfdiff.training import RESUMABLE_KEYS, SHAPE_KEYS, TrainConfig

MANIFEST = "manifest.json"
NUMBERS = "state.json"


@dataclass(frozen=True)
class RunFolder:
    """The places inside `runs/NAME`."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def record(self) -> Path:
        return self.path / "training.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def losses(self) -> Path:
        return self.path / "losses.png"

    @property
    def quality(self) -> Path:
        return self.path / "quality.png"

    @property
    def pipeline(self) -> Path:
        return self.path / "pipeline"


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
        (folder / NUMBERS).write_text(json.dumps(numbers, indent=2) + "\n")
        hashes = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
        (folder / MANIFEST).write_text(json.dumps(hashes, indent=2) + "\n")

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
    hashes = json.loads((path / MANIFEST).read_text())
    if not isinstance(hashes, dict) or NUMBERS not in hashes or len(hashes) < 2:
        raise ValueError(f"{MANIFEST} does not list the files of a checkpoint")
    for name, expected in hashes.items():
        if name != Path(name).name:
            raise ValueError(f"{MANIFEST} lists {name}, which is no file in it")
        if _sha256(path / name) != expected:
            raise ValueError(f"{name} does not match its hash")
    groups = {Path(name).stem: load_file(path / name) for name in hashes if name.endswith(".safetensors")}
    numbers = json.loads((path / NUMBERS).read_text())
    if not {"unet", "ema", "optimizer"} <= groups.keys() or not isinstance(numbers, dict) or "data" not in numbers:
        raise ValueError("it lacks a part of the state")
    return Checkpoint(path, groups, numbers)


def newest_checkpoint(run: RunFolder, warn: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole; None where there never was one, BadInput where all are damaged or gone.

    What a crash left half replaced in the run's folder is put right first.
    """
    checkpoints = run.checkpoints
    recover_folder(run.pipeline)
    for path in checkpoints.glob(".step-*.old"):
        recover_folder(path.with_name(path.name.removeprefix(".").removesuffix(".old")))
    for path in (*checkpoints.glob(".step-*.new"), *checkpoints.glob(".step-*.gone")):
        shutil.rmtree(path)
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
    """BadInput where a checkpoint was trained on other pictures than those of `fingerprint`."""
    if numbers["data"] != fingerprint:
        raise BadInput(
            f"dataset {config.dataset!r} has changed since the run in {config.output_dir} began "
            f"(fingerprint {numbers['data']} -> {fingerprint}); give another output_dir"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    if config.init_from:  # the model that the run began with decided its shape
        config = replace(config, **{key: getattr(saved, key) for key in SHAPE_KEYS})
    old, new = to_mapping(saved), to_mapping(config)
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


@contextlib.contextmanager
def claimed(run: RunFolder) -> Iterator[None]:
    """While entered, the run's folder belongs to this process; BadInput where another run is at work in it."""
    run.path.mkdir(parents=True, exist_ok=True)
    handle = os.open(run.path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise BadInput(f"output_dir {run.path} is in use by another run; wait for its end, or give another") from error
    finally:
        os.close(handle)


def save_config(run: RunFolder, config: TrainConfig) -> None:
    write_file(run.config, yaml.safe_dump(to_mapping(config), sort_keys=False).encode())


def run_of(model: str) -> RunFolder | None:
    """The run whose folder (or whose pipeline's folder) MODEL is; None for any other model."""
    folder = existing_folder(model)
    runs = [RunFolder(place) for place in (folder, folder.resolve().parent)] if folder else []
    return next((run for run in runs if run.config.is_file() and run.pipeline.is_dir()), None)


def home_of(model: str) -> Path | None:
    """The folder with what is known of MODEL: its run's, or its own where it was published. None for a Hub id."""
    run, folder = run_of(model), existing_folder(model)
    return run.path if run else folder if folder and (folder / MODEL_INDEX).is_file() else None


def run_config(model: str) -> TrainConfig | None:
    """The configuration of the run that MODEL comes from, where it is known."""
    home = home_of(model)
    file = home / "config.yaml" if home else None
    if file is None or not file.is_file():
        return None
    return saved_config(file)


def saved_config(file: Path) -> TrainConfig:
    if not (values := read_yaml(file)):
        raise BadInput(f"{file} is empty; a run's configuration names all that it was trained with")
    return from_mapping(TrainConfig, values, where=str(file))
