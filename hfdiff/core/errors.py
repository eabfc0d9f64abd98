"""What went wrong, in words that a user can act on."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

# Characters that a terminal obeys, or that turn the text around -> how they are written in Python.
ESCAPES = {
    code: ascii(chr(code))[1:-1]
    for code in (
        *range(32),
        *range(127, 160),
        0x061C,
        *range(0x200E, 0x2010),
        *range(0x2028, 0x202F),
        *range(0x2066, 0x206A),
    )
    if chr(code) not in "\t\n\r"
}


class Printable:
    """A stream that never passes on what a terminal obeys: names come from data, models and the Hub."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        return self.stream.write(text.translate(ESCAPES))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class BadInput(ValueError):
    """The user's input cannot be used: one line with the cause, the value, and what would be valid. Exit code 2."""


class TrainingFailed(RuntimeError):
    """Training cannot go on (a loss that is not finite, say): one line, nothing broken is saved. Exit code 1."""


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
    for stream in (sys.stdout, sys.stderr):  # a screen that is not UTF-8 gets escapes
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = main() or 0
    except BadInput as error:
        code = print_error(error, 2)
    except BrokenPipeError:  # who reads has enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except KeyboardInterrupt:
        code = print_error(TrainingFailed("interrupted; nothing that was there before is lost"), 130)
    except (TrainingFailed, OSError) as error:
        if os.environ.get("HFDIFF_TRACEBACK"):
            raise
        code = print_error(error, 1)
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.exit(code)


def first_line(error: BaseException) -> str:
    """What a library says of its own error, without the rest of its explanation."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def print_error(error: Exception, code: int) -> int:
    """Say what went wrong in one line; the exit code that goes with it."""
    line = " ".join(str(error).split()).translate(ESCAPES)
    print(f"hfdiff: error: {line}", file=sys.stderr)
    return code
