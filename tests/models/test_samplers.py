"""Samplers, with the exact denoiser of a mixture of Gaussians in place of a model."""

import math
from functools import cache

import mixture
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from hfdiff.core.errors import BadInput
from hfdiff.models.config import ObjectiveConfig
from hfdiff.models.objectives import OBJECTIVES, make_objective
from hfdiff.models.samplers import make_scheduler, process_of, sampler_of, valid_samplers
from hfdiff.pipelines import predicted_clean, set_timesteps

RECIPES = [
    ObjectiveConfig(objective="flow"),
    ObjectiveConfig(objective="flow", flow_shift=3.0),
    ObjectiveConfig(objective="edm"),
    *(ObjectiveConfig(objective=name, schedule="linear") for name in ("epsilon", "v_prediction", "sample")),
    *(ObjectiveConfig(objective=name, schedule="cosine") for name in ("epsilon", "v_prediction", "sample")),
    ObjectiveConfig(objective="v_prediction", schedule="linear", zero_terminal_snr=True),
    ObjectiveConfig(objective="epsilon", schedule="scaled_linear"),
    ObjectiveConfig(objective="epsilon", schedule="sigmoid"),
    ObjectiveConfig(objective="epsilon", schedule="learned"),
]
PAIRS = [(recipe, name) for recipe in RECIPES for name in valid_samplers(make_objective(recipe).process())]
LAST_STEP = 3e-3  # error of the step from a table's least noise to none, however many come before
ORDERS = {"ddim": 1, "euler": 1, "heun": 2, "dpmpp_2m": 2, "unipc": 2, "ipndm": 4}


def label(value: object) -> str:
    if not isinstance(value, ObjectiveConfig):
        return str(value)
    words = [value.objective, value.schedule if OBJECTIVES[value.objective].kind == "discrete" else ""]
    return "-".join([word for word in words if word] + ["zero"] * value.zero_terminal_snr)


def ends_in_noise(recipe: ObjectiveConfig, name: str) -> bool:
    """Does the process end in noise, and the sampler bring none of its own?"""
    return recipe.schedule != "scaled_linear" and (recipe.flow_shift or 1) == 1 and name != "ddpm"


def normal(count: int) -> torch.Tensor:
    """Normal draws (count, 2), evenly spread so that their own mean and covariance are those of the normal."""
    draws = torch.quasirandom.SobolEngine(2, scramble=True, seed=0).draw(count).double()
    return torch.special.ndtri(draws.clamp(1e-6, 1 - 1e-6))


@cache
def solution(recipe: ObjectiveConfig, whole_table: bool) -> torch.Tensor:
    """The fourth-order solution with 500 steps for `normal(256)`, from EDM's noise level or the end of the table."""
    objective = make_objective(recipe)
    scheduler = make_scheduler(objective.process(), "ipndm")
    if whole_table:
        scheduler = type(scheduler).from_config(scheduler.config, sigma_max=1e9)
    return mixture.sample(objective, objective.process(), scheduler, 500, normal(256))


@pytest.mark.parametrize(("recipe", "name"), PAIRS, ids=label)
def test_every_pair_recovers_means_and_covariances(recipe, name):
    objective = make_objective(recipe)
    steps = 250 if name == "ddpm" else 100
    x = mixture.sample(objective, objective.process(), make_scheduler(objective.process(), name), steps, normal(2048))
    # A process that does not end in pure noise starts from the wrong place; ddpm is random.
    tolerance = 0.03 if name == "ddpm" or recipe.schedule == "scaled_linear" else 0.02
    assert torch.allclose(x.mean(dim=0), mixture.WIDE.mean(), atol=tolerance)
    assert torch.allclose(torch.cov(x.T), mixture.WIDE.covariance(), atol=tolerance)


@pytest.mark.parametrize(("recipe", "name"), [pair for pair in PAIRS if pair[1] != "ddpm"], ids=label)
def test_the_error_falls_at_the_order(recipe, name):
    """From 20 to 100 steps.

    On a table of betas, diffusers' solvers walk in even timesteps, of which the last ones, where the table is steepest,
    are long and of first order; only `ipndm` keeps its order there.
    """
    objective = make_objective(recipe)
    on_table = objective.process().kind == "discrete" and name != "ipndm"
    scheduler = make_scheduler(objective.process(), name)
    at_20, at_100 = (
        (mixture.sample(objective, objective.process(), scheduler, steps, normal(256)) - solution(recipe, on_table))
        .abs()
        .mean()
        for steps in (20, 100)
    )
    assert at_100 < 0.02
    assert at_100 < max(at_20 * 5 ** -(0.5 if on_table else 0.7 * ORDERS[name]), LAST_STEP if on_table else 0)


@pytest.mark.parametrize(("recipe", "name"), PAIRS, ids=label)
def test_the_predicted_clean_image_is_the_exact_denoisers(recipe, name):
    """At the scheduler's own timesteps, from the exact prediction, which the objective makes of noise and image."""
    objective = make_objective(recipe)
    process = objective.process()
    scheduler = make_scheduler(process, name)
    x = normal(64)
    for t in set_timesteps(scheduler, 7):
        alpha, sigma = mixture.levels(objective, process.betas, float(t))
        clean = mixture.WIDE.denoise(x, alpha, sigma)
        a, b = objective.target(torch.tensor(alpha).double(), torch.tensor(sigma).double())
        prediction = a * clean + b * (x - alpha * clean) / sigma
        predicted = predicted_clean(scheduler, x.reshape(-1, 2, 1, 1), prediction.reshape(-1, 2, 1, 1), t)
        assert torch.allclose(predicted.reshape(-1, 2), clean, atol=2e-3)


def test_multistep_weights_are_those_of_adams_and_bashforth():
    """On even steps of the time itself, the textbook's coefficients."""
    from hfdiff.pipelines.multistep import _adams_bashforth

    nodes = torch.tensor([1.0, 0.9, 0.8, 0.7], dtype=torch.float64).numpy()
    expected = [-0.1 * w / 24 for w in (-9, 37, -59, 55)]
    assert _adams_bashforth(nodes, 0.6, 1.0) == pytest.approx(expected)
    warped = _adams_bashforth(nodes, 0.6, 7.0)  # exact for cubics of s^(1/7)
    assert sum(warped * nodes ** (3 / 7)) == pytest.approx((0.6 ** (10 / 7) - 0.7 ** (10 / 7)) * 0.7)


@pytest.mark.parametrize(("recipe", "name"), PAIRS, ids=label)
def test_the_process_is_read_back_from_the_scheduler(recipe, name, tmp_path):
    process = make_objective(recipe).process()
    scheduler = make_scheduler(process, name)
    scheduler.save_pretrained(tmp_path)
    again = process_of(type(scheduler).from_pretrained(tmp_path))
    assert (again.kind, again.prediction_type, again.flow_shift) == (
        process.kind, process.prediction_type, process.flow_shift
    )  # fmt: skip
    assert again.betas == pytest.approx(process.betas)
    assert sampler_of(scheduler) == name


def test_the_process_of_a_foreign_scheduler():
    process = process_of(DPMSolverMultistepScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction"))
    assert (process.kind, process.prediction_type, len(process.betas)) == ("discrete", "v_prediction", 1000)


def test_spacings_space():
    """From EDM's most noise to the table's least, evenly in s^(1/7) or ln s."""
    process = make_objective(ObjectiveConfig(objective="v_prediction", schedule="cosine")).process()
    least = math.tan(mixture.angles(process.betas)[0])
    for name in ("dpmpp_2m", "unipc", "euler", "heun"):
        for spacing, even in (("karras", lambda s: s ** (1 / 7)), ("exponential", torch.log)):
            scheduler = make_scheduler(process, name, spacing)
            set_timesteps(scheduler, 10)
            nodes = scheduler.sigmas[:-1].unique().double()
            assert len(nodes) == 10
            assert torch.allclose(even(nodes).diff(), even(nodes).diff().mean(), rtol=1e-3)
            assert nodes[[0, -1]].tolist() == pytest.approx([least, 80.0], rel=1e-3)  # the table is float32


# Sampler -> evaluations, and the error in thousandths that the exact model may have then where components are close.
CLOSE_BOUNDS = {
    "ddim": (50, 20),
    "euler": (50, 20),
    "heun": (50, 40),
    "dpmpp_2m": (20, 14),
    "unipc": (20, 14),
    "ipndm": (20, 20),
}


@pytest.mark.parametrize(("recipe", "name"), [pair for pair in PAIRS if ends_in_noise(*pair)], ids=label)
def test_close_components_stay_apart(recipe, name):
    """What ends too early, or with a corrector, or at a rounded time, lies between components."""
    objective, (evaluations, bound) = make_objective(recipe), CLOSE_BOUNDS[name]
    process = objective.process()
    steps = (evaluations + 1) // 2 if name == "heun" else evaluations
    x = mixture.sample(objective, process, make_scheduler(process, name), steps, normal(256), mixture.CLOSE)
    exact = mixture.sample(objective, process, make_scheduler(process, "ipndm"), 200, normal(256), mixture.CLOSE)
    assert mixture.CLOSE.between(x) <= 0.04
    assert (x - exact).abs().mean() < bound / 1000


@pytest.mark.parametrize("name", ["ddpm", "ddim", "heun", "unipc"])
def test_a_sampler_that_does_not_go_with_a_process_lists_the_valid_ones(name):
    process = make_objective(ObjectiveConfig(objective="edm")).process()
    with pytest.raises(BadInput, match=f"sampler '{name}' does not go .*; valid: dpmpp_2m, euler, ipndm"):
        make_scheduler(process, name)


def test_invalid_samplers_list_the_valid_ones():
    flow, cosine = (make_objective(ObjectiveConfig(objective=name)).process() for name in ("flow", "epsilon"))
    with pytest.raises(BadInput, match="unknown sampler 'eular'.*did you mean 'euler'"):
        make_scheduler(flow, "eular")
    with pytest.raises(BadInput, match="spacing 'karras' does not go with sampler 'dpmpp_2m' .*; valid: auto"):
        make_scheduler(flow, "dpmpp_2m", "karras")
    with pytest.raises(BadInput, match="down to no signal; valid: ddpm, ddim, dpmpp_2m, unipc, ipndm"):
        make_scheduler(cosine, "euler")
