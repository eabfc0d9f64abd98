"""CLIP models that score images: any by name or folder, and the small one of a dataset's own domain."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModel, AutoProcessor, PreTrainedModel, ProcessorMixin

from hfdiff.core.errors import BadInput, first_line
from hfdiff.core.files import existing_folder
from hfdiff.data.halves import HALVES
from hfdiff.data.registry import ASSETS, DATASETS
from hfdiff.data.styles import STYLES
from hfdiff.data.table import ImageTable, to_unit_range
from hfdiff.models.declared import check_configs
from hfdiff.models.loading import check_clip_size, check_weights, without_bars
from hfdiff.pipelines import Scorer, StyleSpec, parse_styles, prompt, subject


def caption(class_name: str, styles: StyleSpec = None, quality: str = "clear") -> str:
    """What a prompt says of an image: caption("Sneaker", "thick") -> "a clear photo of a thick sneaker".

    styles: "thick:0.8+slanted" or strengths by name; ValueError for what the grammar does not know. quality: any words.
    """
    strengths = parse_styles(styles)
    phrases = {name: STYLES[name].phrase if name in STYLES else name for name in strengths}
    return prompt(subject(class_name, strengths, phrases), quality)


def load_clip(name_or_folder: str | None = None, dataset: str | None = None) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A CLIP or SigLIP model of transformers and its processor, from a folder or the Hub; without a name the small one
    embedded for a dataset of the table.

    BadInput for what is no such model or cannot be reached.
    """
    if name_or_folder is None:
        row = DATASETS.get(dataset or "")
        if row is None or row.clip is None:
            raise no_clip(dataset)
        name_or_folder = str(ASSETS / row.clip)
    try:
        with without_bars():
            if folder := existing_folder(name_or_folder):
                check_configs(folder)
                check_clip_size(folder)
            model, loaded = AutoModel.from_pretrained(
                name_or_folder, use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
            processor = AutoProcessor.from_pretrained(name_or_folder, trust_remote_code=False)
        if missing := sorted(loaded["missing_keys"]):  # transformers fills them with random numbers, and only warns
            raise ValueError(f"its weights {missing[0]} are missing")
        check_weights(model)
        Scorer(model.float().eval(), processor)
    except Exception as error:  # whatever the libraries raise, it is this name that gives no model
        raise BadInput(
            f"{name_or_folder!r} gives no CLIP model: {first_line(error)[:200]}; valid: a folder or Hub id of a CLIP "
            "or SigLIP model; hfdiff train-clip makes a small one"
        ) from error
    return model, processor


def no_clip(dataset: str | None) -> BadInput:
    return BadInput(
        f"no CLIP model is embedded for dataset {dataset!r}; train one in minutes, "
        f"hfdiff train-clip --dataset {dataset or 'D'} --output_dir runs/clip, and give its folder"
    )


def describe_clip(model: PreTrainedModel) -> dict[str, str]:
    """What a report says of a CLIP model: its name, and of a small one what it was trained on."""
    known = {key: getattr(model.config, key, None) for key in ("trained_on", "half_seen")}
    if known["half_seen"] and getattr(model.config, "halves", 1) != HALVES:
        known["independence"] = "unknown: it was trained on halves of an earlier version, and may know these images"
    name = model.config.name_or_path
    return {"name": Path(name).name if Path(name).is_dir() else name} | {k: v for k, v in known.items() if v}


def find_clip(table: ImageTable) -> str | None:
    """Folder of the small CLIP of these training images that is embedded; None where there is none."""
    for name, row in DATASETS.items():
        if row.clip and not table.style_names:
            seen = json.loads((ASSETS / row.clip / "config.json").read_text(encoding="utf-8")).get("fingerprint")
            if name == table.name or seen == table.fingerprint:
                return str(ASSETS / row.clip)
    return None


@torch.no_grad()
def image_features(scorer: Scorer, pixels: Tensor) -> Tensor:
    """Pixels (N, C, H, W) uint8 -> unit vectors (N, D) float32, on the CPU."""
    return by_parts(lambda part: scorer.images(to_unit_range(part)).cpu(), pixels)


def by_parts(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    return torch.cat([function(*part) for part in zip(*(tensor.split(500) for tensor in tensors), strict=True)])
