"""What `import hfdiff` gives: names, real types, and docstrings that say shapes and ranges."""

import ast
import subprocess
import sys
import tomllib

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.version import Version

import hfdiff
from hfdiff.publish.card import NEEDS

TYPES = {
    "hfdiff.ClassStylePipeline": "pipelines.pipeline.ClassStylePipeline",
    "unet": "hfdiff.models.unet.ClassStyleUNet2DModel",  # its constructor is diffusers', which tells no types
    "hfdiff.load_pipeline": "def (model: str) -> pipelines.pipeline.ClassStylePipeline",
    "hfdiff.apply_styles": "def (pixels: torch._tensor.Tensor, strengths: torch._tensor.Tensor, names: ",
    "hfdiff.caption": "def (class_name: str, styles: str | typing.Mapping[str, float] | None =, quality: str =) -> str",
    "hfdiff.load_clip": "def (name_or_folder: str | None =, dataset: str | None =) -> ",
    "hfdiff.load_training_data": "tuple[hfdiff.data.table.ImageTable, hfdiff.data.table.ImageTable]",
    "hfdiff.Scorer": "pipelines.scores.Scorer",
    "hfdiff.TrainConfig().batch_size": "int",
}


@pytest.mark.slow
def test_a_type_checker_sees_real_types(tmp_path):
    file = tmp_path / "user.py"
    revealing = "".join(f"    reveal_type({name})\n" for name in TYPES)
    file.write_text(f"import hfdiff\n\n\ndef use(unet: hfdiff.ClassStyleUNet2DModel) -> None:\n{revealing}")
    words = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--cache-dir", str(tmp_path), str(file)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    revealed = [line.partition("Revealed type is ")[2] for line in done.stdout.splitlines() if "Revealed" in line]
    assert len(revealed) == len(TYPES), done.stdout
    for line, expected in zip(revealed, TYPES.values()):
        assert expected in line
        assert line != '"Any"'


def test_every_public_name_is_there_for_programs_and_for_type_checkers():
    tree = ast.parse((ROOT / "hfdiff" / "__init__.py").read_text())
    seen = {
        alias.asname: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == hfdiff._EXPORTS
    for name in hfdiff.__all__:
        assert getattr(hfdiff, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'Judges'"):
        _ = hfdiff.Judges


def test_importing_hfdiff_loads_no_library():
    code = "import sys, hfdiff; sys.exit(any(name in sys.modules for name in ('torch', 'diffusers', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# Below these are known holes (docs/reliability.md), or what does not work (pyproject.toml); strangers are told of none
# lower.
FLOORS = {
    "accelerate": "1.15", "datasets": "5.2", "diffusers": "0.42.1", "gradio": "6.31", "huggingface_hub": "2.2",
    "pillow": "12.3", "setuptools": "78.1.1", "torch": "2.11", "tqdm": "4.66.3", "transformers": "5.18",
}  # fmt: skip


def test_no_dependency_is_asked_for_below_its_floor():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [*project["build-system"]["requires"], *project["project"]["dependencies"], *NEEDS]
    asked += [line for lines in project["project"]["optional-dependencies"].values() for line in lines]
    seen = set()
    for requirement in map(Requirement, asked):
        if floor := FLOORS.get(requirement.name):
            seen.add(requirement.name)
            (bound,) = requirement.specifier
            assert bound.operator == ">="
            assert Version(bound.version) >= Version(floor), requirement
    assert seen == FLOORS.keys()
