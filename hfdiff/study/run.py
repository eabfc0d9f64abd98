"""A study from its first run, or the first that is left, to its last."""

import os
import queue
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import torch

from hfdiff.study.config import BASE, Study, Variant, rungs
from hfdiff.study.judging import DISTANCE
from hfdiff.study.results import best_scale
from hfdiff.study.trial import Judging, Outcome, Trainings, Trial, outcome_of, trial_of

Rungs = dict[float, dict[str, list[Outcome]]]  # share of the budget -> variant -> its outcomes


def run_study(study: Study, home: Path, judge: Judging, log: Callable[[str], None]) -> Rungs:
    """Train and judge every variant with every seed, rung by rung."""
    found: Rungs = {}
    variants = list(study.variants)
    for share, count in rungs(study.config, len(study.variants) - 1):
        if found:
            variants = survivors(variants, found[max(found)], count)
        seeds = study.config.seeds  # in the outer loop: an interrupted study has seen every variant
        trials = [trial_of(study, variant, seed, share, home) for seed in seeds for variant in variants]
        found[share] = {variant.name: [] for variant in variants}
        for number, outcome in enumerate(outcomes(trials, judge, study.config.at_once), 1):
            found[share][outcome.trial.variant].append(outcome)
            log(f"{number} of {len(trials)}: {describe(outcome)}")
    return found


def survivors(variants: Sequence[Variant], found: dict[str, list[Outcome]], count: int) -> list[Variant]:
    """The base, and the `count` others of the least mean distance; those of which nothing was measured are out."""

    def distance(variant: Variant) -> float:
        best = best_scale(found[variant.name])
        return sum(values[DISTANCE] for values in best[1].values()) / len(best[1]) if best else float("inf")

    others = sorted((v for v in variants if v.name != BASE and distance(v) < float("inf")), key=distance)
    return [variants[0], *others[:count]]


def describe(outcome: Outcome) -> str:
    name = f"{outcome.trial.variant}, seed {outcome.trial.config.seed}"
    if outcome.failure:
        return f"{name}: failed, {outcome.failure}"
    scale, values = min(outcome.by_guidance.items(), key=lambda item: item[1][DISTANCE])
    numbers = ", ".join(f"{metric} {value:.3g}" for metric, value in values.items())
    return f"{name}: guidance {scale:g}, {numbers} ({outcome.images:,} images, {outcome.cpu_seconds:,.0f} CPU s)"


def outcomes(trials: Iterable[Trial], judge: Judging, at_once: int) -> Iterator[Outcome]:
    """Of every trial, in the order of their ends; however this is left, no training goes on behind."""
    trainings, slots = Trainings(), shares_of_cores(at_once)
    with ThreadPoolExecutor(at_once, initializer=lambda: take(slots.get())) as pool:
        waiting = [pool.submit(outcome_of, trial, trainings, judge) for trial in trials]
        try:
            for done in as_completed(waiting):
                yield done.result()
        finally:
            trainings.stop()
            pool.shutdown(wait=False, cancel_futures=True)


def shares_of_cores(at_once: int) -> "queue.SimpleQueue[list[int]]":
    """The cores of each worker; where there are fewer than workers, some share one."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    slots: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    for number in range(at_once):
        slots.put(cores[number::at_once] or cores[number % len(cores) :][:1] if cores else [])
    return slots


def take(cores: list[int]) -> None:
    """Let this thread, and the programs that it starts, run on these cores alone."""
    if cores:
        os.sched_setaffinity(0, cores)  # on Linux: of the calling thread
        torch.set_num_threads(len(cores))
