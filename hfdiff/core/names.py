"""The one did-you-mean: an error for a name that no table knows."""

from collections.abc import Iterable
from difflib import get_close_matches

from hfdiff.core.errors import BadInput


def unknown(what: str, value: object, valid: Iterable[str]) -> BadInput:
    """The error for a name that is in no table; it lists the valid names and the nearest one."""
    valid = list(valid)
    near = get_close_matches(str(value).lower(), [v.lower() for v in valid], n=1)
    hint = next(f" (did you mean {v!r}?)" for v in valid if v.lower() == near[0]) if near else ""
    names = ", ".join(valid[:20]) + (f" and {len(valid) - 20} more" if len(valid) > 20 else "")
    return BadInput(f"unknown {what} {str(value)[:100]!r}{hint}; valid: {names or 'none'}")
