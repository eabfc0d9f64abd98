"""Train the small CLIP of a dataset, which scores images by prompts; `hfdiff train-clip` is the same.

accelerate launch train_scripts/train_clip.py --dataset fashion_mnist --output_dir runs/clip
"""

import sys
from collections.abc import Sequence

from hfdiff.cli import run_command
from hfdiff.core.errors import run_program


def main(argv: Sequence[str]) -> int:
    return run_command("train-clip", argv, prog="train_scripts/train_clip.py")


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
