"""The way of the data is one-way: a module imports only modules above it; leaves import none of the project."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hfdiff.cli import COMMANDS

ROOT = Path(__file__).parents[1]
LEAVES = (
    "hfdiff.unet",
    "hfdiff.pipelines.class_style",
    "hfdiff.pipelines.multistep",
    "hfdiff.load_back",
    "hfdiff.page",
)
EVERYONE_HAS = {"diffusers", "torch", "transformers", "numpy", "PIL"}
ORDER = (
    "hfdiff.errors",
    "hfdiff.files",
    "hfdiff.config",
    *LEAVES,
    "hfdiff.sizes",
    "hfdiff.styles",
    "hfdiff.augment",
    "hfdiff.data",
    "hfdiff.memory",
    "hfdiff.learned_schedule",
    "hfdiff.samplers",
    "hfdiff.objectives",
    "hfdiff.judge",
    "hfdiff.clip",
    "hfdiff.evaluation",
    "hfdiff.training",
    "hfdiff.checkpoint",
    "hfdiff.transfer",
    "hfdiff.report",
    "hfdiff.quality",
    "hfdiff.explain",
    "hfdiff.pictures",
    "hfdiff.select",
    "hfdiff.signals",
    "hfdiff.runlog",
    "hfdiff.show",
    "hfdiff.card",
    "hfdiff.hub",
    "hfdiff.plan",
    "hfdiff.commands.drawing",
    *(f"hfdiff.commands.{name}" for name in COMMANDS),
    "hfdiff.cli",
)


def file_of(module: str) -> Path:
    return ROOT / f"{module.replace('.', '/').replace('hfdiff/pipelines', 'pipelines')}.py"


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hfdiff"):
            found.add(node.module)
        if isinstance(node, ast.Import):
            found.update(name.name for name in node.names if name.name.startswith("hfdiff"))
    return found


def test_every_module_has_its_place():
    files = {*(ROOT / "hfdiff").rglob("*.py"), *(ROOT / "pipelines").glob("*.py")}
    assert {file for file in files if file.name != "__init__.py"} == set(map(file_of, ORDER))


@pytest.mark.parametrize("module", ORDER)
def test_imports_point_upwards(module):
    above = set() if module in LEAVES else set(ORDER[: ORDER.index(module)])
    assert imports(file_of(module)) <= above


@pytest.mark.parametrize("module", LEAVES)
def test_leaves_import_only_what_every_user_has(module):
    tree = ast.parse(file_of(module).read_text())
    roots = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [])
        + ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
    }
    assert roots - sys.stdlib_module_names <= EVERYONE_HAS | ({"gradio"} if module == "hfdiff.page" else set())


def test_a_built_wheel_holds_everything(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*build, str(ROOT)], check=True, cwd=tmp_path)
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    for name in (
        "hfdiff/pipelines/class_style.py",
        "hfdiff/commands/sample.py",
        "hfdiff/templates/card.md",
        "hfdiff/unet.py",
        "hfdiff/assets/fashion_mnist_12k/train.parquet",
        "hfdiff/assets/fashion_mnist_12k/LICENSE",
        "hfdiff/assets/judge_fashion_mnist/model.safetensors",
    ):
        assert name in names
