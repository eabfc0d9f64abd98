"""All that changes while training."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from hfdiff.core.errors import TrainingFailed
from hfdiff.models.learned_schedule import LearnedSchedule
from hfdiff.models.unet import ClassStyleUNet2DModel
from hfdiff.training.ema import PowerEMA


@dataclass
class TrainState:
    """All that changes in training, and so all that a checkpoint holds, but for `num_micro_batches`, the machine's."""

    unet: torch.nn.Module  # as prepared by accelerate
    ema_unet: ClassStyleUNet2DModel  # the EMA weights as a model, refreshed by `ema_model`
    ema: PowerEMA
    profiles: dict[float, PowerEMA]  # by sigma_rel: those that snapshots are kept of
    optimizer: Any
    scaler: torch.amp.GradScaler | None
    learned: LearnedSchedule | None = None
    learned_optimizer: torch.optim.Optimizer | None = None
    guide: ClassStyleUNet2DModel | None = None  # the EMA weights of an early step, for autoguidance
    guide_step: int = 0
    step: int = 0
    best_score: float = math.inf  # of `config.best_by`, the lowest so far
    best_step: int = 0  # that it was reached at
    quality_n: int = 0  # samples that the quality is measured on; 0: not yet decided
    quality_seconds: float = 0.0  # spent on that
    quality_cost: float = 0.0  # seconds of a sample, a matter of the machine; 0: not yet known
    loss_sum: Tensor | float = 0.0  # over the steps since the last log point; on the device, to be read seldom
    loss_steps: int = 0
    seconds: float = 0.0  # spent training, earlier launches included
    cpu_seconds: float = 0.0  # the same by the processor's clock, of the first process
    decays_by_time: bool | None = None  # the clock ends the run before max_train_images; None: not yet known
    num_micro_batches: int = 1  # micro-batches that a process takes its share of a step in

    def ema_model(self) -> ClassStyleUNet2DModel:
        """The UNet with the EMA weights; the weights in training are not touched."""
        self.ema.copy_to(self.ema_unet.parameters())
        return self.ema_unet.eval()

    @property
    def averages(self) -> list[PowerEMA]:
        return [self.ema, *self.profiles.values()]

    def keep_guide(self) -> None:
        """Keep the EMA weights of now as the guide."""
        self.guide, self.guide_step = copy.deepcopy(self.ema_model()), self.step

    def profile_tensors(self) -> dict[str, Tensor]:
        """The averages that snapshots are kept of, as SIGMA_REL/NAME."""
        names = [name for name, _ in self.ema_unet.named_parameters()]
        return {
            f"{width}/{name}": value
            for width, ema in self.profiles.items()
            for name, value in zip(names, ema.weights, strict=True)
        }

    def forget_best(self) -> None:
        """Go on as if no weights had been kept: the ones of this step are all that there is."""
        self.best_score, self.best_step = math.inf, self.step

    def tensors(self, accelerator: Accelerator) -> dict[str, dict[str, Tensor]]:
        """Weights, EMA weights and optimizer moments by name, in groups; more for what else there is."""
        model = accelerator.unwrap_model(self.unet)
        names = [name for name, _ in model.named_parameters()]
        groups = {
            "unet": dict(model.state_dict()),
            "ema": dict(zip(names, self.ema.weights)),
            "optimizer": get_moments(self.optimizer, names),
        }
        if self.profiles:
            groups["profiles"] = self.profile_tensors()
        if self.guide is not None:
            groups["guide"] = dict(self.guide.state_dict())
        if self.learned is not None:
            groups["schedule"] = dict(self.learned.state_dict())
            groups["schedule_optimizer"] = get_moments(self.learned_optimizer, list(groups["schedule"]))
        return groups

    def numbers(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "best_score": self.best_score if math.isfinite(self.best_score) else None,
            "best_step": self.best_step,
            "guide_step": self.guide_step,
            "quality_n": self.quality_n,
            "quality_seconds": self.quality_seconds,
            "loss_sum": float(self.loss_sum),
            "loss_steps": self.loss_steps,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "decays_by_time": self.decays_by_time,
            "scaler": self.scaler.state_dict() if self.scaler else None,
        }

    def load(self, tensors: dict[str, dict[str, Tensor]], numbers: dict[str, Any], accelerator: Accelerator) -> None:
        """Take over what `tensors` and `numbers` gave."""
        model = accelerator.unwrap_model(self.unet)
        model.load_state_dict(tensors["unet"])
        names = [name for name, _ in model.named_parameters()]
        for value, name in zip(self.ema.weights, names):
            value.copy_(tensors["ema"][name])
        for key, value in self.profile_tensors().items():
            value.copy_(tensors["profiles"][key])
        if "guide" in tensors:
            self.guide = copy.deepcopy(self.ema_unet)
            self.guide.load_state_dict(tensors["guide"])
        self.guide_step = numbers.get("guide_step", 0)  # absent in older checkpoints
        set_moments(self.optimizer, names, tensors["optimizer"])
        if self.learned is not None:
            self.learned.load_state_dict(tensors["schedule"])
            set_moments(self.learned_optimizer, list(self.learned.state_dict()), tensors["schedule_optimizer"])
        self.step = numbers["step"]
        self.best_score = math.inf if numbers["best_score"] is None else numbers["best_score"]
        self.best_step = numbers.get("best_step", 0)  # absent in older checkpoints
        self.quality_n, self.quality_seconds = numbers["quality_n"], numbers["quality_seconds"]
        self.loss_sum, self.loss_steps = numbers["loss_sum"], numbers["loss_steps"]
        self.seconds = numbers["seconds"]
        self.cpu_seconds = numbers.get("cpu_seconds", 0.0)  # absent in older checkpoints
        self.decays_by_time = numbers["decays_by_time"]
        if self.scaler and numbers["scaler"]:
            self.scaler.load_state_dict(numbers["scaler"])


def get_moments(optimizer: Any, names: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of an optimizer as NAME/MOMENT, the names in the order of its parameters."""
    states = optimizer.state_dict()["state"]
    return {f"{names[i]}/{key}": value for i, state in states.items() for key, value in state.items()}


def set_moments(optimizer: Any, names: Sequence[str], tensors: dict[str, Tensor]) -> None:
    """Take over what `get_moments` gave."""
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, moment = key.rsplit("/", 1)
        states.setdefault(names.index(name), {})[moment] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})


def check_finite(state: TrainState, loss: Tensor) -> None:
    """TrainingFailed if the loss or a weight is not finite: nothing may be saved then."""
    if not torch.isfinite(loss):
        raise TrainingFailed(f"step {state.step}: the loss is {loss.item()}; nothing of it is saved")
    schedule = () if state.learned is None else state.learned.parameters()
    weights = [*state.unet.parameters(), *(value for ema in state.averages for value in ema.weights), *schedule]
    if not torch.isfinite(torch.nn.utils.get_total_norm(weights)):
        raise TrainingFailed(f"step {state.step}: the weights are not finite; nothing of them is saved")
