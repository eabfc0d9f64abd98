"""The independent judge: a small convolutional classifier that says what an image shows, and in which style.

It is never the scorer that chooses images, and trained on one half of the data it never saw the scorer's.
"""

import contextlib
import io
import json
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from hfdiff.core.errors import BadInput
from hfdiff.core.names import unknown
from hfdiff.data.config import Half
from hfdiff.data.halves import HALVES, near, perceptual_hashes
from hfdiff.data.registry import DATASETS, TEST_NAMES
from hfdiff.data.styles import fitting_styles
from hfdiff.data.table import ImageTable, to_model_range
from hfdiff.models.declared import check_configs, check_size
from hfdiff.models.loading import check_weights
from hfdiff.pipelines import dead_zone

WIDTHS = (32, 64, 128)
MAX_LOG_SNR = 10.0  # beyond, on either side, a judge of noised images sees only image or only noise
LOOKED_AT, KNOWN_SHARE = 10_000, 0.95  # images of a judge's half, and the share that it must know again


@dataclass(frozen=True)
class JudgeOutput:
    """What a judge says of N images, float32."""

    logits: Tensor  # (N, num_classes)
    strengths: Tensor  # (N, S) in [0, 1]
    features: Tensor  # (N, F)

    @property
    def classes(self) -> Tensor:
        """The most likely class of each image (N,) int64."""
        return self.logits.argmax(dim=1)


def _conv(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.SiLU()
    )


class _Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(_conv(channels, channels), _conv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Judge(nn.Module, PyTorchModelHubMixin):
    """Images (B, C, H, W) float32 in [-1, 1] -> `JudgeOutput`.

    One of `noised` images takes x_t / sqrt(alpha^2 + sigma^2), at a log-SNR ln(alpha^2 / sigma^2) that it is
    conditioned on: a channel more holds ln(sigma / alpha) / 4 (c_noise of Karras et al. 2022, Table 1).

    The features are normalised to mean 0 and variance 1 over the training images, so that distances between them do
    not depend on the scale of the weights.

    Args:
        style_names: styles whose strength it predicts: those that the data names, then entries in the table of styles.
        trained_on: name of the dataset; `fingerprint`: of its training images; `half_seen`: which half of them.
        test_accuracy: share of held-out real images whose class it names; None until measured.
        flip: trained with mirror images, too; not for data in which they are of another class, as b and d are.
        num_seen: length of `seen`, int64: the perceptual hashes of the images that it was trained on, sorted. They go
            with its weights.
        noised: conditioned on the log-SNR, and trained on all of them; it predicts no styles.
    """

    seen: Tensor

    def __init__(
        self,
        channels: int,
        class_names: list[str],
        style_names: list[str] | None = None,
        widths: tuple[int, int, int] = WIDTHS,
        size: tuple[int, int] = (28, 28),
        trained_on: str = "",
        fingerprint: str = "",
        half_seen: Half = "whole",
        test_accuracy: float | None = None,
        flip: bool = False,
        num_seen: int = 0,
        noised: bool = False,
    ):
        super().__init__()
        if half_seen not in get_args(Half):
            raise ValueError(f"half_seen {half_seen!r}; valid: {', '.join(get_args(Half))}")
        self.channels, self.size, self.widths = channels, tuple(size), tuple(widths)
        self.class_names, self.style_names = list(class_names), list(style_names or [])
        self.trained_on, self.fingerprint, self.half_seen = trained_on, fingerprint, half_seen
        self.test_accuracy, self.flip, self.num_seen, self.noised = test_accuracy, flip, num_seen, noised
        # Judges of before have none, so an empty one is not in the files.
        self.register_buffer("seen", torch.zeros(num_seen, dtype=torch.int64), persistent=num_seen > 0)
        a, b, c = widths
        self.body = nn.Sequential(
            _conv(channels + noised, a),
            nn.MaxPool2d(2),
            _conv(a, b),
            _conv(b, b),
            nn.MaxPool2d(2),
            _conv(b, c),
            _Residual(c),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.BatchNorm1d(c, affine=False),
        )
        self.class_head = nn.Sequential(nn.Dropout(0.2), nn.Linear(c, len(self.class_names)))
        self.style_head = nn.Linear(c, len(self.style_names)) if self.style_names else None

    def features(self, images: Tensor, log_snr: Tensor | None = None) -> Tensor:
        """What both heads see: (B, widths[-1]) float32. What nobody sees in a clean image moves none of it."""
        if self.noised:
            images = torch.cat([images, _level_channel(images, log_snr)], dim=1)
        else:
            images = dead_zone(images / 2 + 0.5) * 2 - 1
        return self.body(images.contiguous(memory_format=torch.channels_last))

    def forward(self, images: Tensor, log_snr: Tensor | None = None) -> JudgeOutput:
        """log_snr: (B,) float32, for one of noised images; None for clean ones."""
        features = self.features(images, log_snr)
        strengths = self.style_head(features).sigmoid() if self.style_head else features[:, :0]
        return JudgeOutput(self.class_head(features), strengths, features)


def _level_channel(images: Tensor, log_snr: Tensor | None) -> Tensor:
    """ln(sigma / alpha) / 4 of images (B, C, H, W) as (B, 1, H, W)."""
    log_snr = images.new_full((len(images),), math.inf) if log_snr is None else log_snr
    level = -log_snr.clamp(-MAX_LOG_SNR, MAX_LOG_SNR) / 8
    return level.reshape(-1, 1, 1, 1).expand(-1, 1, *images.shape[2:])


def styles_of(table: ImageTable, noised: bool = False) -> list[str]:
    """The styles that a judge of these images predicts; one of noised images predicts none."""
    return [] if noised else [*table.style_names, *fitting_styles(table.channels, table.style_names)]


@torch.no_grad()
def predict(judge: Judge, pixels: Tensor, batch_size: int = 500) -> JudgeOutput:
    """What the judge says of pixels (N, C, H, W) uint8; on the CPU. A judge that was trained with mirror images is
    asked about those, too: the mean of both is right more often."""
    judge.eval()
    device = next(judge.parameters()).device
    parts = [judge(to_model_range(part).to(device)) for part in pixels.split(batch_size)]
    seen = JudgeOutput(*(torch.cat([getattr(part, key) for part in parts]).cpu() for key in vars(parts[0])))
    if not judge.flip:
        return seen
    mirrored = [judge(to_model_range(part.flip(-1)).to(device)).logits for part in pixels.split(batch_size)]
    return replace(seen, logits=(seen.logits + torch.cat(mirrored).cpu()) / 2)


@torch.no_grad()
def class_probabilities(judge: Judge, x: Tensor, log_snr: float, batch_size: int = 500) -> Tensor:
    """What a judge of noised images says of x_t / sqrt(alpha^2 + sigma^2) (N, C, H, W) at one log-SNR: (N, K) float32,
    on the CPU; the mean of an image and its mirror where the judge has `flip`."""
    judge.eval()
    device = next(judge.parameters()).device

    def said(part: Tensor) -> Tensor:
        return judge(part, part.new_full((len(part),), log_snr)).logits.softmax(dim=1)

    parts = [part.float().to(device) for part in x.split(batch_size)]
    return torch.cat([(said(part) + said(part.flip(-1))) / 2 if judge.flip else said(part) for part in parts]).cpu()


def accuracy(judge: Judge, table: ImageTable) -> float:
    """The share of images whose class the judge names."""
    return (predict(judge, table.pixels).classes == table.labels.cpu()).double().mean().item()


def unseen(judge: Any, table: ImageTable) -> ImageTable:
    """The images that cannot have been in the training of a judge, or of a CLIP model by its config: a test split, or
    all but its half and what comes near to the images of which a judge has hashes.

    The embedded ones were trained on larger data than some that they judge, so a validation split is halved as well.
    A CLIP model that names no half was trained on other data.
    """
    half_seen = getattr(judge, "half_seen", None)
    if table.split in TEST_NAMES or half_seen is None:
        return table
    if half_seen == "whole":
        return table.part(slice(0, 0)) if table.split == "train" else table
    rest = table.half("second" if half_seen == "first" else "first")
    seen = getattr(judge, "seen", torch.empty(0))
    return rest.part((~near(perceptual_hashes(rest.pixels), seen)).nonzero().squeeze(1)) if len(seen) else rest


def independence(judge: Judge, table: ImageTable) -> dict[str, str]:
    """What a report says of a judge of these training images: {"independence": "known"} where it knows again the images
    that its half says it saw, so that it saw no others; else "unknown", and the "reason" in words."""
    claimed = table.half(judge.half_seen)
    few = claimed.pixels[:: max(1, len(claimed) // LOOKED_AT)]
    share = near(perceptual_hashes(few), judge.seen).double().mean().item() if len(few) else 0.0
    if not len(judge.seen):
        reason = "its files, of an earlier version, do not say which images it was trained on"
    elif share < KNOWN_SHARE:
        reason = (
            f"of {len(few):,} images of {table.name!r} in the half that it was trained on, it knows {share:.1%} "
            "again: it was trained on other images, or these were edited"
        )
    else:
        return {"independence": "known"}
    return {"independence": "unknown", "reason": reason}


def independent(judge: Judge, chooser: Any) -> bool:
    """Did a judge and a chooser (a CLIP model's config, another judge) see different images, as far as they tell?"""
    other = getattr(chooser, "half_seen", None)
    same_halves = isinstance(chooser, Judge) or getattr(chooser, "halves", 1) == HALVES
    return other is None or (same_halves and {judge.half_seen, other} == {"first", "second"})


def load_judge(name: str, noised: bool = False) -> Judge:
    """The embedded judge of an entry in the table of datasets, or one saved in a folder, of clean images or noised."""
    judge = _load(name, noised)
    if judge.noised != noised:
        kinds = ("clean", "noised")
        raise BadInput(
            f"the judge in {name} is one of {kinds[not noised]} images; valid: one of {kinds[noised]} images"
        )
    return judge


def _load(name: str, noised: bool) -> Judge:
    if name not in DATASETS:
        if not Path(name).is_dir():
            raise unknown("judge", name, [key for key, row in DATASETS.items() if row.judge])
        return read_judge(Path(name))
    folder = DATASETS[name].judge_folder(noised)
    if folder is None:
        flag = " --noised" if noised else ""
        raise BadInput(f"no judge is embedded for {name!r}; train one with hfdiff train-judge{flag}")
    return read_judge(folder)


def read_judge(folder: Path) -> Judge:
    if not (folder / "config.json").is_file():
        raise BadInput(f"the folder {folder} holds no judge: no config.json")
    try:
        check_configs(folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        check_size(lambda: Judge(**config), folder)
        with contextlib.redirect_stdout(io.StringIO()):  # huggingface_hub prints where it loads from
            judge = Judge.from_pretrained(str(folder), strict=True).eval()
        check_weights(judge)
        return judge
    except Exception as error:  # whatever the libraries raise, it is this folder that holds no judge
        raise BadInput(f"the folder {folder} holds no judge: {error}") from error


def find_judge(table: ImageTable, half: Half = "first", noised: bool = False) -> Judge | None:
    """The judge of these training images, embedded or from an earlier training; None where there is none."""
    folders = {name: row.judge_folder(noised) for name, row in DATASETS.items()}
    rows = {name: read_judge(folder) for name, folder in folders.items() if folder}
    known = [judge for name, judge in rows.items() if name == table.name or judge.fingerprint == table.fingerprint]
    folder = cached(table, half, noised)
    known += [read_judge(folder)] if folder.is_dir() else []
    wanted = (half, table.channels, table.size, styles_of(table, noised))
    return next((j for j in known if (j.half_seen, j.channels, j.size, j.style_names) == wanted), None)


def cached(table: ImageTable, half: Half, noised: bool = False) -> Path:
    """Where the judge of these training images is kept; those in `judges` were trained on halves by bytes."""
    root = Path(os.environ.get("HFDIFF_CACHE", "~/.cache/hfdiff")).expanduser()
    return root / "judges-2" / f"{table.fingerprint}-{half}{'-noised' if noised else ''}"


def right_scores(output: JudgeOutput, labels: Tensor) -> Tensor:
    """The judge's probability of each image's own class, (N,) float32."""
    return output.logits.softmax(dim=1).gather(1, labels[:, None])[:, 0]
