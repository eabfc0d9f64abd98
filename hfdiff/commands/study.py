"""`hfdiff study`."""

from pathlib import Path

import torch
from accelerate import PartialState

from hfdiff.commands.flags import StudyFlags
from hfdiff.core.errors import BadInput
from hfdiff.core.files import at_home, folder_to_write, write_file, write_json
from hfdiff.core.locks import write_lock
from hfdiff.core.threads import use_all_cores
from hfdiff.figures.grids import save_figure
from hfdiff.figures.study import distance_ratios
from hfdiff.training.checks import resolve_config
from hfdiff.tuning.measure import DISTANCE
from hfdiff.tuning.study.config import Study, read_study
from hfdiff.tuning.study.cost import describe_cost
from hfdiff.tuning.study.judging import StudyJudge, open_judge
from hfdiff.tuning.study.report import describe, recommendation, record
from hfdiff.tuning.study.results import Row, rows_of
from hfdiff.tuning.study.run import Rungs, run_study

RESULTS = ("study.md", "study.json", "recommended.yaml", "study.png")


def main(flags: StudyFlags) -> int:
    home = folder_to_write(flags.output_dir)
    process = PartialState(cpu=not torch.accelerator.is_available())
    use_all_cores(1)
    study = open_study(flags, home, process.device)
    if flags.dry_run:
        for line in describe_cost(study):
            print(line, flush=True)
        return 0
    with write_lock(home):
        judge, found = open_judge(study, process.device), Rungs()
        try:
            run_study(study, judge.judge, found, lambda line: print(line, flush=True))
        finally:  # an interrupted study shows what it has
            rows = rows_of(study, found)
            if any(row.values for row in rows):
                write_results(home, study, rows, judge, process.device)
    print(f"\n{describe(study, rows, judge, process.device)}")
    print("\n".join(f"  {home / name}" for name in RESULTS if (home / name).is_file()))
    return 1 if any(row.failures for row in rows) else 0


def open_study(flags: StudyFlags, home: Path, device: torch.device) -> Study:
    """The study, whose every variant this machine can train."""
    study = read_study(at_home(flags.study), home)
    if study.config.cpu_minutes is not None and device.type != "cpu":
        raise BadInput(f"cpu_minutes is no equal budget on {device.type}; give images or minutes")
    for variant in study.variants:
        resolve_config(study.training(variant))
    return study


def write_results(home: Path, study: Study, rows: list[Row], judge: StudyJudge, device: torch.device) -> None:
    """`RESULTS`; the figure where there is anything to compare."""
    write_file(home / "study.md", describe(study, rows, judge, device).encode())
    write_json(home / "study.json", record(study, rows, judge, device))
    write_file(home / "recommended.yaml", recommendation(study, rows).encode())
    ratios = [(row.variant.name, row.ratio.mean, row.ratio.half) for row in rows if row.ratio and row.share == 1]
    (home / "study.png").unlink(missing_ok=True)
    if ratios:
        label = f"{DISTANCE} over the base's, n = {study.config.num_images:,}, 95% over seeds (left is better)"
        save_figure(home / "study.png", distance_ratios(ratios, label))
