"""`hfdiff plan`."""

from dataclasses import dataclass

from hfdiff.plan import measure
from hfdiff.training import TrainConfig


@dataclass(frozen=True)
class Plan(TrainConfig):
    def main(self) -> int:
        print(measure(self).describe())
        return 0
