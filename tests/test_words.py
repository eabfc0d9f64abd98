"""What is read, by users and in the code, keeps to the field's words."""

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    file
    for pattern in (
        *("*.md", "docs/**/*.md", "examples/*.md", "examples/*.ipynb", "hfdiff/**/*.md", "train_scripts/*/*.yaml"),
        *(f"{folder}/**/*.py" for folder in ("hfdiff", "pipelines", "train_scripts", "benchmarks")),
    )
    for file in ROOT.glob(pattern)
)
# Not the field's word -> the word.
WORDS = {
    "pictures?": "image",
    "data sets?": "dataset",
    "begun from|from nothing": "from scratch, initialised from",
    "(is|are) told|told neither": "is conditioned on, unconditional",
    "blindly": "unselected",
    "as a stranger does|as for a stranger": "in a clean environment",
    "likes? best": "ranks highest",
    "speaks? well of": "positive prompts, negative prompts",
    "(scores?|model|scorer) (is|are) worth|what it is worth": "quality, metrics",
    "sinking into noise": "being noised",
    "averaged weights": "EMA weights",
    "(brings?|brought) the learning rate down|learning rate brought down": "decays",
    "rows? of `[A-Z]|rows? of the table of": "an entry in",
    "way of the data": "data flow",
    "a leaf[:;,]|a leaf (too|as well)": "a standalone module",
    "copies (among|of the training)|are they copies": "near-duplicates",
    "a weak (one|model)": "low quality",
    "(is|are) there already": "already exists",
    "not to be had": "not found on",
    "yardsticks?": "reference images",
}
FOUND = re.compile("|".join(rf"\b(?:{words})" for words in WORDS).replace(" ", r"\s+"), re.IGNORECASE)
NAMES = re.compile("picture|yardstick", re.IGNORECASE)
PATH = re.compile(r"[\w.{}$()-]*/[\w./{}$()-]*")  # what a user types, or what lies in a run's folder


def texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of every string that is more than a key; an f-string is one, with {} for each expression."""
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.lineno, node.value


def violations(file: Path) -> list[str]:
    """Where a file has another word than the field's."""
    content = file.read_text(encoding="utf-8")
    read, names = [(1, content)], []
    if file.suffix == ".py":
        tokens = list(tokenize.generate_tokens(io.StringIO(content).readline))
        read = [(line, text) for line, text in texts(ast.parse(content)) if " " in text]
        read += [(token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT]
        names = [token for token in tokens if token.type == tokenize.NAME and NAMES.search(token.string)]
    found = [f"{file.name}:{token.start[0]}: {token.string}" for token in names]
    for line, text in read:
        for match in FOUND.finditer(PATH.sub("PATH", text)):
            found.append(f"{file.name}:{line + text[: match.start()].count(chr(10))}: {' '.join(match[0].split())}")
    return found


def test_the_words_are_the_fields():
    assert len(FILES) > 100
    assert [line for file in FILES for line in violations(file)] == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ('"""Samples that were drawn\n    blindly."""', 1),
        ('print(f"the {1} data " f"set {2}")', 1),
        ("x = 1  # of the Averaged weights", 1),
        ("real_pictures = 1", 1),
        ('def main():\n    """It saves pictures."""\n    raise ValueError("a model that is told the class")', 2),
        ('key = {"pictures": 1}; folder = "runs/demo/pictures/grid.png of a run"', 0),
    ],
)
def test_a_planted_word_is_found(tmp_path, text, count):
    (tmp_path / "planted.py").write_text(text + "\n")
    assert len(violations(tmp_path / "planted.py")) == count


def test_a_planted_word_in_a_page_is_found(tmp_path):
    (tmp_path / "page.md").write_text(
        "| `forward.png` | real images sinking\n  into noise | `runs/demo/pictures/grid.png`\n"
    )
    assert len(violations(tmp_path / "page.md")) == 1


def test_names_of_tests_are_unique():
    names = Counter(
        re.findall(r"(?m)^def (test_\w+)", "\n".join(file.read_text() for file in ROOT.glob("tests/**/*.py")))
    )
    assert [name for name, count in names.items() if count > 1] == []
