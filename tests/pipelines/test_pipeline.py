"""The pipeline: the grammar, the guidance formula, starting from images, and a folder that loads anywhere."""

import importlib
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import make_image, tiny_unet
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    IPNDMScheduler,
)
from diffusers.models.unets.unet_2d import UNet2DOutput
from PIL import Image
from schedulers import FLOW, SCHEDULERS, each_scheduler

from hfdiff.evaluation.clip_training import make_clip
from hfdiff.models.config import ObjectiveConfig
from hfdiff.models.objectives import make_objective
from hfdiff.pipelines import (
    INSTALLED,
    SAMPLING_DEFAULTS,
    ClassStylePipeline,
    Guidance,
    dead_zone,
    noise_levels,
    parse_styles,
    predicted_clean,
    read_images,
    resolve_styles,
    set_timesteps,
)

STYLES = {"thick": {"phrase": "thick", "group": "stroke"}, "thin": {"phrase": "thin", "group": "stroke"}}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (None, {}),
        ("", {}),
        ("plain", {}),
        ("thick", {"thick": 1.0}),
        ("thick:0.8+slanted", {"thick": 0.8, "slanted": 1.0}),
        (" thick : 0.5 + plain ", {"thick": 0.5}),
        ({"thick": 0.25}, {"thick": 0.25}),
        ({}, {}),
    ],
)
def test_style_grammar(spec, expected):
    assert parse_styles(spec) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("thick:2", "strength '2' of style 'thick'; valid: a number from 0 to 1"),
        ("thick:-0.1", "from 0 to 1"),
        ("thick:nan", "from 0 to 1"),
        ("thick:much", "strength 'much'"),
        ({"thick": None}, "strength None"),
        ("thick+thick:0.5", "names the style 'thick' twice"),
        ("thick+THICK", "names the style 'THICK' twice"),
        (":0.5", "has no name"),
        ("plain:0.5", "not 'plain'"),
        (5, r"style 5; valid: a text"),
        ({"a+b": 1}, r"no \+ or :"),
        ("thik", r"unknown style 'thik' \(did you mean 'thick'\?\); valid: thick, thin"),
        ("thick+thin:0.2", "'thick' and 'thin' exclude each other"),
    ],
)
def test_style_mistakes_are_named(spec, message):
    with pytest.raises(ValueError, match=message):
        resolve_styles(spec, STYLES)


def test_case_does_not_matter_and_strength_zero_excludes_nothing():
    assert resolve_styles("THICK:0.5+Thin:0", STYLES) == {"thick": 0.5, "thin": 0.0}


def test_conditions_come_label_by_label(pipeline):
    ids, styles = pipeline.conditions(["bag", 0, "2", None], ["thick", None, {"thin": 0.5}, "plain"], 2)
    assert ids == [1, 1, 0, 0, 2, 2, None, None]
    assert styles == [{"thick": 1.0}] * 2 + [{}] * 2 + [{"thin": 0.5}] * 2 + [{}] * 2
    assert pipeline.conditions("Sneaker", "thick")[1] == [{"thick": 1.0}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["boot"], None), "unknown class 'boot'; valid: Sneaker, Bag, T-shirt/top"),
        (([3], None), "class id 3 out of range; valid: 0 to 2"),
        ((["-1"], None), "unknown class"),
        (([0, 1], ["thick", "thin", "plain"]), "3 styles for 2 labels"),
        (([], None), "class_labels are an empty list"),
        (([0], None, 0), "num_images_per_label 0; valid: a whole number, 1 or more"),
    ],
)
def test_condition_mistakes_are_named(pipeline, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipeline.conditions(*arguments)


@pytest.mark.parametrize(("w_c", "w_s", "count"), [(1, 1, 1), (2, 2, 2), (1, 2, 2), (3, 1.5, 3), (0, 0, 1), (2, 0, 2)])
def test_guidance_is_the_formula_in_one_forward_per_step(pipeline, monkeypatch, w_c, w_s, count):
    assert len(Guidance(w_c, w_s).branches()) == count
    unet, calls = pipeline.unet, []
    forward = type(unet).forward
    monkeypatch.setattr(
        type(unet), "forward", lambda self, x, *a, **k: calls.append(len(x)) or forward(self, x, *a, **k)
    )
    images = pipeline(["Bag"], "thick:0.5", 2, w_c, w_s, 3, seeded(), output_type="pt").images
    assert calls == [2 * count] * 3

    scheduler, x = pipeline.scheduler, torch.randn((2, 1, 28, 28), generator=seeded())
    set_timesteps(scheduler, 3)
    c, s, none_c, none_s = (
        torch.tensor([1, 1]),
        torch.tensor([[0.5, 0.0]] * 2),
        torch.tensor([3, 3]),
        torch.full((2, 2), -1.0),
    )
    with torch.no_grad():
        for t in scheduler.timesteps:
            v00, vc0, vcs = (forward(unet, x, t, *cond).sample for cond in ((none_c, none_s), (c, none_s), (c, s)))
            x = scheduler.step(v00 + w_c * (vc0 - v00) + w_s * (vcs - vc0), t, x).prev_sample
    assert torch.allclose(images, (x / 2 + 0.5).clamp(0, 1), atol=1e-4)


@pytest.fixture
def guided(pipeline) -> ClassStylePipeline:
    """With a weaker UNet beside the main one."""
    return with_scheduler(pipeline, pipeline.scheduler, guide_unet=tiny_unet(block_out_channels=(4, 8)))


def with_scheduler(pipeline, scheduler, **more) -> ClassStylePipeline:
    pipe = ClassStylePipeline(pipeline.unet, scheduler, pipeline.config.id2label, pipeline.config.styles, **more)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def calls(monkeypatch) -> list[tuple[int, int]]:
    """(parameters of the UNet, rows) of each forward."""
    seen = []
    unet = type(tiny_unet())
    forward = unet.forward

    def record(self, sample, *rest, **more):
        seen.append((self.num_parameters(), len(sample)))
        return forward(self, sample, *rest, **more)

    monkeypatch.setattr(unet, "forward", record)
    return seen


@pytest.mark.parametrize(
    ("w_c", "w_s", "w_a", "phi", "rows"),
    [
        (1, 1, 2, 0, (2, 2)),
        (3, 3, 1.5, 0, (4, 2)),
        (3, 1.5, 2, 0, (6, 2)),
        (1, 1, 0, 0, (0, 2)),
        (2, 2, 1, 0.7, (4, 0)),
        (2, 3, 2, 1.0, (6, 2)),
        (2, 0, 1, 0.5, (6, 0)),  # v(c,s) has no weight, and its contrast is needed
        (1, 1, 1, 0.5, (2, 0)),
    ],
)
def test_autoguidance_and_rescale_are_their_formulas(guided, calls, w_c, w_s, w_a, phi, rows):
    more = {"autoguidance_scale": w_a, "guidance_rescale": phi, "output_type": "pt"}
    images = guided(["Bag"], "thick:0.5", 2, w_c, w_s, 3, seeded(), **more).images
    main, guide, scheduler = guided.unet, guided.guide_unet, guided.scheduler
    expected = [(unet.num_parameters(), n) for unet, n in zip((main, guide), rows, strict=True) if n]
    assert calls == expected * 3

    x = torch.randn((2, 1, 28, 28), generator=seeded())
    set_timesteps(scheduler, 3)
    c, s = torch.tensor([1, 1]), torch.tensor([[0.5, 0.0]] * 2)
    with torch.no_grad():
        for t in scheduler.timesteps:
            v00, vc0, vcs, g = (
                main(x, t).sample,
                main(x, t, c).sample,
                main(x, t, c, s).sample,
                guide(x, t, c, s).sample,
            )
            v = v00 + w_c * (vc0 - v00) + w_s * (vcs - vc0) + (w_a - 1) * (vcs - g)
            clean, plain = x - t / 1000 * v, x - t / 1000 * vcs
            # Lin et al. 2024, Listing 2, of the clean image
            contrast = clean * (plain.std([1, 2, 3], keepdim=True) / clean.std([1, 2, 3], keepdim=True))
            v = (x - phi * contrast - (1 - phi) * clean) / (t / 1000)
            x = scheduler.step(v, t, x).prev_sample
    assert torch.allclose(images, (x / 2 + 0.5).clamp(0, 1), atol=1e-4)


def test_guidance_acts_inside_its_interval_only(pipeline, calls):
    pipe = with_scheduler(pipeline, EulerDiscreteScheduler())
    draw = {"guidance_scale": 4, "style_guidance_scale": 2, "generator": seeded(), "output_type": "pt"}
    images = pipe(["Bag"], "thin", guidance_interval=(0.5, 5.0), **draw).images
    scheduler, unet = pipe.scheduler, pipe.unet
    set_timesteps(scheduler, 10)
    inside = [0.5 <= sigma <= 5 for sigma in scheduler.sigmas[:-1].tolist()]
    assert [rows for _, rows in calls] == [3 if guided else 1 for guided in inside]
    assert 0 < sum(inside) < 10

    x = torch.randn((1, 1, 28, 28), generator=seeded()) * scheduler.init_noise_sigma
    c, s = torch.tensor([1]), torch.tensor([[0.0, 1.0]])
    with torch.no_grad():
        for t, guide in zip(scheduler.timesteps, inside, strict=True):
            y = scheduler.scale_model_input(x, t)
            v = unet(y, t, c, s).sample
            if guide:
                v00, vc0 = unet(y, t).sample, unet(y, t, c).sample
                v = v00 + 4 * (vc0 - v00) + 2 * (v - vc0)
            x = scheduler.step(v, t, x).prev_sample
    assert torch.allclose(images, (x / 2 + 0.5).clamp(0, 1), atol=1e-3)


def test_the_interval_holds_for_autoguidance_too(guided, calls):
    draw = {"autoguidance_scale": 2, "generator": seeded(), "output_type": "pt"}
    images = guided(["Bag"], guidance_interval=(1e4, 1e5), **draw).images
    assert [rows for _, rows in calls] == [1] * 10
    draw = {"guidance_scale": 1, "style_guidance_scale": 1, "generator": seeded(), "output_type": "pt"}
    assert torch.equal(images, guided(["Bag"], **draw).images)


def chosen(pipeline, **sampling) -> ClassStylePipeline:
    """The same pipeline with settings chosen for it."""
    parts, config = pipeline.components, pipeline.config
    pipe = ClassStylePipeline(**parts, id2label=config.id2label, styles=config.styles, sampling=sampling)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_what_was_chosen_for_a_model_holds_where_nothing_is_given(pipeline, tmp_path):
    own = {
        "num_inference_steps": 4,
        "guidance_scale": 1.5,
        "style_guidance_scale": 2.0,
        "guidance_interval": [0.2, 5.0],
    }
    chosen(pipeline, **own).save_pretrained(tmp_path)
    pipe = ClassStylePipeline.from_pretrained(tmp_path)
    pipe.set_progress_bar_config(disable=True)
    draw = {"class_labels": ["Bag"], "styles": "thin", "output_type": "pt"}
    assert torch.equal(pipe(**draw, generator=seeded()).images, pipeline(**draw, **own, generator=seeded()).images)
    assert torch.equal(
        pipe(**draw, generator=seeded(), guidance_scale=3).images,
        pipeline(**draw, **{**own, "guidance_scale": 3}, generator=seeded()).images,
    )
    assert pipe.settings(num_inference_steps=7)["num_inference_steps"] == 7
    assert pipeline.settings() == SAMPLING_DEFAULTS


def test_autoguidance_that_was_chosen_goes_with_its_guide(guided):
    pipe = chosen(guided, autoguidance_scale=2.0)
    assert pipe.settings()["autoguidance_scale"] == 2
    pipe.register_modules(guide_unet=None)
    assert pipe.settings()["autoguidance_scale"] == 1
    assert len(pipe(["Bag"]).images) == 1


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({"guidance": 2}, "sampling sets guidance; valid: num_inference_steps, guidance_scale"),
        ({"guidance_scale": "high"}, "guidance_scale high; valid: -1000 to 1000"),
        ({"guidance_interval": [5, 1]}, "guidance_interval .* valid: two noise levels"),
        ({"num_inference_steps": 0}, "num_inference_steps 0; valid: a whole number, 1 to 1000"),
    ],
)
def test_settings_that_cannot_be_a_models_own(pipeline, sampling, message):
    with pytest.raises(ValueError, match=message):
        chosen(pipeline, **sampling)


@each_scheduler
def test_an_interval_of_everything_changes_no_bit(pipeline, name):
    pipe = with_scheduler(pipeline, SCHEDULERS[name]())
    default, everything, nearly = (
        pipe(["Bag"], "thin", num_inference_steps=3, generator=seeded(), output_type="pt", **more).images
        for more in ({}, {"guidance_interval": [0, math.inf]}, {"guidance_interval": (1e-9, math.inf)})
    )
    assert torch.equal(default, everything)
    assert torch.equal(default, nearly)


def test_a_scheduler_of_unknown_noise_draws_for_its_own_model_where_no_noise_level_is_asked_for(pipeline):
    pipe = with_scheduler(pipeline, IPNDMScheduler())
    assert len(pipe(["Bag"]).images) == 1
    with pytest.raises(ValueError, match="noise levels of IPNDMScheduler are unknown"):
        pipe(["Bag"], guidance_interval=(0.2, 5))


def test_a_guide_must_fit_the_unet(pipeline):
    with pytest.raises(ValueError, match="num_classes of guide_unet is 2; valid: 3"):
        with_scheduler(pipeline, pipeline.scheduler, guide_unet=tiny_unet(num_classes=2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"guidance_scale": math.nan}, "guidance_scale nan; valid: -1000 to 1000"),
        ({"style_guidance_scale": 1e9}, "style_guidance_scale 1000000000.0; valid: -1000 to 1000"),
        ({"autoguidance_scale": "2x"}, "autoguidance_scale 2x; valid: -1000 to 1000"),
        ({"autoguidance_scale": 2}, "autoguidance_scale 2 without a guide_unet; valid: 1"),
        ({"guidance_rescale": 1.1}, "guidance_rescale 1.1; valid: 0 to 1"),
        ({"guidance_interval": (5, 0.2)}, r"guidance_interval \(5, 0.2\); valid: two noise levels, 0 <= low < high"),
        ({"guidance_interval": (-1, 2)}, "0 <= low < high"),
        ({"guidance_interval": (0, math.nan)}, "0 <= low < high"),
        ({"guidance_interval": (1, 2, 3)}, "two noise levels"),
        ({"guidance_interval": 3}, "guidance_interval 3; valid"),
        ({"guidance_interval": "ab"}, "guidance_interval ab; valid"),
        ({"strength": 0.5}, "strength 0.5 without an image"),
        ({"image": make_image(0), "strength": 0}, "strength 0; valid: above 0, to 1"),
        ({"image": make_image(0), "strength": 1.5}, "strength 1.5; valid: above 0, to 1"),
        ({"image": make_image(0), "strength": math.nan}, "strength nan; valid"),
        ({"mask": make_image(0)}, "mask without an image"),
        ({"image": "cat.png"}, "image of type str; valid: PIL, numpy NHWC, torch NCHW, or a list"),
        ({"image": []}, "image is an empty list"),
        ({"image": np.zeros((28, 28, 2))}, "image with 2 channels; valid: 1, grey or colour"),
        ({"image": torch.full((1, 28, 28), 2.0)}, r"image with values outside \[0, 1\]"),
        ({"image": torch.full((1, 28, 28), math.nan)}, "image with values outside"),
        ({"image": torch.zeros(3, 1, 0, 5)}, "image with values outside"),
        ({"image": [make_image(0)] * 3}, "3 images for 2 labels and 4 images; valid: one for all, one for each label"),
        ({"image": make_image(0), "mask": np.zeros((3, 28, 28))}, "3 masks for 2 labels and 4 images"),
        ({"image": Image.new("F", (28, 28))}, "image: pixels of mode F; valid: grey or RGB of 8 or 16 bits a channel"),
    ],
)
def test_mistakes_in_a_call_are_named(pipeline, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipeline(["Bag", "Sneaker"], num_images_per_label=2, **arguments)


def test_noise_levels_are_the_closed_forms():
    t = torch.tensor([0, 250, 999])
    alpha_bar = DDPMScheduler().alphas_cumprod.double()
    for scheduler in (DDPMScheduler(), EulerDiscreteScheduler(prediction_type="v_prediction")):
        alpha, sigma = noise_levels(scheduler, t)
        assert torch.allclose(alpha, alpha_bar[t].sqrt())
        assert torch.allclose(sigma, (1 - alpha_bar[t]).sqrt())
    for scheduler in (FlowMatchEulerDiscreteScheduler(), DPMSolverMultistepScheduler(**FLOW)):
        alpha, sigma = noise_levels(scheduler, torch.tensor([0.0, 333.5, 1000.0]))
        assert torch.allclose(sigma, torch.tensor([0.0, 0.3335, 1.0]).double())
        assert torch.allclose(alpha, 1 - sigma)
    edm = EDMEulerScheduler(sigma_data=0.4)
    alpha, sigma = noise_levels(edm, edm.precondition_noise(torch.tensor([0.01, 0.5, 80.0])))
    assert torch.allclose(sigma / alpha, torch.tensor([0.01, 0.5, 80.0]).double(), rtol=1e-5)
    assert torch.allclose(0.4**2 * alpha**2 + sigma**2, torch.ones(3).double())  # the input has unit variance


def test_noise_levels_between_whole_timesteps_and_at_pure_noise():
    alpha, sigma = noise_levels(DDPMScheduler(), torch.arange(0, 999, 0.25))
    assert ((sigma / alpha).diff() > 0).all()
    assert torch.allclose(alpha**2 + sigma**2, torch.ones_like(alpha))
    silent = DDIMScheduler(rescale_betas_zero_snr=True)
    alpha, sigma = noise_levels(silent, 999)
    assert alpha.abs() < 1e-12
    assert torch.allclose(sigma, torch.ones_like(sigma))
    alpha, sigma = noise_levels(FlowMatchEulerDiscreteScheduler(), 1000)
    assert (sigma / alpha).isinf()
    assert noise_levels(DDPMScheduler(), -3.0) == noise_levels(DDPMScheduler(), 0)


def own_noising(scheduler, clean, noise, strength: float):
    """The scheduler's own way to noise images, before the first of its steps."""
    t = set_timesteps(scheduler, 10, strength)[:1]
    if hasattr(scheduler, "scale_noise"):
        return scheduler.scale_noise(clean, t, noise)
    return scheduler.add_noise(clean, noise, t)


@each_scheduler
@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_the_start_is_what_the_scheduler_itself_makes_of_an_image(pipeline, monkeypatch, name, strength):
    pipe = with_scheduler(pipeline, SCHEDULERS[name]())
    states, step = [], type(pipe.scheduler).step
    monkeypatch.setattr(
        type(pipe.scheduler),
        "step",
        lambda self, p, t, sample, **more: states.append(sample) or step(self, p, t, sample, **more),
    )
    pixels = torch.rand((1, 1, 28, 28), generator=seeded(5))
    pipe(["Bag"], None, 1, 1, 1, image=pixels, strength=strength, generator=seeded())
    assert len(states) == len(set_timesteps(SCHEDULERS[name](), 10, strength))
    noise = torch.randn((1, 1, 28, 28), generator=seeded())
    expected = own_noising(SCHEDULERS[name](), 2 * pixels - 1, noise, strength)
    assert (states[0] - expected).abs().max() <= 1e-4 * expected.abs().max()


def perfect_unet(monkeypatch, name, clean, noise):
    """Make the UNet predict as one that knows the clean image and the noise."""

    def predict(self, sample, t, *conditions):
        scheduler = SCHEDULERS[name]()
        t = torch.as_tensor(t, dtype=torch.float64)
        if "flow" in name:
            target = noise - clean
        elif name.startswith("edm"):  # Karras et al. 2022, Equation 7, solved for F
            sigma, d = (4 * t).exp(), scheduler.config.sigma_data
            c_skip, c_out = d**2 / (sigma**2 + d**2), sigma * d / (sigma**2 + d**2).sqrt()
            target = (clean - c_skip * (clean + sigma * noise)) / c_out
        elif name.endswith("_v"):
            angle = np.interp(t, np.arange(1000), np.arccos(scheduler.alphas_cumprod.double().sqrt().numpy()))
            target = math.cos(angle) * noise - math.sin(angle) * clean
        else:
            target = clean if name.endswith("sample") else noise
        return UNet2DOutput(sample=target.float().expand(len(sample), -1, -1, -1))

    monkeypatch.setattr(type(tiny_unet()), "forward", predict)


@each_scheduler
@pytest.mark.parametrize("strength", [0.1, 0.6, 1.0])
def test_a_perfect_unet_gives_the_image_back(pipeline, monkeypatch, name, strength):
    pixels = torch.rand((1, 1, 28, 28), generator=seeded(5))
    perfect_unet(monkeypatch, name, 2 * pixels - 1, torch.randn((1, 1, 28, 28), generator=seeded()))
    pipe = with_scheduler(pipeline, SCHEDULERS[name]())
    out = pipe(["Bag"], image=pixels, strength=strength, generator=seeded(), output_type="pt").images
    assert torch.allclose(out, pixels, atol=1e-3)


@each_scheduler
def test_the_callback_is_told_every_evaluation(pipeline, calls, name):
    """In parts of four images: two UNet rows each for six images, eight rows at once."""
    pipe, told = with_scheduler(pipeline, SCHEDULERS[name]()), []

    def tell(*words):
        told.append(words)

    draw = {"num_images_per_label": 6, "num_inference_steps": 3, "max_batch_size": 8, "output_type": "pt"}
    images = pipe(["Bag"], generator=seeded(), callback_on_step_end=tell, **draw).images
    assert torch.equal(images, pipe(["Bag"], generator=seeded(), **draw).images)
    timesteps = told[0][0].scheduler.timesteps.tolist()
    assert len(told) == len(calls) // 2 == 2 * len(timesteps)
    assert [(index, t.item()) for _, index, t, _ in told] == list(enumerate(timesteps)) * 2
    sizes = {len(tensor) for _, index, _, tensors in told[: len(timesteps)] for tensor in tensors.values()}
    assert sizes == {4}
    assert told[-1][0].unet is pipe.unet
    assert told[-1][0].scheduler is not pipe.scheduler  # a call's own, which no other call moves
    assert torch.equal((told[-1][3]["latents"] / 2 + 0.5).clamp(0, 1), images[4:])


def test_the_callback_may_replace_the_state(pipeline):
    grey = pipeline(["Bag"], callback_on_step_end=lambda *told: {"latents": 0 * told[3]["latents"]}, output_type="pt")
    assert torch.equal(grey.images, torch.full((1, 1, 28, 28), 0.5))


@each_scheduler
def test_a_perfect_unet_predicts_the_clean_image_at_every_evaluation(pipeline, monkeypatch, name):
    pixels = torch.rand((1, 1, 28, 28), generator=seeded(5))
    clean, noise = 2 * pixels - 1, torch.randn((1, 1, 28, 28), generator=seeded())
    perfect_unet(monkeypatch, name, clean, noise)
    pipe, told = with_scheduler(pipeline, SCHEDULERS[name]()), []
    pipe(["Bag"], image=pixels, strength=0.6, generator=seeded(), callback_on_step_end=lambda *t: told.append(t))
    for _, _, t, tensors in told:
        alpha, sigma = (level.float() for level in noise_levels(pipe.scheduler, t))
        if not name.startswith("ddpm"):  # which draws noise of its own
            assert torch.allclose(tensors["model_input"], alpha * clean + sigma * noise, atol=1e-3)
        predicted = predicted_clean(pipe.scheduler, tensors["model_input"], tensors["prediction"], t)
        assert torch.allclose(predicted, clean, atol=1e-3 / alpha)
    assert len(told) >= 3


def test_how_far_to_go(pipeline, calls):
    pipe = with_scheduler(pipeline, FlowMatchEulerDiscreteScheduler())
    one = {"guidance_scale": 1, "style_guidance_scale": 1, "output_type": "pt"}

    def draw(**more):
        calls.clear()
        return pipe(["Bag"], generator=seeded(), **one, **more).images, len(calls)

    image = make_image(3, (28, 28))
    from_noise, steps = draw()
    full = draw(image=image, strength=1.0)
    assert full[1] == steps == 10
    assert torch.equal(full[0], from_noise)  # at t = 1 a flow holds nothing of the image
    assert draw(image=image)[1] == 6  # by default 0.6
    assert draw(image=image, strength=0.001)[1] == 1  # at least one
    assert draw(image=image, strength=0.29, num_inference_steps=100)[1] == 29


def test_every_kind_of_image_means_the_same(pipeline):
    grey = make_image(1, (28, 28))
    array = np.asarray(grey)
    kinds = (
        grey,
        [grey],
        array,
        array[None, :, :, None],
        array.astype(np.float64) / 255,
        np.float32(array)[None, :, :, None] / 255,
        torch.tensor(array),
        torch.tensor(array)[None, None] / 255,
        grey.convert("RGB"),
        grey.convert("RGBA"),
        grey.convert("LA"),
    )
    for kind in kinds:
        pixels = read_images("image", kind, 1, 28, 28)
        assert pixels.shape == (1, 1, 28, 28)
        assert torch.allclose(pixels[0, 0], torch.tensor(array) / 255)
        assert torch.equal(read_images("image", kind, 3, 28, 28), pixels.expand(1, 3, 28, 28))


def test_channels_and_sizes_are_converted():
    colour = make_image(2, (28, 28), "RGB")
    luma = torch.tensor(np.asarray(colour.convert("L"))) / 255
    for kind in (colour, np.asarray(colour), torch.tensor(np.asarray(colour)).permute(2, 0, 1)):
        assert torch.allclose(read_images("image", kind, 1, 28, 28)[0, 0], luma, atol=0.005)
    clear = Image.new("RGBA", (28, 28), (0, 0, 0, 0))
    assert (read_images("image", clear, 3, 28, 28) == 1).all()
    wide = torch.zeros(1, 40, 100)
    wide[:, :, 30:70] = 0.5  # what stays of the width
    assert torch.allclose(read_images("image", wide, 1, 20, 20), torch.tensor(0.5))
    ramp = Image.fromarray(np.tile(np.arange(0, 256, 2, dtype=np.uint8), (128, 1)))
    small = read_images("image", [ramp, ramp.resize((64, 64))], 1, 16, 16)
    expected = torch.tensor(np.asarray(ramp).reshape(128, 16, 8).mean(axis=2)[0]) / 255
    assert torch.allclose(small[0, 0, 5, 2:-2], expected[2:-2].float(), atol=0.01)
    assert torch.allclose(small[0], small[1], atol=0.02)


def test_one_image_for_all_for_each_label_or_for_each_drawn(pipeline):
    a, b = make_image(1, (28, 28)), make_image(2, (28, 28))

    def draw(image):
        out = pipeline(["Bag", "Sneaker"], None, 2, image=image, strength=0.2, generator=seeded(), output_type="pt")
        return out.images

    assert torch.equal(draw(a), draw([a] * 4))
    assert torch.equal(draw([a, b]), draw([a, a, b, b]))
    assert not torch.equal(draw([a, b]), draw([a, b, a, b]))
    assert (draw(a)[0] - draw(b)[0]).abs().mean() > 0.1


def test_the_seed_decides_and_the_batch_split_does_not(pipeline):
    def draw(**more):
        return pipeline(["Bag", "Sneaker"], num_images_per_label=3, generator=seeded(), output_type="pt", **more).images

    assert torch.equal(draw(), draw())
    assert torch.allclose(draw(), draw(max_batch_size=4), atol=1e-5)
    assert not torch.equal(draw(), draw(num_inference_steps=3))


def test_one_generator_for_each_image(pipeline):
    both = pipeline(["Bag", "Bag"], generator=[seeded(1), seeded(2)], output_type="pt").images
    second = pipeline(["Bag"], generator=[seeded(2)], output_type="pt").images
    assert torch.allclose(both[1:], second, atol=1e-5)
    with pytest.raises(ValueError, match="1 generators for 2 images"):
        pipeline(["Bag", "Bag"], generator=[seeded()])


def test_output_types(pipeline):
    def draw(output_type):
        return pipeline(
            ["Bag"], num_images_per_label=2, generator=seeded(), num_inference_steps=2, output_type=output_type
        )

    pt, array, pil = (draw(kind) for kind in ("pt", "np", "pil"))
    assert pt.images.shape == (2, 1, 28, 28)
    assert array.images.shape == (2, 28, 28, 1)
    assert array.images.dtype == np.float32
    assert 0 <= array.images.min() <= array.images.max() <= 1
    assert [(image.size, image.mode) for image in pil.images] == [((28, 28), "L")] * 2
    assert pil.class_labels == [1, 1]
    assert pipeline(["Bag"], return_dict=False, num_inference_steps=1)[0][0].size == (28, 28)
    with pytest.raises(ValueError, match="output_type 'jpg'; valid: pil, np, pt"):
        draw("jpg")


def test_plain_and_unspecified_are_different_conditions(pipeline):
    plain = pipeline(["Bag"], None, generator=seeded(), output_type="pt", guidance_scale=1, style_guidance_scale=1)
    unspecified = pipeline(
        ["Bag"], None, generator=seeded(), output_type="pt", guidance_scale=1, style_guidance_scale=0
    )
    assert not torch.allclose(plain.images, unspecified.images)


WITHOUT_HFDIFF = """
import sys, torch
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == "hfdiff" or name.startswith("hfdiff."):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from diffusers import DiffusionPipeline
first, second, third = sys.argv[1:]
def draw(folder):
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    w = 1.0 if pipe.guide_unet is None else 2.0
    chosen = {"num_candidates": 4, "top_k": 2} if pipe.clip_model is not None else {}
    images = pipe(["bag"], "thin:0.5", generator=generator, output_type="pt", autoguidance_scale=w, **chosen).images
    return pipe, images
pipe, images = draw(first)
pipe.save_pretrained(second)
pipe, again = draw(second)
assert torch.equal(images, again)
pipe.save_pretrained(third)
from safetensors.torch import save_file
save_file({"images": images}, third + "/images.safetensors")
"""


def test_samples_end_as_clean_as_the_data(pipeline, tmp_path):
    plain = pipeline(["bag"], num_images_per_label=4, generator=seeded(), output_type="pt").images
    with_scheduler(pipeline, pipeline.scheduler, clean_ends=True).save_pretrained(tmp_path / "clean")
    clean = ClassStylePipeline.from_pretrained(tmp_path / "clean")
    clean.set_progress_bar_config(disable=True)
    images = clean(["bag"], num_images_per_label=4, generator=seeded(), output_type="pt").images
    assert torch.equal(images, dead_zone(plain))
    assert not torch.equal(images, plain)


@pytest.mark.slow
def test_loads_anywhere_and_survives_saving_again(pipeline, tmp_path):
    from safetensors.torch import load_file

    folders = [str(tmp_path / name) for name in ("first", "second", "third")]
    pipeline.save_pretrained(folders[0])
    subprocess.run([sys.executable, "-c", WITHOUT_HFDIFF, *folders], check=True, cwd=tmp_path)
    reloaded = ClassStylePipeline.from_pretrained(folders[2])
    reloaded.set_progress_bar_config(disable=True)
    assert type(reloaded.unet) is type(pipeline.unet)
    images = reloaded(["bag"], "thin:0.5", generator=seeded(), output_type="pt").images
    elsewhere = load_file(f"{folders[2]}/images.safetensors")["images"]
    assert torch.allclose(images, elsewhere, atol=1e-4)  # another process may round otherwise
    reloaded.save_pretrained(tmp_path / "fourth")
    index = json.loads((tmp_path / "fourth" / "model_index.json").read_text())
    assert index["_class_name"] == ["class_style", "ClassStylePipeline"]
    assert index["unet"] == ["unet", "ClassStyleUNet2DModel"]
    assert index["guide_unet"] == [None, None]
    assert reloaded.guide_unet is None
    assert (tmp_path / "fourth" / "unet" / "unet.py").is_file()


@pytest.mark.slow
def test_a_pipeline_carries_its_clip(pipeline, fashion, tmp_path):
    from safetensors.torch import load_file

    scorer = make_clip(fashion[0])
    pipeline.register_modules(clip_model=scorer.model, clip_processor=scorer.processor)
    folders = [str(tmp_path / name) for name in ("first", "second", "third")]
    pipeline.save_pretrained(folders[0])
    subprocess.run([sys.executable, "-c", WITHOUT_HFDIFF, *folders], check=True, cwd=tmp_path)
    chosen = {"num_candidates": 4, "top_k": 2, "output_type": "pt"}
    images = pipeline(["bag"], "thin:0.5", generator=seeded(), **chosen).images
    assert torch.allclose(images, load_file(f"{folders[2]}/images.safetensors")["images"], atol=1e-4)


CUSTOM_SCHEDULER = """
from diffusers import FlowMatchEulerDiscreteScheduler, SchedulerMixin
from diffusers.configuration_utils import register_to_config

class DampedScheduler(FlowMatchEulerDiscreteScheduler):
    @register_to_config
    def __init__(self, num_train_timesteps=1000, shift=1.0, damping=0.5):
        super().__init__(num_train_timesteps, shift=shift)
        self.register_to_config(damping=damping)

    def step(self, model_output, timestep, sample, **more):
        return super().step(self.config.damping * model_output, timestep, sample, **more)
"""


@pytest.fixture
def custom(guided, tmp_path, monkeypatch) -> ClassStylePipeline:
    """With a guide, and a scheduler from a module that is neither diffusers' nor hfdiff's."""
    (tmp_path / "package" / "elsewhere").mkdir(parents=True)
    (tmp_path / "package" / "elsewhere" / "damped.py").write_text(CUSTOM_SCHEDULER)
    monkeypatch.syspath_prepend(tmp_path / "package")
    monkeypatch.setitem(INSTALLED, "damped", "elsewhere.damped")
    scheduler = importlib.import_module("elsewhere.damped").DampedScheduler()
    yield with_scheduler(guided, scheduler, guide_unet=guided.guide_unet)
    for name in ("elsewhere", "elsewhere.damped"):
        sys.modules.pop(name)


@pytest.mark.slow
def test_custom_components_load_anywhere_and_survive_saving_again(custom, tmp_path):
    from safetensors.torch import load_file

    folders = [str(tmp_path / name) for name in ("first", "second", "third")]
    custom.save_pretrained(folders[0])
    subprocess.run([sys.executable, "-c", WITHOUT_HFDIFF, *folders], check=True, cwd=tmp_path)
    reloaded = ClassStylePipeline.from_pretrained(folders[2])
    reloaded.set_progress_bar_config(disable=True)
    assert type(reloaded.scheduler) is type(custom.scheduler)
    assert type(reloaded.guide_unet) is type(custom.guide_unet)
    draw = {"autoguidance_scale": 2.0, "output_type": "pt"}
    images = reloaded(["bag"], "thin:0.5", generator=seeded(), **draw).images
    elsewhere = load_file(f"{folders[2]}/images.safetensors")["images"]
    assert torch.allclose(images, elsewhere, atol=1e-4)  # another process may round otherwise
    here = custom(["bag"], "thin:0.5", generator=seeded(), **draw).images
    assert torch.allclose(images, here, atol=1e-4)  # weights that are read from a file lie elsewhere in memory
    assert not torch.equal(images, reloaded(["bag"], "thin:0.5", generator=seeded(), output_type="pt").images)
    reloaded.save_pretrained(tmp_path / "fourth")
    index = json.loads((tmp_path / "fourth" / "model_index.json").read_text())
    assert index["unet"] == index["guide_unet"] == ["unet", "ClassStyleUNet2DModel"]
    assert index["scheduler"] == ["damped", "DampedScheduler"]
    for file in ("class_style.py", "unet/unet.py", "guide_unet/unet.py", "scheduler/damped.py"):
        assert (tmp_path / "fourth" / file).is_file()


def test_without_trust_no_code_of_any_component_runs(custom, tmp_path, monkeypatch):
    custom.save_pretrained(tmp_path / "model")
    for file in (tmp_path / "model").rglob("*.py"):
        file.write_text("raise SystemExit('the code of the folder ran')")
    assert ClassStylePipeline.from_pretrained(tmp_path / "model").scheduler.config.damping == 0.5
    monkeypatch.delitem(INSTALLED, "damped")
    with pytest.raises(ValueError, match="trust_remote_code"):
        ClassStylePipeline.from_pretrained(tmp_path / "model")


def test_each_style_keeps_its_column_when_saved(tmp_path):
    """diffusers sorts a saved configuration by name."""
    styles = {name: {"phrase": name, "group": None} for name in ("thick", "slanted", "dark")}
    pipe = ClassStylePipeline(
        tiny_unet(num_classes=1, num_styles=3), make_objective(ObjectiveConfig()).scheduler(), {0: "a"}, styles
    )
    pipe.save_pretrained(tmp_path)
    assert ClassStylePipeline.from_pretrained(tmp_path).style_names == ["thick", "slanted", "dark"] == pipe.style_names


def test_without_trust_no_code_of_the_folder_runs(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    for file in (tmp_path / "class_style.py", tmp_path / "unet" / "unet.py"):
        file.write_text("raise SystemExit('the code of the folder ran')")
    assert ClassStylePipeline.from_pretrained(tmp_path).class_names == ["Sneaker", "Bag", "T-shirt/top"]
    with pytest.raises(ValueError, match="trust_remote_code"):
        DiffusionPipeline.from_pretrained(tmp_path)


def test_names_must_fit_the_unet(pipeline):
    with pytest.raises(ValueError, match="id2label names 1 classes, the UNet has 3"):
        ClassStylePipeline(pipeline.unet, pipeline.scheduler, {0: "a"}, dict(STYLES))
    with pytest.raises(ValueError, match="0 styles are named, the UNet has 2"):
        ClassStylePipeline(pipeline.unet, pipeline.scheduler, pipeline.config.id2label, {})
