"""The one file that travels: joined from the modules of `pipelines/`, the same text every time."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from hfdiff.pipelines import BUNDLE, bundle

PIPELINE = ROOT / "pipelines" / "pipeline.py"
MODELS = sorted(path.parent for path in (ROOT / "model_cards").glob("*/model_index.json"))


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder / "top.py"


def test_bundling_twice_gives_the_same_bytes():
    assert bundle(PIPELINE) == bundle(PIPELINE)
    assert "from ." not in bundle(PIPELINE)


@pytest.mark.parametrize("folder", MODELS, ids=lambda path: path.name)
def test_a_shipped_model_carries_the_code_of_today(folder):
    assert (folder / f"{BUNDLE}.py").read_text() == bundle(PIPELINE)
    assert (folder / "unet" / "unet.py").read_text() == (ROOT / "hfdiff" / "models" / "unet.py").read_text()


def test_siblings_come_before_what_needs_them_and_imports_are_merged(tmp_path):
    top = write(
        tmp_path,
        top='"""The top."""\n\nimport math\n\nfrom .left import f\nfrom .right import g\n\nX = f() + g() + math.pi\n',
        left='"""Left."""\n\nfrom math import cos\n\nfrom .base import ONE\n\n\ndef f():\n    return cos(ONE)\n',
        right="from math import sin\n\nfrom .base import ONE\n\n\ndef g():\n    return sin(ONE)\n",
        base="import math\n\nONE = math.e\n",
    )
    text = bundle(top)
    assert text == (
        '"""The top."""\n\nfrom math import cos, sin\nimport math\n\n\nONE = math.e\n\n\n'
        "def f():\n    return cos(ONE)\n\n\ndef g():\n    return sin(ONE)\n\n\nX = f() + g() + math.pi\n"
    )
    names: dict = {}
    exec(text, names)
    assert names["X"] == math.cos(math.e) + math.sin(math.e) + math.pi


@pytest.mark.parametrize(
    ("top", "sibling", "reason"),
    [
        ("from .sibling import a as b", "a = 1", "names of a sibling, at the top of the file"),
        ("from . import sibling", "a = 1", "names of a sibling"),
        ("from .sibling import *", "a = 1", "names of a sibling"),
        ("def f():\n    from .sibling import a", "a = 1", "names of a sibling"),
        ("from .sibling import a\nx = 1", "a = 1\nx = 2", "x is of top, and of sibling elsewhere"),
        ("from .sibling import a\nx = 1", "if True:\n    x = 2\na = 1", "x is of top, and of sibling elsewhere"),
        ("from .sibling import a", "from .top import b\na = 1", "modules import each other: (top|sibling).py -> "),
        (
            "from .sibling import a\nimport numpy as np",
            "a = 1\nfrom math import pi as np",
            "np is import numpy, and math.pi",
        ),
    ],
)
def test_what_joining_could_change_is_refused(tmp_path, top, sibling, reason):
    with pytest.raises(ValueError, match=reason):
        bundle(write(tmp_path, top=top, sibling=sibling))


TWO_MODELS = """
import sys, torch
from diffusers import DiffusionPipeline
def load(folder):
    return DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
a, b = sys.argv[1:]
kept = [load(folder) for folder in (a, b, a)]
print([pipe.version() for pipe in kept])
for pipe, name in zip(kept, "cd"):
    pipe.save_pretrained(name)
"""


@pytest.mark.slow
def test_two_versions_in_one_process_keep_apart(pipeline, tmp_path):
    folders = []
    for name in ("first", "second"):
        pipeline.save_pretrained(tmp_path / name)
        file = tmp_path / name / f"{BUNDLE}.py"
        text = file.read_text().replace(
            "    def class_id(", "    def version(self):\n        return helper()\n\n    def class_id("
        )
        file.write_text(text.replace("PLAIN = ", f"def helper():\n    return {name!r}\n\n\nPLAIN = "))
        folders.append(str(tmp_path / name))
    done = subprocess.run([sys.executable, "-c", TWO_MODELS, *folders], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1:] == ["['first', 'second', 'first']"], done.stderr
    for before, after in zip(folders, "cd"):  # what is saved again is each one's own
        assert (tmp_path / after / f"{BUNDLE}.py").read_text() == (Path(before) / f"{BUNDLE}.py").read_text()
