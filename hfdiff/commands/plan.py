"""`hfdiff plan`."""

from hfdiff.commands.flags import TrainConfig
from hfdiff.figures.grids import overview
from hfdiff.training.cost import measure


def main(flags: TrainConfig) -> int:
    print(measure(flags, lambda pipeline, seed: overview(pipeline, seed, num_inference_steps=1)).describe())
    return 0
