"""`hfdiff plan`."""

from dataclasses import dataclass

from hfdiff.training.config import TrainConfig
from hfdiff.training.cost import measure


@dataclass(frozen=True)
class Plan(TrainConfig):
    def main(self) -> int:
        print(measure(self).describe())
        return 0
