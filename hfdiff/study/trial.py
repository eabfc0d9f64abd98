"""One run of a study: trained by the training program, in a process of its own, then judged."""

import contextlib
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from hfdiff.core.config import to_mapping
from hfdiff.core.errors import BadInput
from hfdiff.core.files import slug, write_file, write_json
from hfdiff.study.config import Study, Variant
from hfdiff.training.config import TrainConfig
from hfdiff.training.run_folder import RunFolder

JUDGED = "judged.json"
Judging = Callable[[str], dict[str, Any]]  # a run's folder -> what `JUDGED` holds


@dataclass(frozen=True)
class Trial:
    """A variant, a seed and a length."""

    variant: str
    config: TrainConfig

    @property
    def folder(self) -> Path:
        return Path(self.config.output_dir)


@dataclass(frozen=True)
class Outcome:
    """What came of a trial: measured values, or why there are none."""

    trial: Trial
    by_guidance: Mapping[float, Mapping[str, float]]  # guidance scale -> metric -> value
    images: int = 0
    cpu_seconds: float = 0.0
    failure: str = ""


def trial_of(study: Study, variant: Variant, seed: int, share: float, home: Path) -> Trial:
    """Its folder is named by all that it is, so that a study that was changed finds what is still its own."""
    config = replace(study.training(variant, share), seed=seed)
    known = {key: value for key, value in asdict(config).items() if key != "output_dir"}
    mark = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:8]
    folder = home / "runs" / f"{slug(variant.name)[:60]}-{mark}"
    return Trial(variant.name, replace(config, output_dir=str(folder)))


class Trainings:
    """The training programs that are at work; `stop` ends them as a signal does, each with a checkpoint."""

    def __init__(self) -> None:
        self.running: set[subprocess.Popen] = set()
        self.stopped = False

    def train(self, trial: Trial) -> str:
        """Train to the end, or go on; why it failed, empty where it did not."""
        trial.folder.parent.mkdir(parents=True, exist_ok=True)
        file, log = (trial.folder.with_name(f"{trial.folder.name}{end}") for end in (".yaml", ".log"))
        write_file(file, yaml.safe_dump(to_mapping(trial.config), sort_keys=False).encode())
        words = [sys.executable, "-m", "hfdiff.cli", "train", "--config", str(file)]
        with log.open("wb") as said:
            process = subprocess.Popen(words, stdout=said, stderr=said, stdin=subprocess.DEVNULL)
            self.running.add(process)
            if self.stopped:
                process.terminate()
            code = process.wait()
            self.running.discard(process)
        return f"exit code {code}: {last_line(log)}" if code else ""

    def stop(self) -> None:
        self.stopped = True
        for process in list(self.running):
            with contextlib.suppress(ProcessLookupError):
                process.terminate()


def last_line(log: Path) -> str:
    """What a program said last."""
    lines = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").strip().splitlines()
    return lines[-1].removeprefix("hfdiff: error: ")[:300] if lines else "it said nothing"


def outcome_of(trial: Trial, trainings: Trainings, judge: Judging) -> Outcome:
    """Train and judge, or what is left to do of both; a failure is an outcome, too."""
    failure = "" if (trial.folder / JUDGED).is_file() else trainings.train(trial)
    if failure or trainings.stopped:
        return Outcome(trial, {}, failure=failure or "stopped")
    try:
        found = judge(str(trial.folder))
        record = json.loads(RunFolder(trial.folder).record.read_text(encoding="utf-8"))
    except (BadInput, OSError, ValueError) as error:
        return Outcome(trial, {}, failure=str(error))
    by_guidance = {float(scale): values for scale, values in found["by_guidance"].items()}
    return Outcome(trial, by_guidance, record["images"], record["cpu_seconds"])


def judged_once(folder: str, asked: Mapping[str, Any], judge: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `judge` finds, kept in the run's folder beside `asked`: all that decides it."""
    file = Path(folder) / JUDGED
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        known = json.loads(file.read_text(encoding="utf-8"))
        if known["asked"] == asked and isinstance(known["by_guidance"], dict):
            return known
    found = {"asked": dict(asked), **judge()}
    write_json(file, found)
    return found
