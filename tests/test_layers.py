"""The data flow is one-way: a package imports itself and those before it; no cycles, no long files or functions."""

import ast
import subprocess
import sys
import zipfile
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# In the order of the data; above them all stand hfdiff/__init__.py and hfdiff/cli.py.
PACKAGES = ("core", "pipelines", "data", "models", "training", "evaluation", "figures", "tuning", "publish", "commands")
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 450, 60
# Files that run without the project -> what they import beside `EVERYONE_HAS`.
STANDALONE = {
    "hfdiff/models/unet.py": set(),
    "pipelines/multistep.py": set(),
    "hfdiff/publish/load_back.py": set(),
    "hfdiff/publish/page.py": {"gradio", "starlette"},
}
EVERYONE_HAS = {"diffusers", "torch", "transformers", "numpy", "PIL"}


def modules(root: Path) -> dict[str, ast.Module]:
    """Module -> its code; `pipelines/` is installed as `hfdiff.pipelines`."""
    files = dict.fromkeys((root / "hfdiff").rglob("*.py"), "hfdiff")
    files |= dict.fromkeys((root / "pipelines").rglob("*.py"), "hfdiff.pipelines")
    found = {}
    for file, prefix in files.items():
        inside = file.relative_to(root).with_suffix("").parts[1:]
        name = ".".join((prefix, *inside)).removesuffix(".__init__")
        found[name] = ast.parse(file.read_text())
    return found


def imports(name: str, tree: ast.Module, known: dict[str, ast.Module]) -> set[str]:
    """The project's modules that a module imports, inside functions too."""
    package = name if any(other.startswith(f"{name}.") for other in known) else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            base = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1]]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                found.add(inner if inner in known else module)
    return {module for module in found if module == "hfdiff" or module.startswith("hfdiff.")}


def place(module: str) -> int:
    """The number of a module's package; what is in none stands above all."""
    part = [*module.split("."), ""][1]
    return PACKAGES.index(part) if part in PACKAGES else len(PACKAGES)


def length(function: ast.FunctionDef) -> int:
    """Lines of a function, of a pipeline's `__call__` without signature and docstring: they are the manual."""
    first = function.body[ast.get_docstring(function) is not None :][0] if function.name == "__call__" else function
    return (function.end_lineno or 0) - first.lineno + 1


def violations(root: Path) -> list[str]:
    """What breaks the rules, a line each."""
    known = modules(root)
    arrows = {name: imports(name, tree, known) - {name} for name, tree in known.items()}
    found = [
        f"{name} imports {other}, which comes later"
        for name, others in arrows.items()
        for other in others
        if place(other) > place(name)
    ]
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        found.append(f"cycle: {' -> '.join(error.args[1])}")
    for name, tree in known.items():
        lines = tree.body[-1].end_lineno or 0 if tree.body else 0
        found += [f"{name} has {lines} lines"] if lines > MOST_LINES else []
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name != "__init__"]
        long = [node for node in functions if length(node) > MOST_LINES_OF_A_FUNCTION]
        found += [f"{name}.{node.name} has {length(node)} lines" for node in long]
    return found


def test_the_project_keeps_to_its_order():
    assert violations(ROOT) == []


def test_every_module_lies_in_a_package():
    assert {name for name in modules(ROOT) if place(name) == len(PACKAGES)} == {"hfdiff", "hfdiff.cli"}


@pytest.mark.parametrize(
    ("file", "text", "found"),
    [
        ("hfdiff/core/a.py", "from hfdiff.data import b", "hfdiff.core.a imports hfdiff.data.b, which comes later"),
        ("hfdiff/core/a.py", "def f():\n    import hfdiff.data.b", "hfdiff.core.a imports hfdiff.data.b"),
        ("hfdiff/core/a.py", "from hfdiff import cli", "hfdiff.core.a imports hfdiff.cli"),
        ("pipelines/a.py", "from hfdiff.data.b import x", "hfdiff.pipelines.a imports hfdiff.data.b"),
        ("hfdiff/data/b.py", "from . import c", "cycle: "),
        ("hfdiff/data/b.py", "\n" * MOST_LINES + "x = 1", "hfdiff.data.b has 451 lines"),
        ("hfdiff/data/b.py", "def f():\n" + "    x = 1\n" * MOST_LINES_OF_A_FUNCTION, "hfdiff.data.b.f has 61 lines"),
    ],
)
def test_a_planted_violation_is_found(tmp_path, file, text, found):
    sound = {
        "hfdiff/core/a.py": "",
        "hfdiff/cli.py": "from hfdiff.data import b",
        "hfdiff/data/b.py": "from hfdiff.core import a",
        "hfdiff/data/c.py": "from hfdiff.data.b import y",
        "pipelines/a.py": "from .b import x",
        "pipelines/b.py": "from hfdiff.core.a import x",
    }
    for name, content in sound.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert violations(tmp_path) == []
    (tmp_path / file).write_text(text)
    assert any(line.startswith(found) for line in violations(tmp_path))


@pytest.mark.parametrize("file", STANDALONE)
def test_standalone_files_import_only_what_every_user_has(file):
    tree = ast.parse((ROOT / file).read_text())
    roots = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [])
        + ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
    }
    assert roots - sys.stdlib_module_names <= EVERYONE_HAS | STANDALONE[file]


@pytest.mark.slow
def test_a_built_wheel_holds_everything(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*build, str(ROOT)], check=True, cwd=tmp_path)
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    code = {f"{module.replace('.', '/')}.py" for module in modules(ROOT)}
    code -= {name for name in code if name.removesuffix(".py") + "/__init__.py" in names}
    for name in (
        *code,
        "hfdiff/publish/templates/card.md",
        "hfdiff/assets/fashion_mnist_12k/train.parquet",
        "hfdiff/assets/fashion_mnist_12k/LICENSE",
        "hfdiff/assets/judge_fashion_mnist/model.safetensors",
    ):
        assert name in names
