"""What people hand to a pipeline, and how: arguments of any type, components, schedulers, threads."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMInverseScheduler, DiffusionPipeline, FlowMatchEulerDiscreteScheduler, IPNDMScheduler
from PIL import Image
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from hfdiff.core.errors import BadInput
from hfdiff.models.loading import load_pipeline
from hfdiff.pipelines import ClassStylePipeline, Scorer


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(pipe, labels=(0, 1), **more):
    more = {"num_inference_steps": 2, "generator": seeded(), "output_type": "pt"} | more
    return pipe(labels, **more).images


@pytest.mark.parametrize(
    "labels",
    [torch.tensor([0, 1]), np.array([0.0, 1.0]), (i for i in (0, 1)), {0: "a", 1: "b"}.keys(), ["0", np.str_("bag")]],
    ids=["tensor", "array", "generator", "keys", "texts"],
)
def test_labels_of_any_kind_are_the_same_labels(pipeline, labels):
    assert torch.equal(draw(pipeline, labels), draw(pipeline))


@pytest.mark.parametrize("label", [1, 1.0, np.int64(1), torch.tensor(1), np.array(1), "Bag", " bag "])
def test_one_label_of_any_kind_is_the_same_label(pipeline, label):
    assert torch.equal(draw(pipeline, label), draw(pipeline, ["Bag"]))


def test_numbers_are_converted_once_and_used_so(pipeline):
    counts = {"num_images_per_label": 1.0, "num_inference_steps": np.float32(2), "max_batch_size": torch.tensor(256)}
    scales = {"guidance_scale": np.float32(2), "style_guidance_scale": torch.tensor(2.0)}
    plain = draw(pipeline, guidance_scale=2, style_guidance_scale=2)
    assert torch.allclose(draw(pipeline, **counts, **scales), plain, atol=1e-6)


def test_generators_come_in_any_sequence(pipeline):
    each = draw(pipeline, generator=[seeded(1), seeded(2)])
    assert torch.equal(each, draw(pipeline, generator=(seeded(1), seeded(2))))
    assert torch.equal(each, draw(pipeline, generator=(seeded(i) for i in (1, 2))))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": b"Bag"}, "class b'Bag'; valid: a name, a whole number, or None"),
        ({"labels": [True]}, "class True; valid: a name"),
        ({"labels": 1.5}, "class 1.5; valid: a name"),
        ({"num_inference_steps": True}, "num_inference_steps True; valid: a whole number, 1 to 1000"),
        ({"num_inference_steps": "2"}, "num_inference_steps '2'; valid: a whole number"),
        ({"num_inference_steps": float("inf")}, "num_inference_steps inf; valid: a whole number"),
        ({"num_images_per_label": 2.5}, "num_images_per_label 2.5; valid: a whole number, 1 or more"),
        ({"max_batch_size": None}, "max_batch_size None; valid: a whole number, 1 or more"),
        ({"guidance_scale": "3"}, "guidance_scale 3; valid: -1000 to 1000"),
        ({"guidance_scale": [1.0, 1.0]}, r"guidance_scale \[1.0, 1.0\]; valid"),
        ({"generator": 1}, r"generator 1; valid: torch.Generator\(\).manual_seed\(0\)"),
        ({"generator": [seeded()]}, "1 generators for 2 images"),
        ({"num_candidates": "4"}, "num_candidates '4'; valid: a whole number"),
    ],
)
def test_what_is_no_honest_number_is_one_line(pipeline, arguments, message):
    with pytest.raises(ValueError, match=message):
        draw(pipeline, **arguments)


def test_a_mask_of_whole_zeros_and_ones_is_a_mask(pipeline):
    image, mask = torch.ones(1, 28, 28), np.zeros((28, 28), np.uint8)
    mask[:14] = 1
    seen = draw(pipeline, [0], image=image, mask=mask)[0, 0]
    assert torch.equal(seen, draw(pipeline, [0], image=image, mask=mask.astype(bool))[0, 0])
    assert (seen[14:] == 1).all()
    assert (seen[:14] < 1).any()


def test_eight_threads_draw_what_single_calls_draw(pipeline):
    jobs = [{"labels": [i % 3], "generator": i, "num_inference_steps": 2 + i % 4} for i in range(8)]
    expected = [draw(pipeline, **job | {"generator": seeded(job["generator"])}) for job in jobs]
    wrong = []

    def work(job, images):
        for _ in range(20):
            if not torch.equal(draw(pipeline, **job | {"generator": seeded(job["generator"])}), images):
                wrong.append(job)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(jobs, expected)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (IPNDMScheduler(), "IPNDMScheduler takes the model to predict IPNDMScheduler; valid: one for"),
        (FlowMatchEulerDiscreteScheduler(), "to predict flow_prediction; valid: one for epsilon"),
        (DDIMInverseScheduler(), "goes from images to noise"),
    ],
)
def test_a_scheduler_that_cannot_reverse_the_models_process_is_refused(pipeline, scheduler, message):
    own = type(pipeline.scheduler)(prediction_type="epsilon")
    pipe = ClassStylePipeline(pipeline.unet, own, pipeline.config.id2label, pipeline.config.styles)
    draw(pipe)
    pipe.scheduler = scheduler
    with pytest.raises(ValueError, match=message):
        draw(pipe)


def test_other_noise_levels_are_another_process(pipeline):
    own = type(pipeline.scheduler)(prediction_type="epsilon")
    pipe = ClassStylePipeline(pipeline.unet, own, pipeline.config.id2label, pipeline.config.styles)
    pipe.scheduler = type(own).from_config(own.config, beta_schedule="scaled_linear", beta_end=0.012)
    with pytest.raises(ValueError, match="has other noise levels than the model was trained with"):
        draw(pipe)


@pytest.fixture
def saved(pipeline, tmp_path) -> Path:
    pipeline.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("trusted", [True, False], ids=["DiffusionPipeline", "ClassStylePipeline"])
def test_components_given_are_those_that_the_pipeline_has(pipeline, saved, trusted):
    def load(**given):
        if trusted:
            return DiffusionPipeline.from_pretrained(saved, trust_remote_code=True, **given)
        return ClassStylePipeline.from_pretrained(saved, **given)

    scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    assert load(scheduler=scheduler).scheduler is scheduler
    assert load(unet=pipeline.unet).unet is pipeline.unet
    assert load(guide_unet=pipeline.unet).guide_unet is pipeline.unet
    assert load(id2label=dict(enumerate("xyz"))).class_names == ["x", "y", "z"]


def test_the_same_components_make_the_same_pipeline(pipeline):
    for pipe in (
        ClassStylePipeline.from_pipe(pipeline),
        ClassStylePipeline(**pipeline.components, id2label=pipeline.config.id2label, styles=pipeline.config.styles),
    ):
        assert torch.equal(draw(pipe), draw(pipeline))


TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
CONFIG = {
    "vision_config": TOWER | {"image_size": 32, "patch_size": 8},
    "text_config": TOWER | {"vocab_size": 9, "max_position_embeddings": 8},
}
SQUARE = {"height": 32, "width": 32}


class Processor:
    tokenizer = None

    def __init__(self, image_processor):
        self.image_processor = image_processor


class Mirrored(CLIPImageProcessorPil):
    """A step that no torch code here knows of."""

    def __call__(self, images, **more):
        return super().__call__([image.transpose(0) for image in images], **more)


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (96, 48), (40, 90)])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (CLIPImageProcessorPil, {"size": {"shortest_edge": 32}, "crop_size": SQUARE}),
        (CLIPImageProcessorPil, {"size": {"shortest_edge": 44}, "crop_size": SQUARE}),
        (CLIPImageProcessorPil, {"size": SQUARE, "do_center_crop": False, "do_normalize": False}),
        (CLIPImageProcessorPil, {"size": {"shortest_edge": 24}, "crop_size": SQUARE, "resample": 2}),
        (SiglipImageProcessorPil, {"size": SQUARE}),
        (Mirrored, {"size": {"shortest_edge": 32}, "crop_size": SQUARE}),
    ],
    ids=["clip", "cropped", "squashed", "padded", "siglip", "of other steps"],
)
def test_a_scorer_sees_images_as_the_processor_prepares_them(kind, settings, size):
    torch.manual_seed(0)
    siglip = kind is SiglipImageProcessorPil
    model = (SiglipModel(SiglipConfig(**CONFIG)) if siglip else CLIPModel(CLIPConfig(**CONFIG))).eval()
    image = torch.rand(1, 3, size[0] // 8 + 1, size[1] // 8 + 1)
    image = torch.nn.functional.interpolate(image, size=size, mode="bicubic").clamp(0, 1)
    processor = kind(**settings)
    array = (image[0].permute(1, 2, 0) * 255).round().byte().numpy()
    pixels = processor(images=[Image.fromarray(array)], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        own = Scorer(model, Processor(processor)).images(image)
        given = model.get_image_features(pixel_values=pixels)
    given = torch.nn.functional.normalize(getattr(given, "pooler_output", given), dim=-1)
    assert (own * given).sum().item() > 0.999


def test_what_a_processor_does_outside_torch_has_no_gradient():
    scorer = Scorer(CLIPModel(CLIPConfig(**CONFIG)), Processor(Mirrored(size={"shortest_edge": 32}, crop_size=SQUARE)))
    with pytest.raises(ValueError, match="as Mirrored prepares them have no gradient"):
        scorer.images(torch.rand(1, 3, 32, 32, requires_grad=True))


def test_a_model_that_holds_the_fp16_variant_alone_is_loaded(pipeline, tmp_path):
    expected = draw(pipeline)
    pipeline.unet.half()
    pipeline.save_pretrained(tmp_path, variant="fp16")
    assert (draw(load_pipeline(str(tmp_path))) - expected).abs().max() < 0.05


def test_a_model_whose_unet_cannot_run_is_refused(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    file = tmp_path / "unet" / "config.json"
    file.write_text(file.read_text().replace('"layers_per_block": 1', '"layers_per_block": -5'))
    with pytest.raises(BadInput, match="cannot be loaded"):
        load_pipeline(str(tmp_path))
