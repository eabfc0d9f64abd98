"""Drawing a part of an image: what is kept, and the conditional distribution of an exact model for the rest."""

import numpy as np
import pytest
import torch
from conftest import tiny_unet
from diffusers.models.unets.unet_2d import UNet2DOutput
from PIL import Image
from schedulers import SCHEDULERS

from hfdiff.models.config import ObjectiveConfig
from hfdiff.models.objectives import make_objective
from hfdiff.pipelines import TARGETS, ClassStylePipeline, noise_levels, prediction_type

DEVIATION = 0.25  # of a pixel in [-1, 1]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def right_half(side: int = 28) -> torch.Tensor:
    mask = torch.zeros(side, side)
    mask[:, side // 2 :] = 1
    return mask


def with_scheduler(pipeline, scheduler) -> ClassStylePipeline:
    pipe = ClassStylePipeline(pipeline.unet, scheduler, pipeline.config.id2label, pipeline.config.styles)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def gaussian_pairs(monkeypatch, scheduler, rho: float) -> None:
    """Make the UNet the exact model of images in normal halves, each pixel of correlation rho with its fellow."""

    def predict(self, x, t, *conditions):
        alpha, sigma = (float(level) for level in noise_levels(scheduler, t))
        left, right = x.double().chunk(2, dim=-1)
        # Their sum and their difference are independent.
        parts = [
            (mixed / 2, DEVIATION**2 * (1 + sign * rho)) for mixed, sign in ((left + right, 1), (left - right, -1))
        ]
        half_sum, half_difference = (
            alpha * variance / (alpha**2 * variance + sigma**2) * part for part, variance in parts
        )
        clean = torch.cat([half_sum + half_difference, half_sum - half_difference], dim=-1)
        a, b = TARGETS[prediction_type(scheduler)](alpha, sigma)
        return UNet2DOutput(sample=(a * clean + b * (x.double() - alpha * clean) / sigma).float())

    monkeypatch.setattr(type(tiny_unet()), "forward", predict)


@pytest.mark.parametrize(
    ("objective", "rho"), [("flow", 0.9), ("flow", 0.99), ("edm", 0.9), ("epsilon", 0.9), ("v_prediction", 0.99)]
)
def test_the_drawn_part_follows_the_kept_as_in_the_conditional_distribution(pipeline, monkeypatch, objective, rho):
    pipe = with_scheduler(pipeline, make_objective(ObjectiveConfig(objective=objective)).scheduler())
    gaussian_pairs(monkeypatch, pipe.scheduler, rho)
    kept = DEVIATION * torch.randn((12, 1, 28, 28), generator=seeded())
    one = {"guidance_scale": 1, "style_guidance_scale": 1, "generator": seeded(1), "output_type": "pt"}
    images = pipe(["Bag"] * 12, image=(kept / 2 + 0.5).clamp(0, 1), mask=right_half(), **one).images
    kept, drawn = (part.double().flatten() for part in (2 * images - 1).chunk(2, dim=-1))
    slope = (kept @ drawn) / (kept @ kept)
    assert slope == pytest.approx(rho, abs=0.05)
    assert 0.5 < (drawn - slope * kept).var() / (DEVIATION**2 * (1 - rho**2)) < 1.5


@pytest.mark.parametrize("name", ["dpm_flow", "heun_epsilon", "flow_heun", "ddpm_sample", "edm_dpm", "unipc_flow"])
def test_what_the_mask_keeps_stays_to_the_bit(pipeline, name):
    pipe = with_scheduler(pipeline, SCHEDULERS[name]())
    pixels = torch.rand((2, 1, 28, 28), generator=seeded(5))
    mask = right_half().numpy()
    draw = {"image": pixels, "mask": mask, "output_type": "pt", "num_inference_steps": 3, "num_resamples": 2}
    out = pipe(["Bag", 0], generator=seeded(), **draw).images
    assert torch.equal(out[..., :14], pixels[..., :14])
    assert (out[..., 14:] - pixels[..., 14:]).abs().mean() > 0.1
    bits = torch.tensor(mask, dtype=torch.bool)
    for same in (Image.fromarray((mask * 255).astype(np.uint8)), bits, bits[None].expand(2, -1, -1), [mask, bits]):
        assert torch.equal(pipe(["Bag", 0], generator=seeded(), **{**draw, "mask": same}).images, out)


def test_neither_batch_nor_neighbours_change_what_is_drawn(pipeline):
    pixels = torch.rand((3, 1, 28, 28), generator=seeded(5))

    def draw(count: int, generator, **more):
        given = {"image": pixels[:count], "mask": right_half(), "num_inference_steps": 3, "num_resamples": 2, **more}
        return pipeline(["Bag"] * count, generator=generator, output_type="pt", **given).images

    three = draw(3, seeded())
    assert torch.allclose(three, draw(3, seeded(), max_batch_size=2), atol=1e-5)
    assert torch.allclose(three[:2], draw(2, seeded()), atol=1e-5)
    each = draw(3, [seeded(1), seeded(2), seeded(3)])
    assert torch.allclose(each[:2], draw(2, [seeded(1), seeded(2)]), atol=1e-5)
    assert not torch.allclose(three, draw(3, seeded(), num_resamples=3), atol=1e-2)


def test_the_kept_part_is_at_each_step_the_image_with_fresh_noise(pipeline):
    pixels, told = torch.rand((1, 1, 28, 28), generator=seeded(5)), []
    draw = {"image": pixels, "mask": right_half(), "num_inference_steps": 5, "num_resamples": 2}
    pipeline(["Bag"], generator=seeded(), callback_on_step_end=lambda *words: told.append(words), **draw)
    noises = []
    for _, _, t, tensors in told:
        alpha, sigma = (level.float() for level in noise_levels(pipeline.scheduler, t))
        noises.append(((tensors["model_input"] - alpha * (2 * pixels - 1)) / sigma)[..., :14].flatten())
    seen = torch.stack(noises)
    assert len(seen) == 7  # two levels above 5, two between that are taken twice, and the last
    assert torch.allclose(seen.std(dim=1), torch.ones(7), atol=0.15)
    assert (torch.corrcoef(seen) - torch.eye(7)).abs().max() < 0.2


@pytest.mark.parametrize(
    ("more", "evaluations"), [({}, 124), ({"num_resamples": 1}, 10), ({"num_resamples": 1, "strength": 0.3}, 10)]
)
def test_what_inpainting_costs(pipeline, more, evaluations):
    told = []
    draw = {"image": torch.zeros(1, 28, 28), "mask": right_half(), "generator": seeded(), **more}
    pipeline(["Bag"], callback_on_step_end=lambda *words: told.append(words[1]), **draw)
    assert told == list(range(evaluations))


def test_resamples_are_a_whole_number(pipeline):
    with pytest.raises(ValueError, match="num_resamples 0; valid: a whole number, 1 or more"):
        pipeline(["Bag"], image=torch.zeros(1, 28, 28), mask=right_half(), num_resamples=0)
