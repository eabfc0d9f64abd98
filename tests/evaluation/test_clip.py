"""The small CLIP: its captions, its loss, its files, and its metrics on real images."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import full_test, letters, near_black_dust
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torchmetrics.functional import spearman_corrcoef
from transformers import (
    AutoModel,
    AutoProcessor,
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    SiglipConfig,
    SiglipModel,
    SiglipProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from hfdiff.core.errors import BadInput
from hfdiff.data.table import to_unit_range
from hfdiff.evaluation.clip import caption, describe_clip, find_clip, image_features, load_clip
from hfdiff.evaluation.clip_training import (
    DAMAGES,
    Captioned,
    caption_batch,
    contrastive_loss,
    damage,
    make_clip,
    measure_clip,
    save_clip,
    train_clip,
)
from hfdiff.evaluation.judge import load_judge
from hfdiff.pipelines import QUALITY_PROMPTS, SCORE_WEIGHTS, PromptTarget, Scorer, dead_zone, score_images, subject

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("Sneaker",), "a clear photo of a sneaker"),
        (("Sneaker", "slanted"), "a clear photo of a slanted sneaker"),
        (("Ankle boot",), "a clear photo of an ankle boot"),
        (("Bag", {"thick": 0.2, "slanted": 0.9}), "a clear photo of a slightly thick slanted bag"),
        (("Bag", "thick:0"), "a clear photo of a bag"),
        (("cat", "grey", "very blurry"), "a very blurry photo of a black and white cat"),
        (("Sneaker", "muddy", "awful"), "an awful photo of a muddy sneaker"),
    ],
)
def test_captions(arguments, expected):
    assert caption(*arguments) == expected


def test_a_caption_of_a_style_out_of_range_is_refused():
    with pytest.raises(ValueError, match="from 0 to 1"):
        caption("Sneaker", "thick:2")


def test_every_word_of_every_caption_is_known(table):
    scorer = make_clip(table)
    tokenizer = scorer.processor.tokenizer
    generator = torch.Generator().manual_seed(0)
    texts = {text for _ in range(10) for text in caption_batch(table, torch.arange(60), generator).captions}
    words = " ".join(texts).split()
    assert {"slightly", "very", "clear", "good", "blurry", "noisy", "thick", "faded"} <= set(words)
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert tokenizer.eos_token_id != 2


def test_captions_say_what_was_done(table):
    """An image called clear is an image of the table, mirrored and shifted, in its style; the others are damaged."""
    batch = caption_batch(table, torch.arange(60).repeat(5), torch.Generator().manual_seed(1))
    good = torch.tensor([text.split()[1] in ("clear", "good") for text in batch.captions])
    assert 0.35 < good.float().mean() < 0.65
    assert batch.pixels.shape == (300, 1, 28, 28)
    assert batch.pixels.min() >= 0
    assert batch.pixels.max() <= 1
    corner = batch.pixels[:, 0, :2, :2].std(dim=(1, 2))  # empty in most images, unless noise was added
    noisy = torch.tensor(["noisy" in text for text in batch.captions])
    assert corner[noisy].median() > 5 * corner[~noisy].median()


def test_damage_grows_with_its_amount(table):
    pixels = to_unit_range(table.pixels)
    for kind, name in enumerate(DAMAGES):
        torch.manual_seed(0)
        little, much = (damage(pixels, torch.full((60,), kind), torch.full((60,), amount)) for amount in (0.1, 0.9))
        assert (much - pixels).square().mean() > 2 * (little - pixels).square().mean(), name
    assert torch.equal(damage(pixels, torch.full((60,), -1), torch.ones(60)), pixels)


def test_the_loss_is_clips_own_where_no_caption_repeats(table):
    scorer = make_clip(table)
    texts = [caption(name) for name in table.class_names]
    pixels = to_unit_range(table.pixels[:10])
    tokens = scorer.processor.tokenizer(texts, padding=True, return_tensors="pt")
    ours = contrastive_loss(scorer, Captioned(pixels, texts))
    prepared = (dead_zone(pixels).expand(-1, 3, -1, -1) - 0.5) / 0.5
    theirs = scorer.model(
        input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=prepared, return_loss=True
    ).loss
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


def test_images_with_one_caption_share_it(table):
    """Two images of one caption: the loss is least where both are as near to it, and then it is ln 2 of one side."""
    scorer = make_clip(table)
    scorer.model.logit_scale.data.fill_(0.0)
    batch = Captioned(to_unit_range(table.pixels[:1]).repeat(2, 1, 1, 1), [caption("Bag")] * 2)
    assert contrastive_loss(scorer, batch).item() == pytest.approx(torch.tensor(2.0).log().item() / 2, rel=1e-4)


def test_saved_and_loaded_by_transformers_alone(table, tmp_path):
    scorer = make_clip(table)
    save_clip(scorer, tmp_path / "clip", table, "second", measure_clip(scorer, table))
    assert not list((tmp_path / "clip").glob("*.bin"))
    model, processor = (auto.from_pretrained(tmp_path / "clip") for auto in (AutoModel, AutoProcessor))
    image = scorer.images(to_unit_range(table.pixels[:3]))
    again = Scorer(model.float().eval(), processor)
    assert torch.allclose(again.images(to_unit_range(table.pixels[:3])), image, atol=1e-2)
    text = [caption("Bag", "thick")]
    assert torch.allclose(again.texts(text), scorer.texts(text), atol=1e-2)
    loaded = Scorer(*load_clip(str(tmp_path / "clip")))
    assert torch.equal(loaded.texts(text), again.texts(text))


def test_training_learns_and_repeats(table):
    def losses() -> list[float]:
        scorer = make_clip(table)
        return [epoch.loss for epoch in train_clip(scorer, table, epochs=2, batch_size=20)]

    first, second = losses(), losses()
    assert first == second
    assert first[-1] < first[0]


def test_fewer_images_than_a_batch(table):
    assert [epoch.number for epoch in train_clip(make_clip(table), table.part(slice(0, 9)), epochs=1)] == [1]
    with pytest.raises(BadInput, match="1 images of 'fashion_mnist_12k' to train on; valid: 2 or more"):
        next(train_clip(make_clip(table), table.part(slice(0, 1)), epochs=1))


def big(kind: str) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The architectures that one finds on the Hub, with few weights."""
    words = {word: i for i, word in enumerate(("[PAD]", "[UNK]", "bag", "[EOS]", "a", "clear", "blurry"))}
    core = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    core.pre_tokenizer = Whitespace()
    core.post_processor = TemplateProcessing(single="$A [EOS]", special_tokens=[("[EOS]", 3)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[PAD]", eos_token="[EOS]")
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**shape, "vocab_size": 10, "max_position_embeddings": 16, "pad_token_id": 0, "eos_token_id": 3}
    vision = {**shape, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    if kind == "siglip":
        siglip = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
        images = SiglipImageProcessorPil(size={"height": 32, "width": 32})
        return siglip.eval(), SiglipProcessor(images, tokenizer)
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return clip.eval(), CLIPProcessor(images, tokenizer)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_scores_of_models_of_the_hub_are_transformers_own(kind, tmp_path):
    for part in big(kind):
        part.save_pretrained(tmp_path)
    model, processor = load_clip(str(tmp_path))
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(16, 240, (3, 3, 32, 32), dtype=torch.uint8, generator=generator)  # outside the dead zone
    texts = ["a clear photo of a bag", "a blurry bag"]
    images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]
    told = processor(text=texts, images=images, return_tensors="pt", padding="max_length", max_length=16)
    expected = model(**{k: v for k, v in told.items() if kind == "clip" or k != "attention_mask"}).logits_per_image
    scorer = Scorer(model, processor)
    logits = scorer.scale * scorer.images(to_unit_range(pixels)) @ scorer.texts(texts).T + getattr(
        model, "logit_bias", 0
    )
    assert torch.allclose(logits, expected, atol=1e-4)
    with pytest.raises(ValueError, match="has 17 tokens; valid: up to 16"):
        scorer.texts(["bag " * 16])


def test_grey_images_of_another_size_are_converted():
    scorer = Scorer(*big("clip"))
    grey = torch.rand(2, 1, 28, 28)
    assert scorer.images(grey).shape == (2, 16)
    assert torch.allclose(scorer.images(grey), scorer.images(grey.expand(-1, 3, -1, -1)))


def test_half_precision_is_not_for_the_cpu(table):
    scorer = make_clip(table)
    assert Scorer(scorer.model.half(), scorer.processor).model.dtype == torch.float32


def test_the_clip_of_images_is_found_by_name_and_by_fingerprint(fashion, tmp_path, monkeypatch):
    train = fashion[0]
    assert Path(find_clip(train)).name == "clip_fashion_mnist"
    assert find_clip(replace(train, name="mine")) is None
    save_clip(
        make_clip(train),
        tmp_path / "clip_fashion_mnist",
        train,
        "second",
        measure_clip(make_clip(train), train.part(slice(0, 40))),
    )
    monkeypatch.setattr("hfdiff.evaluation.clip.ASSETS", tmp_path)
    assert find_clip(replace(train, name="mine")) == str(tmp_path / "clip_fashion_mnist")
    model, _ = load_clip(find_clip(train))
    assert describe_clip(model) == {"name": "clip_fashion_mnist", "trained_on": train.name, "half_seen": "second"}


def test_the_scorer_and_the_judge_saw_other_images(fashion):
    model, judge = load_clip(dataset="fashion_mnist")[0], load_judge("fashion_mnist")
    halves = [fashion[0].half(half) for half in (model.config.half_seen, judge.half_seen)]
    assert sum(map(len, halves)) == len(fashion[0])
    keys = [{image.numpy().tobytes() for image in half.pixels} for half in halves]
    assert len(keys[0] & keys[1]) <= 0.001 * len(fashion[0])  # the dataset's own doubles


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, "flowers"), "no CLIP model is embedded for dataset 'flowers'; train one"),
        ((None, None), "no CLIP model is embedded for dataset None"),
        (("nowhere/at/all",), "'nowhere/at/all' gives no CLIP model"),
    ],
)
def test_what_gives_no_clip_is_named(arguments, message):
    with pytest.raises(BadInput, match=message):
        load_clip(*arguments)


def test_a_clip_of_which_weights_are_missing_is_refused(tmp_path):
    """transformers fills them with random numbers: the scores would be noise."""
    model, processor = load_clip(dataset="fashion_mnist")
    weights = {name: value for name, value in model.state_dict().items() if "text_projection" not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    processor.save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="gives no CLIP model: its weights text_projection.weight are missing"):
        load_clip(str(tmp_path))


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "class_accuracy", "style_accuracy"),
    [("fashion_mnist", 0.90, 0.96), ("cifar10", 0.57, 0.84)],
)
def test_the_embedded_clips_on_the_real_test_sets(name, class_accuracy, style_accuracy):
    metrics = measure_clip(Scorer(*load_clip(dataset=name)), full_test(name).part(slice(0, 2_000)))
    assert metrics.n == 2_000
    assert metrics.class_accuracy >= class_accuracy
    assert metrics.clear_auc >= 0.97
    assert metrics.style_accuracy >= style_accuracy


def test_the_small_clip_tells_letters_that_mirror_each_other():
    table = letters(400)
    scorer = make_clip(table)
    list(train_clip(scorer, table.part(slice(0, 300)), epochs=12, batch_size=30))
    held_out = table.part(slice(300, 400))
    shares = scorer.softmax(image_features(scorer, held_out.pixels), [caption(name) for name in table.class_names])
    assert (shares.argmax(dim=1) == held_out.labels).double().mean() > 0.95


def test_dust_that_nobody_sees_is_not_what_clip_prefers(fashion):
    """Real images of a class with dust on a random share of their near-black values: 1 to 7 moves no bit, and by dust
    of 1 to 15 the total score ranks no image."""
    scorer = Scorer(*load_clip(dataset="fashion_mnist"))
    table = fashion[1].part(slice(0, 800))
    asked = [
        PromptTarget(tuple(subject(name, {}, {}) for name in table.class_names), i, QUALITY_PROMPTS) for i in range(10)
    ]
    black = table.pixels.where(table.pixels >= 16, 0)
    faint = near_black_dust(black[:50], 7, 0.2)
    assert torch.equal(image_features(scorer, faint), image_features(scorer, black[:50]))
    share = 0.4 * torch.rand(800, generator=torch.Generator().manual_seed(0))
    dusty = to_unit_range(near_black_dust(table.pixels, 15, share))
    total = score_images(scorer, dusty, asked, table.labels, SCORE_WEIGHTS)[:, -1]
    dark = ((dusty > 0) & (dusty < 16 / 255)).double().mean((1, 2, 3))
    ranks = [spearman_corrcoef(total[table.labels == i].double(), dark[table.labels == i]) for i in range(10)]
    assert torch.stack(ranks).mean().abs() < 0.1
    assert torch.stack(ranks).abs().mean() < 0.2  # 0.09 by chance, of 80 images a class


@pytest.mark.parametrize("kind", ["noise", "dust"])
def test_what_nobody_sees_leaves_clips_accuracy(fashion, kind):
    scorer, table = Scorer(*load_clip(dataset="fashion_mnist")), fashion[1].part(slice(0, 1000))
    prompts = [caption(name) for name in table.class_names]

    def right(pixels: torch.Tensor) -> float:
        shares = scorer.softmax(image_features(scorer, pixels), prompts)
        return (shares.argmax(dim=1) == table.labels).double().mean().item()

    noise = torch.randint(-3, 4, table.pixels.shape, generator=torch.Generator().manual_seed(0))
    noised = (table.pixels.int() + noise).clamp(0, 255).byte()
    pixels = noised if kind == "noise" else near_black_dust(table.pixels, 7, 0.2)
    assert right(pixels) == pytest.approx(right(table.pixels), abs=0.01)
