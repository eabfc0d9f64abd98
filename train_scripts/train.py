"""Train a diffusion model that is steered by class and by style; `hfdiff train` is the same program.

accelerate launch train_scripts/train.py --config train_scripts/configs/fashion_mnist.yaml --output_dir runs/fashion

The same command again resumes the run. --config FILE gives defaults, the other flags override them.
"""

import sys
from collections.abc import Sequence

from hfdiff.cli import run_command
from hfdiff.core.errors import run_program


def main(argv: Sequence[str]) -> int:
    return run_command("train", argv, prog="train_scripts/train.py")


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
