"""One dataclass from a YAML file and the command line; every mistake is one line."""

import contextlib
import dataclasses
import io
import math
import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml

from hfdiff.errors import BadInput, unknown

T = TypeVar("T")


def parse(cls: type[T], argv: Sequence[str], description: str, prog: str | None = None) -> T:
    """Defaults of the dataclass, overridden by `--config FILE`, overridden by the other flags."""
    argv = list(argv)
    file = _take_config(argv)
    default = from_mapping(cls, read_yaml(file), where=str(file)) if file else cls()
    return command_line(cls, argv, description, default, prog)


def command_line(
    cls: Any, argv: Sequence[str], description: str, default: Any = tyro.MISSING_NONPROP, prog: str | None = None
) -> Any:
    """tyro on `argv`; its error box becomes one line, and `--help` stays as it is."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                cls, args=list(argv), description=description, default=default, prog=prog, use_underscores=True
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise BadInput(_one_line(errors.getvalue())) from stop


def _one_line(box: str) -> str:
    """The text of an error box without its frame, its title and the pointer to the help."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip("│ ") for line in text.splitlines() if not re.match(r"[╭╰├]|│\s*─+\s*│$", line)]
    text = " ".join(line for line in lines if line)
    return re.sub(r"For full helptext.*|Got errors:.*?(?=Argument helptext|$)|[-─]{5,}", "", text).strip()


def _take_config(argv: list[str]) -> Path | None:
    """Remove `--config FILE` or `--config=FILE` from `argv` and return the file."""
    for i, word in enumerate(argv):
        if word == "--config":
            if i + 1 == len(argv):
                raise BadInput("--config needs a YAML file")
            file = argv[i + 1]
            del argv[i : i + 2]
            return Path(file)
        if word.startswith("--config="):
            del argv[i]
            return Path(word.removeprefix("--config="))
    return None


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML mapping; BadInput names the file and the line that is wrong."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"configuration {str(file)!r} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"configuration {str(file)!r} is not YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise BadInput(f"configuration {str(file)!r} holds a {type(content).__name__}; valid: keys with values")
    return content


def from_mapping(cls: type[T], values: dict[str, Any], where: str) -> T:
    """The dataclass from plain values; unknown keys and wrong types are errors that name the key."""
    kinds = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            raise unknown(f"key in {where}", key, names)
    return cls(**{key: _convert(value, kinds[key], f"{key} in {where}") for key, value in values.items()})


def _convert(value: Any, kind: Any, where: str) -> Any:
    """A YAML value as the annotated type: numbers written as text ("1e-4") and lists for tuples are welcome."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        if value is False and "no" in arguments:  # YAML reads a bare no as false
            value = "no"
        if value not in arguments:
            raise BadInput(f"{where} is {value!r}; valid: {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise BadInput(f"{where} is {value!r}; valid: a list")
        return tuple(_convert(v, arguments[0], where) for v in value)
    if arguments:  # a union: X | None
        if value is None and type(None) in arguments:
            return None
        return _convert(value, next(a for a in arguments if a is not type(None)), where)
    if kind is bool:
        if not isinstance(value, bool):
            raise BadInput(f"{where} is {value!r}; valid: true or false")
        return value
    if kind in (int, float):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = None
        if number is None or isinstance(value, bool) or not math.isfinite(number) or (kind is int and number % 1):
            raise BadInput(f"{where} is {value!r}; valid: a {'whole ' if kind is int else ''}number")
        return kind(number)
    if not isinstance(value, str | int | float):
        raise BadInput(f"{where} is {value!r}; valid: text")
    return kind(value)


def to_mapping(config: Any) -> dict[str, Any]:
    """The dataclass as plain YAML values."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()}
