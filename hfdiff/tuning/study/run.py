"""A study from its first run, or the first that is left, to its last."""

import os
import queue
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

import torch

from hfdiff.core.threads import cores
from hfdiff.tuning.measure import DISTANCE
from hfdiff.tuning.study.config import BASE, Study, Variant, rungs
from hfdiff.tuning.study.results import best_scale
from hfdiff.tuning.study.trial import Judging, Outcome, Trainings, Trial, outcome_of, trial_of

Rungs = dict[float, dict[str, list[Outcome]]]  # share of the budget -> variant -> its outcomes


def run_study(study: Study, judge: Judging, found: Rungs, log: Callable[[str], None]) -> None:
    """Train and judge every variant with every seed, rung by rung; `found` is filled meanwhile."""
    variants = list(study.variants)
    for share, count in rungs(study.config, len(study.variants) - 1):
        if found:
            variants = survivors(variants, found[max(found)], count)
            if len(variants) == 1:
                break  # all others failed
        seeds = study.config.seeds  # in the outer loop: an interrupted study has seen every variant
        trials = [trial_of(study, variant, seed, share) for seed in seeds for variant in variants]
        found[share] = {variant.name: [] for variant in variants}
        for number, outcome in enumerate(outcomes(trials, judge, study.config.at_once), 1):
            found[share][outcome.trial.variant].append(outcome)
            log(f"{number} of {len(trials)}: {describe(outcome)}")


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
    trainings = Trainings()
    shares: queue.SimpleQueue[list[int]] = queue.SimpleQueue()
    for share in shares_of_cores(cores(), at_once):
        shares.put(share)
    with ThreadPoolExecutor(at_once, initializer=lambda: take(shares.get())) as pool:
        waiting = [pool.submit(outcome_of, trial, trainings, judge) for trial in trials]
        try:
            for done in as_completed(waiting):
                yield done.result()
        finally:
            trainings.stop()
            pool.shutdown(wait=False, cancel_futures=True)


def shares_of_cores(numbers: Sequence[int], at_once: int) -> list[list[int]]:
    """As many cores for each worker as for the others: runs of one budget are to be alike."""
    size = len(numbers) // at_once
    return [list(numbers[worker * size : (worker + 1) * size]) for worker in range(at_once)]


def take(share: list[int]) -> None:
    """Let this thread, and the programs that it starts, run on these cores alone."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, share)  # on Linux: of the calling thread
    torch.set_num_threads(len(share))
