"""A run's folder: its places, its configuration, and who is at work in it."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from hfdiff.core.config import from_mapping, read_yaml, to_mapping
from hfdiff.core.errors import BadInput
from hfdiff.core.files import existing_folder, write_file
from hfdiff.models.loading import MODEL_INDEX
from hfdiff.training.config import TrainConfig


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
    def snapshots(self) -> Path:
        return self.path / "snapshots"

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


def save_config(run: RunFolder, config: TrainConfig) -> None:
    write_file(run.config, yaml.safe_dump(to_mapping(config), sort_keys=False).encode())
