"""One run of a study: trained by the training program, in a process of its own, then judged."""

import contextlib
import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import yaml

from hfdiff.core.config import to_mapping
from hfdiff.core.errors import first_line
from hfdiff.core.files import slug, write_file
from hfdiff.training.config import RESUMABLE_KEYS, TrainConfig
from hfdiff.training.run_folder import RunFolder
from hfdiff.tuning.measure import DISTANCE
from hfdiff.tuning.study.config import BUDGETS, Study, Variant

JUDGED = "judged.json"
# How a run is watched, of no weight in what it is; but what interrupts it spends time, and validation chooses weights.
WATCHING = RESUMABLE_KEYS - {"dataset", *BUDGETS.values(), "validation_images", "sample_images", "checkpointing_images"}
# A run's folder, and what is called meanwhile, which may raise -> guidance scale -> metric -> value.
Judging = Callable[[str, Callable[[], None]], dict[float, dict[str, float]]]


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


def trial_of(study: Study, variant: Variant, seed: int, share: float) -> Trial:
    """Its folder is named by all that it is, so that a study that was changed finds what is still its own."""
    config = replace(study.training(variant, share), seed=seed)
    known = {key: value for key, value in asdict(config).items() if key not in WATCHING}
    if study.config.minutes is not None:
        known["at_once"] = study.config.at_once  # decides what a minute is
    mark = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:8]
    folder = Path(config.output_dir) / f"{slug(variant.name)}-{mark}"
    return Trial(variant.name, replace(config, output_dir=str(folder)))


ERROR = "hfdiff: error: "  # how a program begins the line that says why it ends
STOPPED = "the study was stopped"


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
        with log.open("ab") as said:
            before = said.tell()
            process = subprocess.Popen(words, stdout=said, stderr=said, stdin=subprocess.DEVNULL)
            self.running.add(process)
            if self.stopped:
                process.terminate()
            code = process.wait()
            self.running.discard(process)
        return f"exit code {code}: {cause(log.read_bytes()[before:])}" if code else ""

    def check(self) -> None:
        """InterruptedError once they were stopped."""
        if self.stopped:
            raise InterruptedError(STOPPED)

    def stop(self) -> None:
        self.stopped = True
        for process in list(self.running):
            with contextlib.suppress(ProcessLookupError):
                process.terminate()


def cause(said: bytes) -> str:
    """Why a program ended: its last error, else what it said last."""
    lines = said.decode(errors="replace").replace("\r", "\n").strip().splitlines()
    causes = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
    return (causes or lines or ["it said nothing"])[-1][:300]


def outcome_of(trial: Trial, trainings: Trainings, judge: Judging) -> Outcome:
    """Train and judge, or what is left to do of both; whatever goes wrong is the outcome of this trial alone."""
    try:
        trainings.check()
        if not (trial.folder / JUDGED).is_file() and (failure := trainings.train(trial)):
            return Outcome(trial, {}, failure=failure)
        by_guidance = judge(str(trial.folder), trainings.check)
        record = json.loads(RunFolder(trial.folder).record.read_text(encoding="utf-8"))
        numbers = [record["images"], record["cpu_seconds"]]
        for values in by_guidance.values():
            numbers += [values[DISTANCE], *values.values()]
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
            raise ValueError(f"{trial.folder} holds values that are no numbers; remove it to train it again")
        return Outcome(trial, by_guidance, record["images"], record["cpu_seconds"])
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:  # the judge's memory, a damaged file
        return Outcome(trial, {}, failure=first_line(error))
