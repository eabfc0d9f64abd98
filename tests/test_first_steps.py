"""The first five minutes of the README, line by line as written, made short."""

import json
import re
import runpy
import shlex
import sys
import urllib.request
from pathlib import Path

import pytest
from conftest import ROOT, SCRIPT
from test_page import serving

from hfdiff.cli import main

pytestmark = pytest.mark.slow

SECTION = re.search(r"## The first five minutes\n(.*?)\n## ", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
BLOCKS = re.findall(r"```\n(.*?)```", SECTION, re.DOTALL)
LINES = [line.split(" #")[0].strip() for block in BLOCKS for line in block.splitlines()]
SHORT = "--max_train_images 64 --batch_size 8 --validation_images 64 --sample_images 64 --checkpointing_images 64"
# What makes a line short; nothing of what it does goes.
SHORTER = {
    "sample": "--num_inference_steps 2",
    "select": "--class_labels sneaker --num_candidates 3 --top_k 1 --num_inference_steps 4",
    "evaluate": "--num_inference_steps 1 --guidance_scale 1 --num_styled 0",
    "show": "--num_images 2 --num_inference_steps 2 --guidance_scale 1",
    "card": "",
    "push": "",
}
LEAVES = {
    "sample": "images/grid.png",
    "select": "best/selection.png",
    "evaluate": "runs/emoji/metrics.json",
    "show": "shown/nearest.png",
    "card": "runs/emoji/README.md",
    "push": "runs/emoji/README.md",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Where what the lines write goes; judges too."""
    return tmp_path_factory.mktemp("first")


@pytest.fixture
def at_home(place, hub, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HFDIFF_CACHE", str(place / "cache"))
    monkeypatch.setattr("hfdiff.evaluation.judge_training.default_epochs", lambda *_: 2)
    monkeypatch.setattr("hfdiff.figures.grids.LEVELS", (0.0, 1.0))  # of each style, at 64 pixels


def moved(words: list[str], place: Path) -> list[str]:
    """The same words, what they write and read again lying in `place`; the name is of the user whom the Hub knows."""
    there = ("runs/", "images", "best", "shown")
    words = [str(place / word) if word.startswith(there) else word for word in words]
    return [word.replace("me/", "ann/") if word.startswith("me/") else word for word in words]


@pytest.mark.parametrize("line", LINES)
def test_a_line_does_what_it_says(line, place, at_home, hub):
    words = shlex.split(line)
    if words[0] == "accelerate":
        assert words[1:3] == ["launch", str(SCRIPT.relative_to(ROOT))]
        program = runpy.run_path(str(SCRIPT), run_name="train")["main"]
        assert program([*moved(words[3:], place), *SHORT.split(), "--mixed_precision", "no"]) == 0
        return
    assert words[0] == "hfdiff"
    if words[1] == "demo":
        script = (
            f"import os; PORT = os.environ['GRADIO_SERVER_PORT']; words = {words[1:]!r}; from hfdiff.cli import main; "
        )
        script += "main([*words, '--port', PORT])"
        with serving([sys.executable, "-c", script], ROOT) as address:
            assert b"gradio" in urllib.request.urlopen(address).read()
        return
    with pytest.raises(SystemExit) as stop:
        main([*moved(words[1:], place), *SHORTER[words[1]].split()])
    assert stop.value.code in (0, None)
    assert (place / LEAVES[words[1]]).is_file()
    assert words[1] != "push" or ("models", "ann/emoji") in hub.repos


def test_what_the_lines_left(place, hub):
    """Runs after them: memorisation is measured, by what few images allow."""
    metrics = [
        json.loads((place / "runs" / name / "metrics.json").read_text()) for name in ("emoji", "emoji_from_scratch")
    ]
    for report in metrics:
        assert report["metrics"]["memorisation"]["n"] == 300
        assert "each against the others" in report["metrics"]["memorisation"]["threshold_of"]
    assert "**copies**" in (place / "runs" / "emoji" / "README.md").read_text()
