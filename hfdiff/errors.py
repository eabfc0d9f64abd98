"""What went wrong, in words that a user can act on."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path


class BadInput(ValueError):
    """The user's input cannot be used: one line with the cause, the value, and what would be valid. Exit code 2."""


class TrainingFailed(RuntimeError):
    """Training cannot go on (a loss that is not finite, say): one line, nothing broken is saved. Exit code 1."""


def unknown(what: str, value: object, valid: Iterable[str]) -> BadInput:
    """The error for a name that is in no table; it lists the valid names and the nearest one."""
    valid = list(valid)
    near = get_close_matches(str(value).lower(), [v.lower() for v in valid], n=1)
    hint = next(f" (did you mean {v!r}?)" for v in valid if v.lower() == near[0]) if near else ""
    names = ", ".join(valid[:20]) + (f" and {len(valid) - 20} more" if len(valid) > 20 else "")
    return BadInput(f"unknown {what} {str(value)[:100]!r}{hint}; valid: {names or 'none'}")


def check_range(name: str, value: float, low: float, high: float) -> None:
    """BadInput for a number outside [low, high]."""
    if not low <= value <= high:
        raise BadInput(f"{name} is {value}; valid: {low} to {high}")


@contextlib.contextmanager
def as_bad_input() -> Iterator[None]:
    """While entered, a ValueError, which the pipeline raises for arguments that it cannot use, becomes a BadInput."""
    try:
        yield
    except ValueError as error:
        raise BadInput(str(error)) from error


def run_program(main: Callable[[], int | None]) -> None:
    """Run a program and exit: 0 done, 2 bad input, 1 a failure with a known cause; each with one line on stderr."""
    try:
        code = main() or 0
    except BadInput as error:
        code = complain(error, 2)
    except KeyboardInterrupt:
        code = complain(TrainingFailed("interrupted; nothing that was there before is lost"), 130)
    except (TrainingFailed, OSError) as error:
        if os.environ.get("HFDIFF_TRACEBACK"):
            raise
        code = complain(error, 1)
    sys.stdout.flush()
    sys.exit(code)


def first_line(error: BaseException) -> str:
    """What a library says of its own error, without the rest of its explanation."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def folder_to_write(path: str, flag: str = "output_dir") -> Path:
    """The folder that a flag names; BadInput where it cannot be one, or nothing can be written in it."""
    if not path.strip() or "\0" in path:
        raise BadInput(f"{flag} is {path!r}; valid: a folder")
    folder = Path(path)
    try:
        place = next(place for place in (folder, *folder.parents) if place.exists() or place.is_symlink())
        if not place.is_dir():
            raise BadInput(f"{flag} {path}: {place} is no folder; give another")
        with tempfile.TemporaryFile(dir=place):  # a file without a name: permissions alone do not tell of /proc
            pass
    except OSError as error:
        raise BadInput(f"{flag} {path[:60]!r} cannot be written: {error.strerror}; give another folder") from error
    return folder


def file_to_write(path: str, flag: str) -> Path:
    """The file that a flag names; BadInput where it cannot be one, or is there and no plain file (/dev/null)."""
    file = Path(path)
    if not path.strip() or "\0" in path or path.endswith("/") or file.is_dir():
        raise BadInput(f"{flag} is {path!r}; valid: a file, metrics.json for example")
    folder_to_write(str(file.parent), flag)
    try:
        if file.exists() and not file.is_file():
            raise BadInput(f"{flag} {path} is no plain file; give another")
    except OSError as error:
        raise BadInput(f"{flag} {path[:60]!r} cannot be written: {error.strerror}; give another file") from error
    return file


def existing_folder(path: str) -> Path | None:
    """The folder of that name, or None; a text that no file system takes as a name is no folder."""
    try:
        folder = Path(path).expanduser()
        return folder if path.strip() and folder.is_dir() else None
    except (OSError, ValueError, RuntimeError):
        return None


def complain(error: Exception, code: int) -> int:
    """Say what went wrong in one line; the exit code that goes with it."""
    line = " ".join(str(error).split())
    print(f"hfdiff: error: {line}", file=sys.stderr)
    return code
