"""Timesteps that mean the sampler's own noise levels, and noise that nothing but the seed and the image decide."""

import math

import pytest
import torch
from conftest import tiny_unet
from diffusers import DDPMScheduler, KDPM2DiscreteScheduler
from diffusers.models.unets.unet_2d import UNet2DOutput

from hfdiff.models.config import ObjectiveConfig
from hfdiff.models.objectives import OBJECTIVES, make_objective
from hfdiff.models.samplers import SAMPLERS, make_scheduler, valid_samplers
from hfdiff.pipelines import (
    TARGETS,
    ClassStylePipeline,
    noise_levels,
    prediction_type,
    set_timesteps,
    timestep_at,
)

RECIPES = [
    ObjectiveConfig(objective="flow", flow_shift=2.0),
    ObjectiveConfig(objective="edm"),
    *(ObjectiveConfig(objective="v_prediction", schedule=s) for s in ("cosine", "linear", "sigmoid", "learned")),
    ObjectiveConfig(objective="v_prediction", schedule="linear", zero_terminal_snr=True),
]
PROCESSES = [make_objective(recipe).process() for recipe in RECIPES]
SPACED = [
    (process, name, spacing)
    for process in PROCESSES
    for name in valid_samplers(process)
    for spacing in SAMPLERS[name][process.kind].spacings
]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_pipeline(scheduler, **unet) -> ClassStylePipeline:
    styles = {"thick": {"phrase": "thick", "group": "stroke"}, "thin": {"phrase": "thin", "group": "stroke"}}
    pipe = ClassStylePipeline(tiny_unet(**unet), scheduler, {0: "Sneaker", 1: "Bag", 2: "Shirt"}, styles)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.kind)
def test_timesteps_are_the_inverse_of_noise_levels(process):
    scheduler = make_scheduler(process, "ipndm")
    levels = torch.logspace(math.log10(0.02), math.log10(60), 40, dtype=torch.float64)
    alpha, sigma = noise_levels(scheduler, timestep_at(scheduler, levels))
    assert torch.allclose(sigma / alpha, levels, rtol=1e-3)


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
@pytest.mark.parametrize(("process", "name", "spacing"), SPACED)
def test_the_network_is_given_the_timestep_of_the_samplers_own_noise(process, name, spacing, steps):
    scheduler = make_scheduler(process, name, spacing)
    timesteps = set_timesteps(scheduler, steps)
    alpha, sigma = noise_levels(scheduler, timesteps)
    assert len(timesteps) == (2 * steps - 1 if name == "heun" else steps)
    assert (sigma.diff() <= 0).all()
    if hasattr(scheduler, "sigmas"):
        own = scheduler.sigmas.double()
        assert own[-1] == 0
        expected = sigma if process.kind == "flow" else sigma / alpha
        assert torch.allclose(own[:-1], expected, rtol=1e-3)
    x = torch.zeros(1, 1, 2, 2)
    for t in timesteps:
        x = scheduler.step(torch.zeros_like(x), t, x, return_dict=False)[0]
    assert torch.isfinite(x).all()


def test_a_scheduler_that_evaluates_between_its_nodes_keeps_its_own_timesteps():
    saved = make_scheduler(make_objective(ObjectiveConfig(objective="v_prediction")).process(), "dpmpp_2m")
    ours, theirs = (KDPM2DiscreteScheduler.from_config(saved.config) for _ in range(2))
    theirs.set_timesteps(10)
    assert ours.config.use_exponential_sigmas
    assert torch.equal(set_timesteps(ours, 10), theirs.timesteps)


@pytest.mark.parametrize("name", ["euler", "heun"])
def test_a_flow_ends_with_a_whole_step(name):
    process = make_objective(ObjectiveConfig(objective="flow")).process()
    nodes = set_timesteps(make_scheduler(process, name), 10).unique().flip(0)
    assert torch.allclose(nodes, 1000 - 100 * torch.arange(10.0))


@pytest.mark.parametrize("strength", [0.3, 0.6, 0.9])
def test_every_objective_begins_with_the_same_noise(strength):
    for objective in OBJECTIVES:
        for schedule in ("cosine", "linear") if OBJECTIVES[objective].kind == "discrete" else ("auto",):
            process = make_objective(ObjectiveConfig(objective=objective, schedule=schedule)).process()
            for name in valid_samplers(process):
                scheduler = make_scheduler(process, name)
                alpha, sigma = noise_levels(scheduler, set_timesteps(scheduler, 50, strength)[0])
                assert sigma / (alpha + sigma) == pytest.approx(strength, abs=0.06)


@pytest.mark.parametrize("steps", [100, 50])
def test_no_step_is_lost_to_rounding(steps):
    process = make_objective(ObjectiveConfig(objective="flow")).process()
    for strength in torch.arange(1, steps + 1).tolist():
        scheduler = make_scheduler(process, "euler")
        assert len(set_timesteps(scheduler, steps, strength / steps)) == strength


def test_how_many_are_drawn_changes_no_image():
    """Of 195 values each, which is no multiple of the 16 that torch draws at once."""
    pipe = make_pipeline(DDPMScheduler(prediction_type="sample"), sample_size=(15, 13))

    def draw(count: int, **more):
        return pipe(["Bag"] * count, num_inference_steps=3, generator=seeded(), output_type="pt", **more).images

    seven = draw(7)
    assert torch.allclose(seven[:3], draw(3), atol=1e-5)
    assert torch.allclose(seven, draw(7, max_batch_size=4), atol=1e-5)
    assert not torch.allclose(seven[0], seven[1], atol=0.1)


def class_means(monkeypatch, scheduler) -> None:
    """Make the UNet the exact model of images N(m, 0.2^2), with m a pattern for the class, and 0 without one."""
    pattern = torch.linspace(-0.3, 0.5, 28).expand(1, 1, 28, 28).double()

    def predict(self, x, t, class_ids, weights):
        alpha, sigma = (float(level) for level in noise_levels(scheduler, t))
        mean = torch.where((class_ids < 3).reshape(-1, 1, 1, 1), pattern, 0 * pattern)
        gain = alpha * 0.04 / (alpha**2 * 0.04 + sigma**2)
        clean = mean + gain * (x.double() - alpha * mean)
        a, b = TARGETS[prediction_type(scheduler)](alpha, sigma)
        return UNet2DOutput(sample=(a * clean + b * (x.double() - alpha * clean) / sigma).float())

    monkeypatch.setattr(type(tiny_unet()), "forward", predict)


def test_rescaled_guidance_is_one_image_for_every_objective(monkeypatch):
    images = {}
    for objective in OBJECTIVES:
        process = make_objective(ObjectiveConfig(objective=objective)).process()
        pipe = make_pipeline(make_scheduler(process, "ipndm"))
        class_means(monkeypatch, pipe.scheduler)
        draw = {"guidance_scale": 4, "num_inference_steps": 60, "generator": seeded(), "output_type": "pt"}
        images[objective] = [pipe(["Bag"], guidance_rescale=phi, **draw).images for phi in (0.0, 0.7)]
    plain, rescaled = images["flow"]
    assert rescaled.std() < 0.9 * plain.std()
    for other in images.values():
        assert torch.allclose(other[0], plain, atol=0.01)
        assert torch.allclose(other[1], rescaled, atol=0.01)
