"""Real images damaged step by step: what claims variety falls, what claims likeness does not rise, and what nobody sees
moves nothing."""

from itertools import pairwise

import pytest
from conftest import full_test
from damages import DAMAGES, INVISIBLE, Bench

from hfdiff.evaluation.clip import load_clip
from hfdiff.evaluation.judge import load_judge
from hfdiff.evaluation.metrics import METRICS
from hfdiff.pipelines import Scorer

pytestmark = pytest.mark.slow

VARIETY = ("recall", "coverage", "vendi")
DISTANCES = ("frechet_judge", "kernel_judge", "frechet_clip", "cmmd")
LIKENESS = ("class_accuracy", "clip_score", "precision", "density")
NAMES = (*VARIETY, *DISTANCES, *LIKENESS)
N = 500


@pytest.fixture(scope="module")
def bench() -> Bench:
    table = full_test("fashion_mnist").part(slice(0, 4 * N))
    return Bench.of(table, load_judge("fashion_mnist_12k"), Scorer(*load_clip(dataset="fashion_mnist_12k")), N)


@pytest.fixture(scope="module")
def undamaged(bench):
    return bench.measured(bench.pool[: bench.n], NAMES)


def worse(name: str, after: float, before: float, slack: float) -> bool:
    """Has it moved away from real images?"""
    return after > before - slack if METRICS[name].better == "lower" else after < before + slack


def half_width(result) -> float:
    return (result.ci95[1] - result.ci95[0]) / 2


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_makes_nothing_better(bench, undamaged, kind):
    """From step to step, beyond its intervals, nothing gets better; but that what claims likeness rises where only
    typical images are left or come again, as docs/metrics.md says."""
    last = undamaged
    blind = LIKENESS if kind in ("typical", "repeats") else ()
    for what, damage in DAMAGES[kind].items():
        found = bench.measured(damage(bench), NAMES)
        for name in NAMES:
            if name not in (*blind, "vendi"):
                slack = half_width(found[name]) + half_width(last[name])
                assert worse(name, found[name].value, last[name].value, slack), (what, name)
        last = found


def test_variety_falls_with_repeats_and_with_lost_modes(bench, undamaged):
    seeing = {"repeats": VARIETY, "lost classes": ("coverage",), "typical": ("recall", "vendi")}
    for kind, names in seeing.items():
        steps = [undamaged] + [bench.measured(damage(bench), VARIETY) for damage in DAMAGES[kind].values()]
        for before, after in pairwise(steps):
            for name in names:
                assert after[name].value < before[name].value or after[name].value == 0, (kind, name)


def test_collapse_to_a_twentieth_is_seen_by_all_that_claim_variety(bench, undamaged):
    found = bench.measured(DAMAGES["repeats"]["each image 20 times"](bench), (*VARIETY, *DISTANCES))
    for name in VARIETY:
        assert found[name].value < 0.6 * found[name].real, name
    for name in DISTANCES:
        assert found[name].value > undamaged[name].value + 2 * half_width(undamaged[name]), name


def test_a_lost_class_is_the_worst_class(bench):
    found = bench.measured(DAMAGES["lost classes"]["a class lost"](bench), ("coverage", "recall"))
    for result in found.values():
        assert result.details["worst_class"]["name"] == bench.real.judge.class_names[-1]
        assert result.details["worst_class"]["value"] < 0.5 * result.details["worst_class"]["real"]


@pytest.mark.parametrize("what", INVISIBLE)
def test_what_nobody_sees_moves_nothing(bench, undamaged, what):
    found = bench.measured(INVISIBLE[what](bench), NAMES)
    for name in NAMES:
        assert abs(found[name].value - undamaged[name].value) <= 2 * half_width(undamaged[name]), name


@pytest.mark.full
@pytest.mark.parametrize("what", ["noise of ±3 of 255"])
def test_noise_that_nobody_sees_in_photographs_moves_nothing(what):
    table, scorer = full_test("cifar10").part(slice(0, 4 * N)), Scorer(*load_clip(dataset="cifar10"))
    bench = Bench.of(table, load_judge("cifar10"), scorer, N)
    before, after = (bench.measured(images, NAMES) for images in (bench.pool[:N], INVISIBLE[what](bench)))
    for name in NAMES:
        assert abs(after[name].value - before[name].value) <= 2 * half_width(before[name]), name
