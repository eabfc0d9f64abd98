"""What a run says while it goes on: metrics.jsonl, training.json, a progress bar, and a tracker where asked for."""

import json
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from hfdiff.core.config import to_mapping
from hfdiff.core.files import write_file, write_json
from hfdiff.data.table import ImageTable
from hfdiff.training.config import TrainConfig
from hfdiff.training.loop import Step
from hfdiff.training.memory import peak_memory_gib
from hfdiff.training.run_folder import RunFolder
from hfdiff.training.state import TrainState

PACKAGES = ("hfdiff", "torch", "diffusers", "accelerate", "transformers", "datasets", "safetensors")


class RunLog:
    """Writes on the main process only; a tracker that fails is given up with a warning and never stops the run."""

    def __init__(self, run: RunFolder, config: TrainConfig, state: TrainState, accelerator: Accelerator):
        self.run, self.state, self.accelerator = run, state, accelerator
        self.tracks = config.report_to != "none"
        if accelerator.is_main_process:
            self._cut_back(state.step)
        self._track(lambda: accelerator.init_trackers("hfdiff", {k: str(v) for k, v in to_mapping(config).items()}))
        self.bar = tqdm(
            total=config.num_steps * config.batch_size,
            initial=state.step * config.batch_size,
            unit="img",
            unit_scale=True,
            mininterval=1 if sys.stderr.isatty() else 20,
            disable=not accelerator.is_main_process,
        )
        self._restart_clock()

    def _cut_back(self, step: int) -> None:
        """Drop the lines after `step`: a resumed run writes them again."""
        lines = (
            self.run.metrics.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            if self.run.metrics.exists()
            else []
        )
        write_file(self.run.metrics, "".join(line for line in lines if _step_of(line) <= step).encode())

    def _restart_clock(self) -> None:
        self.since, self.images_since, self.data_seconds = time.perf_counter(), 0, 0.0

    def count(self, step: Step, batch_size: int) -> None:
        """Take note of a step."""
        self.images_since += batch_size
        self.data_seconds += step.data_seconds
        self.bar.update(batch_size)

    def write(self, step: Step, val_loss: float | None, quality: Mapping[str, float]) -> None:
        """Add a line to metrics.jsonl: the mean loss since the last one, the speed, and the quality of samples."""
        seconds = max(time.perf_counter() - self.since, 1e-9)
        point: dict[str, Any] = {
            "step": step.step,
            "images": step.images,
            "loss": float(self.state.loss_sum) / max(self.state.loss_steps, 1),
            "val_loss": val_loss,
            **{name: value for name, value in quality.items() if math.isfinite(value)},
            "lr": step.learning_rate,
            "images_per_second": round(self.images_since / seconds, 2),
            "data_wait": round(self.data_seconds / seconds, 5),
            "memory_gib": round(peak_memory_gib(self.accelerator.device), 3),
        }
        self.state.loss_sum, self.state.loss_steps = 0.0, 0
        if self.accelerator.is_main_process:
            with self.run.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(point, allow_nan=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        self.bar.set_postfix(loss=f"{point['loss']:.4f}", memory=f"{point['memory_gib']:.2f}GiB", refresh=False)
        numbers = {k: v for k, v in point.items() if v is not None and k != "step"}
        self._track(lambda: self.accelerator.log(numbers, step=step.step))
        self._restart_clock()

    def print(self, text: str) -> None:
        """Print a line above the progress bar."""
        if self.accelerator.is_main_process:
            tqdm.write(text)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        self._track(lambda: [tracker.finish() for tracker in self.accelerator.trackers])

    def _track(self, action: Any) -> None:
        if not self.tracks:
            return
        try:
            action()
        except Exception as error:  # whatever a tracker raises, training goes on
            self.tracks = False
            self.print(f"warning: the tracker failed and is given up: {error}")


def write_record(
    run: RunFolder, config: TrainConfig, state: TrainState, table: ImageTable, accelerator: Accelerator
) -> None:
    """Write training.json: what the weights of this moment come from, earlier launches included."""
    batch = config.batch_size
    known = {
        "images": state.step * batch,
        "steps": state.step,
        "seconds": round(state.seconds, 1),
        "cpu_seconds": round(state.cpu_seconds, 1),
        "best_images": state.best_step * batch,
        "best_by": config.best_by,
        "best_score": state.best_score if math.isfinite(state.best_score) else None,
        "parameters": accelerator.unwrap_model(state.unet).num_parameters(),
        "precision": config.mixed_precision,
        "device": device_name(accelerator.device),
        "processes": accelerator.num_processes,
        "command": launch_command(accelerator.num_processes),
        "versions": versions(),
        "data": {
            "name": table.name,
            "fingerprint": table.fingerprint,
            "pictures": len(table),
            "size": list(table.size),
            "channels": table.channels,
            "classes": dict(zip(table.class_names, table.class_counts())),
        },
    }
    write_json(run.record, known)


def launch_command(num_processes: int) -> str:
    """What was typed: `hfdiff train ...`, or the program that accelerate launched, without the launcher's own flags."""
    program, *words = sys.argv
    if Path(program).name in ("hfdiff", "cli.py"):
        return shlex.join(["hfdiff", *words])
    return f"accelerate launch --num_processes {num_processes} {shlex.join(sys.argv)}"


def versions() -> dict[str, str]:
    """Package -> its version."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def device_name(device: torch.device) -> str:
    """What a reader knows a device by: "NVIDIA T4", "2 threads of Intel(R) Xeon(R) Processor"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{torch.get_num_threads()} threads of {names[0] if names else platform.machine()}"


def _step_of(line: str) -> float:
    """The step of a line of metrics.jsonl; infinity for one that is damaged or half written, so that it is dropped."""
    try:
        point = json.loads(line)
        numbers = [float(point[key]) for key in ("step", "images", "loss", "lr")]
        return numbers[0] if "val_loss" in point else float("inf")
    except (ValueError, KeyError, TypeError):
        return float("inf")
