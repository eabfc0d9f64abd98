"""`hfdiff study`."""

from pathlib import Path

import torch
from accelerate import PartialState

from hfdiff.commands.flags import StudyFlags
from hfdiff.core.config import from_mapping
from hfdiff.core.files import folder_to_write, write_file, write_json
from hfdiff.core.locks import write_lock
from hfdiff.core.threads import use_all_cores
from hfdiff.figures.grids import save_figure
from hfdiff.figures.study import distances
from hfdiff.study.config import read_study
from hfdiff.study.cost import describe_cost
from hfdiff.study.judging import DISTANCE, open_judge
from hfdiff.study.report import describe, recommendation, record
from hfdiff.study.results import rows_of
from hfdiff.study.run import run_study
from hfdiff.training.config import TrainConfig


def main(flags: StudyFlags) -> int:
    study = read_study(Path(flags.study).expanduser())
    home = folder_to_write(flags.output_dir)
    process = PartialState(cpu=not torch.accelerator.is_available())
    use_all_cores(1)
    if flags.dry_run:
        for line in describe_cost(study):
            print(line, flush=True)
        return 0
    with write_lock(home):
        judge = open_judge(study.config, from_mapping(TrainConfig, dict(study.base), "base"), process.device)
        rows = rows_of(study, run_study(study, home, judge.judge, lambda line: print(line, flush=True)))
        text = describe(study, rows, judge)
        write_file(home / "study.md", text.encode())
        write_json(home / "study.json", record(study, rows, judge))
        write_file(home / "recommended.yaml", recommendation(study, rows).encode())
        points = [
            (row.variant.name, row.values[DISTANCE].mean, row.values[DISTANCE].half)
            for row in rows
            if row.values and row.share == 1
        ]
        if points:
            label = f"{DISTANCE}, n = {study.config.num_images:,} (less is better)"
            save_figure(home / "study.png", distances(points, judge.reference[DISTANCE], label))
    print(f"\n{text}")
    for name in ("study.md", "study.json", "study.png", "recommended.yaml"):
        if (home / name).is_file():
            print(f"  {home / name}")
    return 1 if any(row.failures for row in rows) else 0
