"""What went wrong, in words that a user can act on."""

import os
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches


class BadInput(ValueError):
    """The user's input cannot be used: one line with the cause, the value, and what would be valid. Exit code 2."""


class TrainingFailed(RuntimeError):
    """Training cannot go on (a loss that is not finite, say): one line, nothing broken is saved. Exit code 1."""


def unknown(what: str, value: object, valid: Iterable[str]) -> BadInput:
    """The error for a name that is in no table; it lists the valid names and the nearest one."""
    valid = list(valid)
    near = get_close_matches(str(value).lower(), [v.lower() for v in valid], n=1)
    hint = next(f" (did you mean {v!r}?)" for v in valid if v.lower() == near[0]) if near else ""
    return BadInput(f"unknown {what} {str(value)!r}{hint}; valid: {', '.join(valid) or 'none'}")


def run_program(main: Callable[[], int | None]) -> None:
    """Run a program and exit: 0 done, 2 bad input, 1 a failure with a known cause; each with one line on stderr."""
    try:
        code = main() or 0
    except BadInput as error:
        code = _complain(error, 2)
    except (TrainingFailed, OSError) as error:
        if os.environ.get("HFDIFF_TRACEBACK"):
            raise
        code = _complain(error, 1)
    sys.stdout.flush()
    sys.exit(code)


def _complain(error: Exception, code: int) -> int:
    line = " ".join(str(error).split())
    print(f"hfdiff: error: {line}", file=sys.stderr)
    return code
