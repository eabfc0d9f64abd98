"""What the README says runs as written."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import tiny_unet
from PIL import Image

from hfdiff.data.registry import DATASETS
from hfdiff.data.styles import STYLES
from hfdiff.models.config import ObjectiveConfig
from hfdiff.models.objectives import make_objective
from hfdiff.pipelines import ClassStylePipeline

README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.mark.slow
def test_the_python_lines_run_without_hfdiff_imported(tmp_path):
    names = ("Sneaker", "Bag")
    styles = {name: {"phrase": name, "group": None} for name in ("thick", "slanted")}
    pipeline = ClassStylePipeline(
        tiny_unet(num_classes=2), make_objective(ObjectiveConfig()).scheduler(), dict(enumerate(names)), styles
    )
    pipeline.save_pretrained(tmp_path / "runs" / "demo" / "pipeline")
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    assert len([line for line in code.splitlines() if line.strip()]) <= 11
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True)
    assert Image.open(tmp_path / "sneaker.png").size == (28, 28)


def test_every_style_and_dataset_is_described():
    assert all(f"`{name}`" in README for name in [*STYLES, *DATASETS])


def test_the_image_is_there():
    for link in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (Path(__file__).parents[1] / link).is_file()
