"""One self-contained file out of a module and its siblings.

diffusers copies only the direct relative imports of a custom pipeline, and keeps them under names that all models
share, so that a second model silently gets the helpers of the first. It runs the files of all local folders in one
module, too, where the functions of the last serve the classes of the others: so a bundle defines everything once more
in a module that only its own text has.
"""

import ast
import contextlib
import hashlib
import os
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import ModuleType
from typing import Any

LONGEST_LINE = 120


def has_siblings(source: str) -> bool:
    """Does the text of a module import others of its folder?"""
    return any(isinstance(node, ast.ImportFrom) and node.level for node in ast.parse(source).body)


def bundle(file: Path) -> str:
    """The module with all siblings that it imports, each before the first that needs it: the same text every time.

    Library imports come first, merged and sorted. ValueError for what could change its meaning: one name defined by
    two modules, a sibling that is imported under another name, as a module, or inside a function.
    """
    owners: dict[str, str] = {}  # top-level name -> the module or the import that defines it
    imports: dict[tuple[str, str], set[str]] = {}  # ("import" or "from", module) -> names, with "as" where given
    bodies = []
    for path in in_order(file):
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        dropped = set()
        for number, node in enumerate(tree.body):
            docstring = number == 0 and ast.get_docstring(tree) is not None
            if docstring or isinstance(node, ast.Import | ast.ImportFrom):
                dropped |= set(range(node.lineno - 1, node.end_lineno or node.lineno))
            for name, what in defined(node, path.stem).items():
                if owners.setdefault(name, what) != what:
                    raise ValueError(f"{path.name}: {name} is {what}, and {owners[name]} elsewhere; give another name")
            collect(node, imports)
        lines = [line for i, line in enumerate(source.splitlines()) if i not in dropped]
        bodies.append("\n".join(lines).strip("\n"))
    heading = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")), clean=False)
    statements = "\n".join(statement(*key, names) for key, names in sorted(imports.items()))
    last = "globals().update(own_names(__name__, __file__))" if "own_names" in owners else ""
    return "\n\n\n".join(filter(None, [f'"""{heading}"""\n\n{statements}', *bodies, last])) + "\n"


def own_names(name: str, file: str) -> dict[str, Any]:
    """What the text of a bundled file defines, from a module of that text's own, which keeps it as `SOURCE`."""
    text = Path(file).read_text(encoding="utf-8")
    suffix = digest(text)
    if name.endswith(suffix):  # this is that module
        return {"SOURCE": text}
    own = f"{name}{suffix}"
    if own not in sys.modules:
        module = ModuleType(own)
        vars(module).update(__file__=file, SOURCE=text)
        sys.modules[own] = module
        exec(compile(text, file, "exec"), vars(module))
        if name.startswith("diffusers_modules."):  # another process, that gets a pickled pipeline, imports it there
            write_once(Path(file).with_name(f"{Path(file).stem}{suffix}.py"), text)
    return {key: value for key, value in vars(sys.modules[own]).items() if not key.startswith("__")}


def digest(text: str) -> str:
    """What is added to the name of a bundle's own module."""
    return f"_{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def write_once(target: Path, text: str) -> None:
    """Write a file, so that it is there whole or not at all."""
    with contextlib.suppress(OSError):  # a folder that cannot be written
        if not target.exists():
            fresh = target.with_name(f".{target.name}.{os.getpid()}")
            fresh.write_text(text, encoding="utf-8")
            fresh.replace(target)


def in_order(file: Path) -> list[Path]:
    """The file and its siblings, each after those that it imports; ValueError for a circle."""
    graph: dict[Path, list[Path]] = {}
    waiting = [file]
    while waiting:
        path = waiting.pop(0)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        check_siblings(tree, path)
        froms = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.level]
        graph[path] = [path.with_name(f"{node.module}.py") for node in froms]
        waiting += [sibling for sibling in graph[path] if sibling not in graph]
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise ValueError(f"modules import each other: {' -> '.join(path.name for path in error.args[1])}") from error


def check_siblings(tree: ast.Module, path: Path) -> None:
    """ValueError for a relative import that joining would not resolve."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            plain = node in tree.body and node.level == 1 and node.module and "." not in node.module
            if not plain or any(alias.asname or alias.name == "*" for alias in node.names):
                where = f"{path.name}:{node.lineno}"
                raise ValueError(f"{where}: {ast.unparse(node)}; valid: names of a sibling, at the top of the file")


def defined(node: ast.AST, module: str) -> dict[str, str]:
    """Names that a top-level statement defines, or one in its branches -> what they are."""
    if isinstance(node, ast.Import):
        return {alias.asname or alias.name: f"import {alias.name}" for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        here = {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        return {} if node.level else here
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name: f"of {module}"}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    here = {name.id: f"of {module}" for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    branches = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt | ast.excepthandler)]
    return here | {name: what for child in branches for name, what in defined(child, module).items()}


def collect(node: ast.stmt, imports: dict[tuple[str, str], set[str]]) -> None:
    """Add the library imports of a top-level statement."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            imports.setdefault(("import", ast.unparse(alias)), set())
    if isinstance(node, ast.ImportFrom) and not node.level:
        imports.setdefault(("from", node.module or ""), set()).update(map(ast.unparse, node.names))


def statement(kind: str, module: str, names: set[str]) -> str:
    """An import, in as many lines as it takes."""
    if kind == "import":
        return f"import {module}"
    line = f"from {module} import {', '.join(sorted(names))}"
    if len(line) <= LONGEST_LINE:
        return line
    return "\n".join([f"from {module} import (", *(f"    {name}," for name in sorted(names)), ")"])
