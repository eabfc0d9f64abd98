"""Scores of images by a CLIP model, and the choice among candidates by them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image

from .checks import count, number
from .images import dead_zone, with_channels
from .prompts import PromptTarget, prompt

SURVIVING_SHARE, STOPPING_SHARE = 0.3, 0.3  # of the candidates, after this share of the evaluations
SCORE_WEIGHTS: Mapping[str, float] = {"class": 1.0, "quality": 1.0}


class Scorer:
    """What a CLIP or SigLIP model of transformers says of images and prompts; images are prepared in torch, so that
    scores have a gradient. A model of half precision on the CPU becomes one of float32: it is ten times as fast.

    ValueError for a model or a processor that has no way from images or prompts to one common space.
    """

    def __init__(self, model: Any, processor: Any):
        if not all(hasattr(model, name) for name in ("get_image_features", "get_text_features", "logit_scale")):
            raise ValueError(
                f"{type(model).__name__} is not CLIP-like: valid are models with get_image_features, "
                "get_text_features and logit_scale (CLIP, SigLIP, VisionTextDualEncoder)"
            )
        if not all(hasattr(processor, name) for name in ("image_processor", "tokenizer")):
            raise ValueError(f"{type(processor).__name__}; valid: a processor with image_processor and tokenizer")
        if model.device.type == "cpu":
            model.float()
        self.model, self.processor = model, processor
        self._texts: dict[str, torch.Tensor] = {}
        self._in_torch = self._prepares_alike()

    @property
    def scale(self) -> torch.Tensor:
        """What cosines are multiplied by before a softmax."""
        return self.model.logit_scale.detach().float().exp()

    def images(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W) in [0, 1] -> unit vectors (B, D) float32; what nobody sees moves none (`dead_zone`)."""
        channels = getattr(self.model.config.vision_config, "num_channels", 3)
        images = dead_zone(with_channels("images", images.float(), channels))
        if self._in_torch:
            pixels = prepare_in_torch(self.processor.image_processor, images)
        elif images.requires_grad:
            name = type(self.processor.image_processor).__name__
            raise ValueError(f"images as {name} prepares them have no gradient; valid: another CLIP for guidance")
        else:
            pixels = prepare_as_pil(self.processor.image_processor, images)
        return _unit(self.model.get_image_features(pixel_values=pixels.to(self.model.device, self.model.dtype)))

    def _prepares_alike(self) -> bool:
        """Does `prepare_in_torch` do what the processor does, for wide and for tall images?"""
        channels = getattr(self.model.config.vision_config, "num_channels", 3)
        wave = torch.linspace(0, 9, 60)[:, None] + torch.linspace(0, 4, 36) + torch.arange(channels)[:, None, None]
        tall = (wave.sin() / 2 + 0.5)[None]  # (1, C, 60, 36)
        for images in (tall, tall.transpose(2, 3)):
            try:
                own = prepare_in_torch(self.processor.image_processor, images)
            except (AttributeError, TypeError, KeyError, ValueError):  # a processor of other steps
                return False
            given = prepare_as_pil(self.processor.image_processor, images)
            if own.shape != given.shape or (own - given).abs().mean() > 0.02:
                return False
        return True

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> torch.Tensor:
        """Prompts -> unit vectors (P, D) float32, each computed once; ValueError for one that is too long."""
        new = [text for text in dict.fromkeys(prompts) if text not in self._texts]
        if new:
            self._texts |= dict(zip(new, self.encode(new)))
        return torch.stack([self._texts[text] for text in prompts]).to(self.model.device)

    def encode(self, prompts: list[str]) -> torch.Tensor:
        """Prompts -> unit vectors (P, D) float32, with a gradient."""
        return _unit(self.model.get_text_features(**self._tokens(prompts)))

    def forget(self) -> None:
        """Drop what is kept of prompts: the model has changed."""
        self._texts.clear()

    def _tokens(self, prompts: list[str]) -> dict[str, torch.Tensor]:
        most = self.model.config.text_config.max_position_embeddings
        tokenizer = self.processor.tokenizer
        unknown = tokenizer.unk_token_id
        if unknown in (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id):
            unknown = None  # as in OpenAI's, which spells every word
        for text, ids in zip(prompts, tokenizer(prompts)["input_ids"]):
            if len(ids) > most:
                raise ValueError(f"the prompt {text!r} has {len(ids)} tokens; valid: up to {most}")
            if unknown is not None and unknown in ids:
                words = [word for word in text.split() if unknown in tokenizer(word)["input_ids"]]
                raise ValueError(f"the CLIP model does not know {', '.join(map(repr, words))} of the prompt {text!r}")
        # SigLIP reads its last position, and was trained with all of them filled.
        siglip = self.model.config.model_type.startswith("siglip")
        tokens = tokenizer(
            prompts, padding="max_length" if siglip else True, max_length=most if siglip else None, return_tensors="pt"
        )
        keys = ("input_ids",) if siglip else ("input_ids", "attention_mask")
        return {key: tokens[key].to(self.model.device) for key in keys}

    def softmax(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Unit vectors of images (B, D) -> the share of each prompt (B, P)."""
        return (self.scale * images @ self.texts(prompts).T).softmax(dim=1)


def prepare_as_pil(processor: Any, images: torch.Tensor) -> torch.Tensor:
    """Images (B, C, H, W) in [0, 1] as an image processor of transformers makes them ready: (B, C, h, w)."""
    arrays = (images.detach().clamp(0, 1) * 255).round().byte().cpu().permute(0, 2, 3, 1).numpy()
    pil = [Image.fromarray(array.squeeze(2) if array.shape[2] == 1 else array) for array in arrays]
    pixels = processor(images=pil, return_tensors="pt")["pixel_values"]
    return pixels[:, : images.shape[1]]


def prepare_in_torch(processor: Any, images: torch.Tensor) -> torch.Tensor:
    """The same with a gradient, for processors that resize, cut at the centre and normalise."""
    pixels = images
    if processor.do_resize:
        mode = {0: "nearest-exact", 2: "bilinear", 3: "bicubic"}[int(processor.resample)]
        size = _resized(dict(processor.size), *pixels.shape[-2:])
        smooth = mode != "nearest-exact"
        pixels = F.interpolate(pixels, size=size, mode=mode, antialias=smooth).clamp(0, 1)
    if getattr(processor, "do_center_crop", False):
        pixels = _centre(pixels, processor.crop_size["height"], processor.crop_size["width"])
    pixels = pixels * 255
    if processor.do_rescale:
        pixels = pixels * processor.rescale_factor
    if processor.do_normalize:
        mean, std = (pixels.new_tensor(v).reshape(-1, 1, 1) for v in (processor.image_mean, processor.image_std))
        pixels = (pixels - mean) / std
    return pixels


def _resized(size: Mapping[str, int | None], height: int, width: int) -> tuple[int, int]:
    """(height, width) for an image of that size: both given, or the shorter side, which keeps the aspect."""
    if size.get("height") and size.get("width"):
        return int(size["height"] or 0), int(size["width"] or 0)
    short = int(size["shortest_edge"] or 0)
    long = int(short * max(height, width) / min(height, width))
    return (short, long) if height <= width else (long, short)


def _centre(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The middle of (B, C, H, W), black where the image is smaller."""
    h, w = pixels.shape[-2:]
    more_h, more_w = max(0, height - h), max(0, width - w)
    pixels = F.pad(pixels, (more_w // 2, more_w - more_w // 2, more_h // 2, more_h - more_h // 2))
    top, left = (pixels.shape[-2] - height) // 2, (pixels.shape[-1] - width) // 2
    return pixels[..., top : top + height, left : left + width]


def _prompt_score(scorer: Scorer, features: torch.Tensor, asked: PromptTarget) -> torch.Tensor:
    return features @ scorer.texts([prompt(asked.subject)])[0]


def _class_score(scorer: Scorer, features: torch.Tensor, asked: PromptTarget) -> torch.Tensor:
    return scorer.softmax(features, [prompt(rival) for rival in asked.subjects])[:, asked.class_id]


def _quality_score(scorer: Scorer, features: torch.Tensor, asked: PromptTarget) -> torch.Tensor:
    shares = scorer.softmax(features, [template.replace("{}", asked.subject) for template in asked.quality_prompts])
    return shares[:, list(asked.quality_prompts.values())].sum(dim=1)


# Name -> score of images' unit vectors (B, D), float32 (B,); more is better.
SCORES: Mapping[str, Callable[[Scorer, torch.Tensor, PromptTarget], torch.Tensor]] = {
    "prompt": _prompt_score,  # cosine with the prompt of class and styles
    "class": _class_score,  # probability of the class among all
    "quality": _quality_score,  # share of the positive prompts
}


@dataclass(frozen=True)
class Choice:
    """How the best of several candidates for each label are chosen; the arguments of `ClassStylePipeline.__call__`."""

    num_candidates: int
    top_k: int
    early_stopping: bool
    score_weights: Mapping[str, float]
    quality_prompts: Mapping[str, bool]

    def __post_init__(self) -> None:
        for name in ("num_candidates", "top_k"):
            object.__setattr__(self, name, count(name, getattr(self, name), 1))
        if not 1 <= self.top_k <= self.num_candidates:
            raise ValueError(f"top_k {self.top_k} of num_candidates {self.num_candidates}; valid: 1 to num_candidates")
        for name, weight in self.score_weights.items():
            if name not in SCORES:
                raise ValueError(f"unknown score {name!r}; valid: {', '.join(SCORES)}")
            number(f"weight of score {name!r}", weight, -1000, 1000)
        if not any(self.score_weights.values()):
            raise ValueError(f"score_weights {dict(self.score_weights)}; valid: one at least that is not 0")
        if len(set(self.quality_prompts.values())) < 2 or not all("{}" in text for text in self.quality_prompts):
            raise ValueError(
                f"quality_prompts {dict(self.quality_prompts)}; valid: templates with {{}} for the subject, one at "
                "least that is positive (True) and one that is negative (False)"
            )

    def survivors(self, labels: torch.Tensor, totals: torch.Tensor) -> torch.Tensor:
        """Which of a part's B candidates are worth finishing: of each label (B,) the best by their totals (B,), so many
        that `top_k` are left of all parts together."""
        kept = []
        for label in labels.unique():
            rows = (labels == label).nonzero().squeeze(1)
            share = max(SURVIVING_SHARE, self.top_k / self.num_candidates)  # a label may lie in several parts
            most = math.ceil(round(len(rows) * share, 6))
            kept.append(rows[totals[rows].argsort(descending=True)[:most]])
        return torch.cat(kept).sort().values


def score_images(
    scorer: Scorer,
    images: torch.Tensor,
    asked: Sequence[PromptTarget],
    labels: torch.Tensor,
    weights: Mapping[str, float],
) -> torch.Tensor:
    """Images (B, C, H, W) in [0, 1], each asked for by one of the labels (B,) -> (B, len(SCORES) + 1): every score,
    and their weighted sum; float32, on the CPU."""
    features = scorer.images(images)
    scores = torch.empty(len(images), len(SCORES) + 1)
    for label in labels.unique().tolist():
        rows = (labels == label).nonzero().squeeze(1)
        for column, score in enumerate(SCORES.values()):
            scores[rows.cpu(), column] = score(scorer, features[rows.to(features.device)], asked[label]).cpu()
    weighting = torch.tensor([weights.get(name, 0.0) for name in SCORES])
    scores[:, -1] = scores[:, :-1] @ weighting
    return scores


def _unit(features: Any) -> torch.Tensor:
    return F.normalize(getattr(features, "pooler_output", features).float(), dim=-1)
