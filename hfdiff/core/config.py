"""One dataclass from a YAML file and the command line; every mistake is one line."""

import contextlib
import dataclasses
import io
import math
import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar
from unicodedata import category

import tyro
import yaml

from hfdiff.core.errors import BadInput
from hfdiff.core.files import at_home
from hfdiff.core.names import unknown

T = TypeVar("T")
DASH = "\ue000"  # of no script, so nobody types it


CONFIG = Annotated[str | None, tyro.conf.arg(help="YAML file of defaults for all other flags.")]


def parse(cls: type[T], argv: Sequence[str], description: str, prog: str | None = None) -> T:
    """Defaults of the dataclass, overridden by `--config FILE`, overridden by the other flags.

    Only a class whose fields all have defaults takes a file. BadInput for whatever is wrong.
    """
    argv = list(argv)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    if any(field.default is field.default_factory is dataclasses.MISSING for field in fields):
        return command_line(cls, argv, description, prog=prog)
    file = _take_config(argv)
    default = from_mapping(cls, read_yaml(file), where=str(file)) if file else cls()
    return command_line(cls, argv, description, default, prog)


def command_line(
    cls: Any, argv: Sequence[str], description: str, default: Any = tyro.MISSING_NONPROP, prog: str | None = None
) -> Any:
    """tyro on `argv`; its error box becomes one line, and `--help` stays as it is."""
    if default is not tyro.MISSING_NONPROP and (groups := groups_of(cls)):
        # Each group becomes a field of its own, whose name stands above its flags and not in them.
        kind = dataclasses.make_dataclass("Grouped", [("config", CONFIG), *groups.items()], frozen=True)
        default = kind(None, *(base(**_values(base, default)) for base in groups.values()))
        given = command_line(Annotated[kind, tyro.conf.OmitArgPrefixes], argv, description, default, prog)
        values = [_values(base, getattr(given, name)) for name, base in groups.items()]
        return cls(**{key: value for group in values for key, value in group.items()})
    errors = io.StringIO()
    words = [re.sub(r"^-(?=[^-\d.])", DASH, word) if word != "-h" else word for word in argv]
    try:
        with contextlib.redirect_stderr(errors):
            given = tyro.cli(cls, args=words, description=description, default=default, prog=prog, use_underscores=True)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise BadInput(_one_line(errors.getvalue()).replace(DASH, "-")) from stop
    return _with_dashes(given)


def _with_dashes(value: Any) -> Any:
    """Values as they were typed, where `DASH` kept a word like the class "-x" from being taken for a flag."""
    if isinstance(value, str):
        return value.replace(DASH, "-")
    if isinstance(value, tuple):
        return tuple(map(_with_dashes, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, **{k: _with_dashes(v) for k, v in vars(value).items()})
    return value


def groups_of(cls: Any) -> dict[str, type]:
    """Name -> group of keys: the bases of a dataclass that is a union of several; none of any other."""
    bases: list[Any] = [base for base in reversed(getattr(cls, "__bases__", ())) if dataclasses.is_dataclass(base)]
    return {base.__name__.removesuffix("Config").lower(): base for base in bases} if len(bases) > 1 else {}


def _values(cls: Any, source: Any) -> dict[str, Any]:
    return {field.name: getattr(source, field.name) for field in dataclasses.fields(cls)}


def _one_line(box: str) -> str:
    """The sections of an error box without its frame, its title and the pointer to the help."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip("│ ") for line in text.splitlines() if not re.match(r"[╭╰├]", line)]
    sections = re.split(r" +─{5,} +", " ".join(line for line in lines if line))
    sections = [re.sub(r" Got errors:.*", "", section).rstrip(".") for section in sections]
    text = "; ".join(section for section in sections if not section.startswith("For full helptext"))
    return text.replace("Argument helptext:", "valid:")


def _take_config(argv: list[str]) -> Path | None:
    """Remove `--config FILE` or `--config=FILE` from `argv` and return the file."""
    for i, word in enumerate(argv):
        if word == "--config":
            given = argv[i + 1 : i + 2]
            del argv[i : i + 2]
        elif word.startswith("--config="):
            given = [word.removeprefix("--config=")]
            del argv[i]
        else:
            continue
        if any(other.partition("=")[0] == "--config" for other in argv):
            raise BadInput("--config is given twice; valid: one file")
        return _yaml_file(*given)
    return None


def _yaml_file(name: str = "") -> Path:
    if not name.strip():
        raise BadInput("--config needs a YAML file")
    return at_home(name)


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which refuses a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key is no plain value", problem_mark=key.start_mark)
            name = key.value if key.tag.endswith(":merge") else self.construct_object(key)  # on and yes are one key
            if name in keys:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} is given twice", problem_mark=key.start_mark)
            keys.add(name)
        return super().construct_mapping(node, deep)


def read_yaml(file: Path) -> dict[str, Any]:
    """A YAML mapping; BadInput names the file and the line that is wrong."""
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
        _check_plain(content)
    except OSError as error:
        raise BadInput(f"configuration {str(file)!r} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError, RecursionError, LookupError, AttributeError, TypeError) as error:  # wrong tags
        raise BadInput(f"configuration {str(file)!r} is not YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise BadInput(f"configuration {str(file)!r} holds a {type(content).__name__}; valid: keys with values")
    return content


def _check_plain(content: Any) -> None:
    """ValueError for what JSON or a later YAML cannot hold: dates, bytes, sets, NaN as a key, control characters."""
    waiting, seen = [content], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict | list):
            if id(value) not in seen:  # aliases make many of one
                seen.add(id(value))
                waiting += [*value, *value.values()] if isinstance(value, dict) else value
            if isinstance(value, dict) and any(key is None or key != key for key in value):
                raise ValueError("a key is no text; valid: text")
        elif isinstance(value, str):
            if bad := [c for c in value if c in "\ufffe\uffff" or (c not in "\n\r\t" and category(c) in ("Cc", "Cs"))]:
                raise ValueError(f"a text holds the character {bad[0]!r}")
        elif value is not None and not isinstance(value, bool | int | float):
            raise ValueError(f"a value is a {type(value).__name__}; valid: text, numbers, true, false, lists, mappings")


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
    if origin is dict:
        if not isinstance(value, dict):
            raise BadInput(f"{where} is {value!r}; valid: keys with values")
        return {str(key): content for key, content in value.items()}
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise BadInput(f"{where} is {value!r}; valid: a list")
        length = len(value if arguments[-1] is Ellipsis else arguments)
        if len(value) != length:
            raise BadInput(f"{where} is {value!r}; valid: a list of {length}")
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
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if isinstance(value, bool) or not math.isfinite(number) or (kind is int and number % 1):
            raise BadInput(f"{where} is {repr(value)[:100]}; valid: a {'whole ' if kind is int else ''}number")
        return value if kind is int and isinstance(value, int) else kind(number)
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise BadInput(f"{where} is {value!r}; valid: text")
    return kind(value)


def to_mapping(config: Any) -> dict[str, Any]:
    """The dataclass as plain YAML values."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()}
