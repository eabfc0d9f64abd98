"""The pipeline: the grammar, the guidance formula, reproducibility, and a folder that loads anywhere."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import tiny_unet
from diffusers import DiffusionPipeline

from hfdiff.objectives import make_objective
from hfdiff.pipelines.class_style import ClassStylePipeline, Guidance, parse_styles, resolve_styles

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
        (([], None), "0 labels"),
        (([0], None, 0), "at least 1"),
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
    scheduler.set_timesteps(3)
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


def test_the_seed_decides_and_the_batch_split_does_not(pipeline):
    def draw(**more):
        return pipeline(["Bag", "Sneaker"], num_images_per_label=3, generator=seeded(), output_type="pt", **more).images

    assert torch.equal(draw(), draw())
    assert torch.allclose(draw(), draw(max_batch_size=4), atol=1e-5)
    assert not torch.equal(draw(), draw(num_inference_steps=3))


def test_one_generator_for_each_picture(pipeline):
    both = pipeline(["Bag", "Bag"], generator=[seeded(1), seeded(2)], output_type="pt").images
    second = pipeline(["Bag"], generator=[seeded(2)], output_type="pt").images
    assert torch.allclose(both[1:], second, atol=1e-5)
    with pytest.raises(ValueError, match="1 generators for 2 pictures"):
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
    images = pipe(class_labels=["bag"], styles="thin:0.5", generator=generator, output_type="pt").images
    return pipe, images
pipe, images = draw(first)
pipe.save_pretrained(second)
pipe, again = draw(second)
assert torch.equal(images, again)
pipe.save_pretrained(third)
from safetensors.torch import save_file
save_file({"images": images}, third + "/images.safetensors")
"""


def test_loads_anywhere_and_survives_saving_again(pipeline, tmp_path):
    from safetensors.torch import load_file

    folders = [str(tmp_path / name) for name in ("first", "second", "third")]
    pipeline.save_pretrained(folders[0])
    subprocess.run([sys.executable, "-c", WITHOUT_HFDIFF, *folders], check=True, cwd=tmp_path)
    reloaded = ClassStylePipeline.from_pretrained(folders[2])
    reloaded.set_progress_bar_config(disable=True)
    assert type(reloaded.unet) is type(pipeline.unet)
    images = reloaded(["bag"], "thin:0.5", generator=seeded(), output_type="pt").images
    assert torch.equal(images, load_file(f"{folders[2]}/images.safetensors")["images"])
    reloaded.save_pretrained(tmp_path / "fourth")
    index = json.loads((tmp_path / "fourth" / "model_index.json").read_text())
    assert index["_class_name"] == ["class_style", "ClassStylePipeline"]
    assert index["unet"] == ["unet", "ClassStyleUNet2DModel"]
    assert (tmp_path / "fourth" / "unet" / "unet.py").is_file()


def test_each_style_keeps_its_column_when_saved(tmp_path):
    """diffusers sorts a saved configuration by name."""
    styles = {name: {"phrase": name, "group": None} for name in ("thick", "slanted", "dark")}
    pipe = ClassStylePipeline(
        tiny_unet(num_classes=1, num_styles=3), make_objective("flow").scheduler(), {0: "a"}, styles
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
