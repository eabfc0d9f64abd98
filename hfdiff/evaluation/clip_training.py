"""The small CLIP of a dataset's own domain.

It is trained as in Radford et al. 2021 (https://arxiv.org/abs/2103.00020) on the dataset's own images, with captions
that name class, style and quality. It saves and loads as the transformers classes do.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from kornia.filters import gaussian_blur2d
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_auroc
from transformers import (
    CLIPTextConfig,
    EfficientNetConfig,
    PreTrainedTokenizerFast,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    VisionTextDualEncoderProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from hfdiff.core.errors import BadInput, TrainingFailed
from hfdiff.core.files import write_folder
from hfdiff.data.augmentation import invisible_noise, shift
from hfdiff.data.config import Half
from hfdiff.data.halves import HALVES
from hfdiff.data.styles import STYLES, apply_styles, draw_styles, fitting_styles
from hfdiff.data.table import ImageTable, to_unit_range
from hfdiff.evaluation.clip import by_parts, caption
from hfdiff.models.loading import without_bars
from hfdiff.pipelines import QUALITY_PROMPTS, SCORE_WEIGHTS, SCORES, PromptTarget, Scorer, prompt, score_images, subject

CLIP_STYLED_SHARE = 0.5  # of the images in training
DAMAGED_SHARE = 0.5
CLEAN_WORDS = ("clear", "good")
SPECIAL = ("[PAD]", "[BOS]", "[UNK]", "[EOS]")  # not id 2 for the end: transformers pools otherwise then
MAX_WORDS = 32
WIDTHS, DEPTHS = (32, 64, 128), (1, 2, 2)  # of the tower for images, by stage
FEATURES = 1280  # of that tower, fixed by transformers at width_coefficient 1
DEFAULT_EPOCHS = 24


def _blurry(pixels: Tensor, amount: Tensor) -> Tensor:
    sigma = (0.5 + 2.0 * amount)[:, None].expand(-1, 2)
    return gaussian_blur2d(pixels, (9, 9), sigma)


def _noisy(pixels: Tensor, amount: Tensor) -> Tensor:
    scale = (0.05 + 0.45 * amount).reshape(-1, 1, 1, 1)
    return (pixels + scale * torch.randn_like(pixels)).clamp(0, 1)


# Word of a caption -> the damage that it names: pixels (B, C, H, W) in [0, 1], amount (B,) in [0, 1) -> pixels.
DAMAGES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"blurry": _blurry, "noisy": _noisy}


def make_clip(table: ImageTable, seed: int = 0) -> Scorer:
    """A new small model and its processor: a convolutional tower of EfficientNet's blocks (Tan & Le 2019) for images,
    a transformer for captions, with the words that captions of these images can have."""
    torch.manual_seed(seed)
    tokenizer = _tokenizer(_vocabulary(table))
    vision = EfficientNetConfig(
        num_channels=3,
        image_size=max(table.size),
        width_coefficient=1.0,
        depth_coefficient=1.0,
        in_channels=[WIDTHS[0], *WIDTHS[:-1]],
        out_channels=list(WIDTHS),
        num_block_repeats=list(DEPTHS),
        strides=[1, 2, 2],
        kernel_sizes=[3, 3, 3],
        expand_ratios=[2, 3, 3],
        dropout_rate=0.0,
        drop_connect_rate=0.0,
        batch_norm_momentum=0.1,
        hidden_dim=FEATURES,
        hidden_size=FEATURES,  # what the dual encoder reads
    )
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=MAX_WORDS,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    config = VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=64)
    height, width = table.size
    images = CLIPImageProcessorPil(
        size={"height": height, "width": width}, do_center_crop=False, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    model = VisionTextDualEncoderModel(config=config)
    _start(model.vision_model)
    return Scorer(model.eval(), VisionTextDualEncoderProcessor(images, tokenizer))


def _start(tower: nn.Module) -> None:
    """Weights that let images through: transformers starts each BatchNorm of this tower near 0, and it stays dead."""
    for module in tower.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _vocabulary(table: ImageTable) -> list[str]:
    """The words of all captions of these images, sorted."""
    degrees = ["slightly", "very"]
    phrases = [*table.style_names, *(STYLES[name].phrase for name in fitting_styles(table.channels, table.style_names))]
    texts = ["a an photo of", *degrees, *phrases, *CLEAN_WORDS, *DAMAGES, *table.class_names]
    split = pre_tokenizers.BertPreTokenizer()
    return sorted({word for text in texts for word, _ in split.pre_tokenize_str(text.lower())})


def _tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    pad, bos, unknown, eos = SPECIAL
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *words))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}", special_tokens=[(bos, vocabulary[bos]), (eos, vocabulary[eos])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=pad,
        bos_token=bos,
        unk_token=unknown,
        eos_token=eos,
        model_max_length=MAX_WORDS,
        model_input_names=["input_ids", "attention_mask"],
    )


@dataclass(frozen=True)
class Captioned:
    """A batch for training: B images and their captions."""

    pixels: Tensor  # (B, C, H, W) float32 in [0, 1]
    captions: list[str]


def caption_batch(table: ImageTable, rows: Tensor, generator: torch.Generator, flip: bool = False) -> Captioned:
    """Images in random styles, and what is to be said of each: half are blurred or noised, and the others have no more
    than `invisible_noise`."""
    names = fitting_styles(table.channels, table.style_names)
    given = draw_styles(len(rows), names, CLIP_STYLED_SHARE, generator)
    pixels = apply_styles(shift(to_unit_range(table.pixels[rows]), flip), given, names)
    damaged, which, amount, words = torch.rand(4, len(rows), generator=generator)
    kind = (which * len(DAMAGES)).long().where(damaged < DAMAGED_SHARE, -1)
    clean = (kind < 0).reshape(-1, 1, 1, 1)
    pixels = torch.where(clean, invisible_noise(pixels, generator), damage(pixels, kind, amount))
    strengths = torch.cat([table.style_weights[rows], given], dim=1).tolist()
    styles = [dict(zip((*table.style_names, *names), row)) for row in strengths]
    qualities = map(_quality, kind.tolist(), amount.tolist(), words.tolist())
    classes = [table.class_names[label] for label in table.labels[rows].tolist()]
    return Captioned(pixels, list(map(caption, classes, styles, qualities)))


def damage(pixels: Tensor, kind: Tensor, amount: Tensor) -> Tensor:
    """Damage images (B, C, H, W) in [0, 1] by entries in `DAMAGES` (B,), -1 for none, at amounts (B,) in [0, 1)."""
    for i, change in enumerate(DAMAGES.values()):
        rows = (kind == i).nonzero().squeeze(1)
        if len(rows):
            pixels = pixels.index_copy(0, rows, change(pixels[rows], amount[rows]))
    return pixels


def _quality(kind: int, amount: float, draw: float) -> str:
    """The words for a damage, or for none; half of the captions do not say how much."""
    if kind < 0:
        return CLEAN_WORDS[int(draw * len(CLEAN_WORDS))]
    degree = "" if draw < 0.5 or 1 / 3 < amount < 2 / 3 else "slightly " if amount <= 1 / 3 else "very "
    return degree + list(DAMAGES)[kind]


@dataclass(frozen=True)
class ClipEpoch:
    number: int
    loss: float


def train_clip(
    scorer: Scorer,
    table: ImageTable,
    *,
    epochs: int,
    batch_size: int = 256,
    learning_rate: float = 4e-3,
    flip: bool = False,
    seed: int = 0,
) -> Iterator[ClipEpoch]:
    """Train in place with the symmetric contrastive loss, in which images with the same caption share it.

    `flip` mirrors half of the images, as in `train_judge`.
    """
    torch.manual_seed(seed)
    if len(table) < 2:
        raise BadInput(f"{len(table)} images of {table.name!r} to train on; valid: 2 or more")
    batch_size = min(batch_size, len(table))
    model = scorer.model
    model.vision_model.to(memory_format=torch.channels_last)
    steps = len(table) // batch_size
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=epochs * steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(seed)
    for number in range(1, epochs + 1):
        model.train()
        total = 0.0
        order = torch.randperm(len(table), generator=generator)
        for rows in order[: steps * batch_size].chunk(steps):
            batch = caption_batch(table, rows, generator, flip)
            loss = contrastive_loss(scorer, batch)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                model.logit_scale.clamp_(max=4.6052)  # 100, as in the paper
            total += loss.item()
        if not math.isfinite(total):
            raise TrainingFailed(f"epoch {number}: the loss is {total / steps}; give a lower learning_rate")
        model.eval()
        scorer.forget()
        yield ClipEpoch(number, total / steps)


def contrastive_loss(scorer: Scorer, batch: Captioned) -> Tensor:
    """Cross-entropy of the caption of each image, and of the images of each caption, which share it evenly."""
    texts = list(dict.fromkeys(batch.captions))
    own = torch.tensor([texts.index(text) for text in batch.captions])
    logits = scorer.model.logit_scale.exp() * scorer.images(batch.pixels) @ scorer.encode(texts).T  # (B, T)
    shared = F.one_hot(own, len(texts)).float().T
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, shared / shared.sum(dim=1, keepdim=True))) / 2


@dataclass(frozen=True)
class ClipMetrics:
    """Metrics of a scorer on n real images that it did not see."""

    class_accuracy: float  # of clean images, zero-shot
    clear_auc: float  # clean against blurred and noised: area under the curve of the quality score
    style_accuracy: float  # the style named right among all styles, at strengths from 0.5, the class given
    n: int

    def describe(self) -> str:
        return (
            f"of {self.n:,} unseen images {self.class_accuracy:.4f} put into their class, {self.style_accuracy:.4f} "
            f"into their style among styles; clear against blurred and noised: AUC {self.clear_auc:.4f}"
        )


@torch.no_grad()
def measure_clip(scorer: Scorer, table: ImageTable, seed: int = 0) -> ClipMetrics:
    """Zero-shot measures on real images of the classes and styles that the scorer knows."""
    torch.manual_seed(seed)
    names, n = fitting_styles(table.channels, table.style_names), len(table)
    clean = to_unit_range(table.pixels)
    asked = [PromptTarget(_subjects(table, {}), i, QUALITY_PROMPTS) for i in range(len(table.class_names))]
    classes = by_parts(lambda part: scorer.softmax(scorer.images(part), list(map(prompt, asked[0].subjects))), clean)
    style = torch.randint(len(names), (n,))
    strengths = F.one_hot(style, len(names)) * (0.5 + 0.5 * torch.rand(n, 1))
    styled = by_parts(lambda pixels, given: apply_styles(pixels, given, names), clean, strengths)
    prompts = [prompt(text) for name in names for text in _subjects(table, {name: 1.0})]
    shares = by_parts(lambda part: scorer.softmax(scorer.images(part), prompts), styled)
    own = shares.reshape(n, len(names), -1)[torch.arange(n), :, table.labels]
    damaged = by_parts(damage, clean, torch.arange(n) % len(DAMAGES), torch.rand(n))
    column = list(SCORES).index("quality")
    quality = [
        by_parts(lambda *part: score_images(scorer, part[0], asked, part[1], SCORE_WEIGHTS), images, table.labels)
        for images in (clean, damaged)
    ]
    return ClipMetrics(
        class_accuracy=(classes.argmax(dim=1) == table.labels).double().mean().item(),
        clear_auc=binary_auroc(torch.cat(quality)[:, column], torch.arange(2 * n) < n).item(),
        style_accuracy=(own.argmax(dim=1) == style).double().mean().item(),
        n=n,
    )


def _subjects(table: ImageTable, strengths: Mapping[str, float]) -> tuple[str, ...]:
    """The subject of each class in these styles."""
    phrases = {name: STYLES[name].phrase for name in strengths}
    return tuple(subject(name, strengths, phrases) for name in table.class_names)


def save_clip(scorer: Scorer, folder: Path, table: ImageTable, half: Half, metrics: ClipMetrics) -> None:
    """Save model (fp16) and processor as transformers does, with a card."""
    seen = "all" if half == "whole" else f"the {half} half of"
    card = (
        '# A small CLIP\n\nScores images by prompts like "a clear photo of a thick sneaker" (hfdiff.evaluation.clip). '
        f"Trained on {seen} the training images of {table.name}; {metrics.describe()}.\n"
    )

    config = scorer.model.config
    config.trained_on, config.fingerprint, config.half_seen = table.name, table.fingerprint, half
    config.halves = HALVES

    def fill(place: Path) -> None:
        scorer.model.half().save_pretrained(place)
        scorer.model.float()
        scorer.processor.save_pretrained(place)
        (place / "README.md").write_text(card, encoding="utf-8")

    with without_bars():
        write_folder(folder, fill)
