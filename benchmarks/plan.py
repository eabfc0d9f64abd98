"""What `hfdiff plan` says against what training then takes: peak memory and time, each in a process of its own.

Training takes a few steps and validates, draws and saves twice, as a long run does. Its time is that of the steps
after the first two which nothing came between.

python benchmarks/plan.py --data ../shared/data      # the folder with fashion_mnist and cifar10
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "train_scripts" / "configs"
NUMBER = r"([\d,.]+)"


def cases(data: Path) -> dict[str, list[str]]:
    """Training flags by name."""
    return {
        "demo": ["--config", str(CONFIGS / "demo.yaml")],
        "small, fashion_mnist": ["--size", "small", "--dataset", str(data / "fashion_mnist")],
        "cifar10": ["--config", str(CONFIGS / "cifar10.yaml"), "--dataset", str(data / "cifar10")],
        "demo, batch 256": ["--config", str(CONFIGS / "demo.yaml"), "--batch_size", "256"],
    }


def run(*command: str) -> str:
    return subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True, cwd=ROOT).stdout


def planned(flags: list[str]) -> dict[str, float]:
    text = run("-c", "from hfdiff.cli import main; main()", "plan", *flags)
    patterns = {
        "gflops": rf"{NUMBER} GFLOPs an image forward",
        "step_gflops": rf"{NUMBER} in a training step",
        "memory": rf"{NUMBER} GiB at the peak",
        "speed": rf"{NUMBER} images/s",
        "batch": rf"batches of {NUMBER}",
    }
    found = {name: re.search(pattern, text) for name, pattern in patterns.items()}
    return {name: float(match[1].replace(",", "")) for name, match in found.items() if match}


def taken(flags: list[str], batch_size: int, steps: int) -> dict[str, float]:
    """Train for `steps` steps, logging each; the last log point comes after an overview, and gives its memory too."""
    images, half = batch_size * steps, batch_size * (steps // 2)
    intervals = {"logging_images": batch_size, "validation_images": half, "sample_images": half}
    with tempfile.TemporaryDirectory() as folder:
        where = [
            "--output_dir",
            f"{folder}/run",
            "--max_train_images",
            str(images),
            "--checkpointing_images",
            str(half),
        ]
        rates = [word for key, value in intervals.items() for word in (f"--{key}", str(value))]
        run("train_scripts/train.py", *flags, *where, *rates)
        points = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()]
    plain = [p for p in points[2:] if p["val_loss"] is None and (p["images"] - batch_size) % half]
    seconds = sum(batch_size / point["images_per_second"] for point in plain)
    return {"memory": points[-1]["memory_gib"], "speed": batch_size * len(plain) / seconds}


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--steps", type=int, default=8)
    arguments = parser.parse_args(argv)
    print(f"{os.cpu_count()} cores; GFLOPs of an image forward / in a step; peak GiB and hours per million images")
    print(f"{'':>22}  {'GFLOPs':>15}  {'memory: plan, run, ratio':>26}  {'hours: plan, run, ratio':>26}")
    for name, flags in cases(arguments.data.resolve()).items():
        plan = planned(flags)
        real = taken(flags, int(plan["batch"]), arguments.steps)
        hours = [1e6 / 3600 / numbers["speed"] for numbers in (plan, real)]
        print(
            f"{name:>22}  {plan['gflops']:7.4f} {plan['step_gflops']:7.4f}"
            f"  {plan['memory']:9.3f} {real['memory']:9.3f} {plan['memory'] / real['memory']:6.3f}"
            f"  {hours[0]:9.2f} {hours[1]:9.2f} {hours[0] / hours[1]:6.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
