"""Train the judge of a dataset, a small classifier that says what an image shows; `hfdiff train-judge` is the same.

accelerate launch train_scripts/train_judge.py --dataset cifar10
"""

import sys
from collections.abc import Sequence

from hfdiff.cli import run_command
from hfdiff.core.errors import run_program


def main(argv: Sequence[str]) -> int:
    return run_command("train-judge", argv, prog="train_scripts/train_judge.py")


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
