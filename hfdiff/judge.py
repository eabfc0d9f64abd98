"""The independent judge: a small convolutional classifier that says whether a picture is what was asked for.

It is never the scorer that chooses pictures.
"""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from hfdiff.data import ASSETS, DATASETS, ImageTable, to_model_range
from hfdiff.errors import BadInput, unknown


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
    """Pictures (B, C, H, W) float32 in [-1, 1] -> class logits (B, num_classes).

    `test_accuracy` is the share of real test pictures that it classifies right; it is None until measured.
    """

    def __init__(
        self,
        channels: int,
        class_names: list[str],
        widths: tuple[int, int, int] = (32, 64, 128),
        trained_on: str = "",
        test_accuracy: float | None = None,
    ):
        super().__init__()
        self.channels = channels
        self.class_names = list(class_names)
        self.trained_on = trained_on
        self.test_accuracy = test_accuracy
        a, b, c = widths
        self.body = nn.Sequential(
            _conv(channels, a),
            nn.MaxPool2d(2),
            _conv(a, b),
            _conv(b, b),
            nn.MaxPool2d(2),
            _conv(b, c),
            _Residual(c),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(c, len(class_names)))

    def features(self, images: Tensor) -> Tensor:
        """The activations before the last layer: (B, widths[-1]) float32."""
        return self.body(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


@dataclass(frozen=True)
class Epoch:
    """One pass over the data: mean loss, and the share of validation pictures classified right."""

    number: int
    loss: float
    validation_accuracy: float


def train_judge(
    judge: Judge,
    table: ImageTable,
    validation: ImageTable,
    *,
    epochs: int,
    batch_size: int = 128,
    learning_rate: float = 4e-3,
    seed: int = 0,
) -> Iterator[Epoch]:
    """Train in place with AdamW, a one-cycle schedule (Smith & Topin 2018), flips and shifts; yields every epoch."""
    torch.manual_seed(seed)
    device = next(judge.parameters()).device
    steps_per_epoch = len(table) // min(batch_size, len(table))
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=epochs * steps_per_epoch, pct_start=0.2
    )
    for number in range(1, epochs + 1):
        judge.train()
        total = torch.zeros((), device=device)
        order = torch.randperm(len(table))
        for rows in order[: steps_per_epoch * batch_size].chunk(steps_per_epoch):
            images = _augment(to_model_range(table.pixels[rows]).to(device))
            loss = F.cross_entropy(judge(images), table.labels[rows].to(device), label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()
        yield Epoch(number, total.item() / steps_per_epoch, accuracy(judge, validation))


def _augment(images: Tensor) -> Tensor:
    """Mirror half of the pictures and shift the batch by up to two pixels."""
    mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    images = images.where(~mirrored, images.flip(-1))
    top, left = torch.randint(0, 5, (2,)).tolist()
    height, width = images.shape[-2:]
    return F.pad(images, (2, 2, 2, 2), mode="replicate")[..., top : top + height, left : left + width]


@torch.no_grad()
def judged(judge: Judge, pixels: Tensor, batch_size: int = 500) -> tuple[Tensor, Tensor]:
    """Pixels (N, C, H, W) uint8 -> class logits (N, num_classes) and features (N, F), float32 on the CPU."""
    judge.eval()
    device = next(judge.parameters()).device
    features = torch.cat([judge.features(to_model_range(part).to(device)) for part in pixels.split(batch_size)])
    return judge.head(features).cpu(), features.cpu()


def accuracy(judge: Judge, table: ImageTable) -> float:
    """The share of pictures whose class the judge names."""
    logits, _ = judged(judge, table.pixels)
    return (logits.argmax(dim=1) == table.labels.cpu()).double().mean().item()


def load_judge(dataset: str) -> Judge:
    """The embedded judge of a row of the table of data sets, or one saved in a folder."""
    folder = dataset
    if dataset not in DATASETS and not Path(dataset).is_dir():
        raise unknown("judge", dataset, [name for name, row in DATASETS.items() if row.judge])
    if dataset in DATASETS:
        row = DATASETS[dataset]
        if row.judge is None:
            raise BadInput(f"no judge is embedded for {dataset!r}; train one with train_scripts/train_judge.py")
        folder = str(ASSETS / row.judge)
    with contextlib.redirect_stdout(io.StringIO()):  # huggingface_hub prints where it loads from
        return Judge.from_pretrained(folder).eval()
