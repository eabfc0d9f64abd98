"""Is what came back from the Hub what was sent? Files by their bytes, then a model by what it draws."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from hfdiff.core.files import sha256

LOAD_BACK = Path(__file__).parent / "load_back.py"
# What leads to a token, a cache, or another place to look for code.
NOT_PASSED_ON = ("HF_", "HUGGING", "PYTHON", "DIFFUSERS_", "TRANSFORMERS_", "XDG_")


def check_files(here: Path, there: Path) -> None:
    """ValueError where a file that was sent is another there, or code lies beside it that was not sent."""
    for file in sorted(path for path in here.rglob("*") if path.is_file()):
        name = file.relative_to(here)
        if not (there / name).is_file():
            raise ValueError(f"{name} is not there")
        if sha256(there / name) != sha256(file):
            raise ValueError(f"{name} is another file there")
    code = (path.relative_to(there) for path in sorted(there.rglob("*.py")))
    if strange := next((name for name in code if not (here / name).is_file()), None):
        raise ValueError(f"{strange} is there, and was not sent; delete it on the Hub")


def load_back(here: Path, there: Path) -> None:
    """ValueError where two folders with the same code draw otherwise.

    In a process of its own, without hfdiff, network, token and home, in an empty folder.
    """
    with tempfile.TemporaryDirectory(prefix="hfdiff-clean-") as home:
        passed_on = {key: value for key, value in os.environ.items() if not key.startswith(NOT_PASSED_ON)}
        environment = passed_on | {"HOME": home, "HF_HOME": home, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        words = [sys.executable, "-P", str(LOAD_BACK), str(here.resolve()), str(there.resolve())]
        done = subprocess.run(words, env=environment, cwd=home, capture_output=True, text=True)
    if done.returncode:
        raise ValueError((done.stderr.strip().splitlines() or ["no reason given"])[-1])
