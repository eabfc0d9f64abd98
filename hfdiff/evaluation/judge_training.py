"""Training the judge of a dataset."""

import copy
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hfdiff.core.errors import BadInput
from hfdiff.core.files import folder_to_write, recover_folder, write_folder
from hfdiff.core.locks import write_lock
from hfdiff.data.augmentation import invisible_noise, shift
from hfdiff.data.config import Half
from hfdiff.data.halves import perceptual_hashes
from hfdiff.data.styles import apply_styles, draw_styles
from hfdiff.data.table import ImageTable, to_unit_range
from hfdiff.evaluation.judge import (
    MAX_LOG_SNR,
    WIDTHS,
    Judge,
    accuracy,
    cached,
    find_judge,
    read_judge,
    styles_of,
    unseen,
)
from hfdiff.training.precision import autocast_bf16

JUDGE_STYLED_SHARE = 0.5  # of the images in training
TRAINING_IMAGES = 660_000  # seen in a training of default length
NOISED_TRAINING_IMAGES = 240_000  # the same of a judge of noised images, whose network is smaller
NOISED_WIDTHS = (16, 32, 64)
MAX_EPOCHS = 60


@dataclass(frozen=True)
class JudgeEpoch:
    """One pass over the data: mean loss, and the share of validation images classified right."""

    number: int
    loss: float
    validation_accuracy: float


def make_judge(
    table: ImageTable,
    widths: tuple[int, int, int] | None = None,
    half: Half = "whole",
    seed: int = 0,
    flip: bool = False,
    noised: bool = False,
) -> Judge:
    """A new judge of the classes and styles of these training images, and of every style that they can be given; or of
    their classes alone, noised."""
    hashes = perceptual_hashes(table.half(half).pixels).unique()
    torch.manual_seed(seed)
    judge = Judge(
        channels=table.channels,
        class_names=list(table.class_names),
        style_names=styles_of(table, noised),
        widths=widths or (NOISED_WIDTHS if noised else WIDTHS),
        size=table.size,
        trained_on=table.name,
        fingerprint=table.fingerprint,
        half_seen=half,
        flip=flip,
        num_seen=len(hashes),
        noised=noised,
    )
    judge.seen.copy_(hashes)
    return judge


def default_epochs(table: ImageTable, noised: bool = False) -> int:
    """Passes over the data in a training of default length."""
    num_images = NOISED_TRAINING_IMAGES if noised else TRAINING_IMAGES
    return min(MAX_EPOCHS, max(1, round(num_images / len(table))))


def noise_for_judge(clean: Tensor) -> tuple[Tensor, Tensor]:
    """Clean images (B, C, H, W) in [-1, 1] -> x_t / sqrt(alpha^2 + sigma^2), and their log-SNR (B,), uniform over all
    that a judge of noised images is conditioned on."""
    log_snr = (2 * torch.rand(len(clean), device=clean.device) - 1) * MAX_LOG_SNR
    alpha, sigma = (level.sqrt().reshape(-1, 1, 1, 1) for level in (log_snr.sigmoid(), (-log_snr).sigmoid()))
    return alpha * clean + sigma * torch.randn_like(clean), log_snr


def train_judge(
    judge: Judge,
    table: ImageTable,
    validation: ImageTable,
    *,
    epochs: int,
    batch_size: int = 128,
    learning_rate: float = 4e-3,
    seed: int = 0,
) -> Iterator[JudgeEpoch]:
    """Train in place on the judge's half, with AdamW and a one-cycle schedule (Smith & Topin 2018); yields every epoch.

    Half of the images are given styles at random strengths, which it learns to predict; all are shifted and get
    `invisible_noise`, and half are mirrored where the judge has `flip`. One of noised images learns the classes alone,
    and their probabilities as they are, without label smoothing.
    """
    torch.manual_seed(seed)
    device = next(judge.parameters()).device
    judge.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    table = table.half(judge.half_seen)
    if len(table) < 2:
        raise BadInput(f"{len(table)} images in the {judge.half_seen} half of {table.name!r}; valid: 2 or more")
    batch_size = min(batch_size, len(table))
    steps_per_epoch = len(table) // batch_size
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=epochs * steps_per_epoch, pct_start=0.2
    )
    applied = judge.style_names[len(table.style_names) :]
    generator = torch.Generator().manual_seed(seed)
    for number in range(1, epochs + 1):
        judge.train()
        total = torch.zeros((), device=device)
        order = torch.randperm(len(table), generator=generator)
        for rows in order[: steps_per_epoch * batch_size].chunk(steps_per_epoch):
            given = draw_styles(len(rows), applied, JUDGE_STYLED_SHARE, generator)
            pixels = shift(
                to_unit_range(table.pixels[rows]).to(device), judge.flip
            )  # first: a mirrored slant is another
            images = invisible_noise(apply_styles(pixels, given, applied)) * 2 - 1
            with autocast_bf16(device):
                output = judge(*noise_for_judge(images)) if judge.noised else judge(images)
            smoothing = 0.0 if judge.noised else 0.1
            loss = F.cross_entropy(output.logits.float(), table.labels[rows].to(device), label_smoothing=smoothing)
            if judge.style_names:  # cross-entropy with a strength as target is least at the strength to be expected
                wanted = torch.cat([table.style_weights[rows], given], dim=1).to(device)
                loss = loss + F.binary_cross_entropy(output.strengths.float(), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()
        yield JudgeEpoch(number, total.item() / steps_per_epoch, accuracy(judge, validation))


def save_judge(judge: Judge, folder: Path, test: ImageTable) -> Judge:
    """Save in fp16, with the accuracy on held-out images; returns the judge as saved."""
    judge.to(torch.float16).float()
    keys = [key for key in inspect.signature(Judge).parameters if key != "test_accuracy"]
    config = {key: getattr(judge, key) for key in keys} | {"test_accuracy": round(accuracy(judge, test), 4)}
    weights = copy.deepcopy(judge).to(torch.float16)
    task = "the class of noised images" if judge.noised else "the class and the strength of styles of images"
    seen = "all" if judge.half_seen == "whole" else f"the {judge.half_seen} half of"
    card = (
        f"# Judge\n\nPredicts {task} (hfdiff.evaluation.judge). "
        f"Trained on {seen} the training images of {judge.trained_on}; right on {config['test_accuracy']} of "
        f"{len(test):,} {'clean ' if judge.noised else ''}images that it never saw.\n"
    )

    def fill(place: Path) -> None:
        weights.save_pretrained(place, config=config)  # type: ignore[operator]
        (place / "README.md").write_text(card, encoding="utf-8")

    write_folder(folder, fill)
    return read_judge(folder)


def judge_for(
    table: ImageTable,
    validation: ImageTable,
    half: Half = "first",
    log: Callable[[str], None] = print,
    device: torch.device | str = "cpu",
    noised: bool = False,
) -> Judge:
    """`find_judge`, or a new one: trained for minutes, and kept in the folder HFDIFF_CACHE (~/.cache/hfdiff)."""
    found = find_judge(table, half, noised)
    if found:
        return found.to(device)
    folder = cached(table, half, noised)
    folder_to_write(str(folder), "HFDIFF_CACHE")
    with write_lock(folder, "HFDIFF_CACHE", wait=True):  # who comes second takes what the first made
        recover_folder(folder)
        judge = make_judge(table, half=half, noised=noised).to(device)
        return (find_judge(table, half, noised) or _trained(judge, folder, table, validation, log)).to(device)


def _trained(
    judge: Judge, folder: Path, table: ImageTable, validation: ImageTable, log: Callable[[str], None]
) -> Judge:
    """The new judge, trained and saved in the folder."""
    half, kind = judge.half_seen, "judge of noised images" if judge.noised else "judge"
    for part in (table, validation):
        if not len(table.half(half)) or not len(unseen(judge, part)):
            raise BadInput(
                f"dataset {table.name!r} is too small for a judge: it trains on one half of {len(table)} images, "
                f"and measures with the other half of {len(validation)} held-out ones; give more images"
            )
    if missing := table.half(half).class_counts().count(0):
        log(f"warning: {missing} classes have no image in the {half} half of the training images; it cannot know them")
    epochs = default_epochs(table.half(half), judge.noised)
    log(f"no {kind} of {table.name} yet: training one, {epochs} epochs; it is kept in {folder}")
    for epoch in train_judge(judge, table, validation, epochs=epochs):
        log(f"{kind}: epoch {epoch.number} of {epochs}, {epoch.validation_accuracy:.3f} of held-out images right")
    return save_judge(judge, folder, unseen(judge, validation))
