"""Names, and styles as people write them: "thick:0.8+slanted"."""

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

PLAIN = "plain"
UNSPECIFIED = -1.0  # a strength that stands for "unspecified"

StyleSpec = str | Mapping[str, float] | None


def parse_styles(spec: StyleSpec) -> dict[str, float]:
    """Read the style grammar: "thick:0.8+slanted" or {"thick": 0.8, "slanted": 1} -> strengths by name.

    A bare name means strength 1; "plain", "" and None mean no style. ValueError for a strength outside [0, 1].
    """
    if spec is None:
        return {}
    pairs: list[tuple[str, Any]]
    if isinstance(spec, str):
        words = [part.partition(":") for part in spec.split("+") if part.strip().lower() not in ("", PLAIN)]
        pairs = [(name, strength if colon else 1.0) for name, colon, strength in words]
    elif isinstance(spec, Mapping) and all(isinstance(name, str) for name in spec):
        pairs = list(spec.items())
    else:
        raise ValueError(f'style {spec!r}; valid: a text like "thick:0.8+slanted", or strengths by name')
    strengths: dict[str, float] = {}
    for name, value in ((name.strip(), value) for name, value in pairs):
        if not name or name.lower() == PLAIN or "+" in name or ":" in name:
            raise ValueError(f"style {name!r} has no name that the grammar can hold: not empty, not 'plain', no + or :")
        if name.lower() in map(str.lower, strengths):
            raise ValueError(f"{spec!r} names the style {name!r} twice")
        strengths[name] = _strength(name, value)
    return strengths


def _strength(name: str, value: Any) -> float:
    try:
        strength = float(value)
    except (TypeError, ValueError):
        strength = math.nan
    if not 0 <= strength <= 1:
        raise ValueError(f"strength {value!r} of style {name!r}; valid: a number from 0 to 1")
    return strength


def canonical(name: str) -> str:
    """How names are compared: composed (NFC), and without space around them."""
    return unicodedata.normalize("NFC", name).strip()


def shown(name: str) -> str:
    """How a name is printed: canonical, and with escapes for what is no printable character."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in canonical(name))


def find_name(name: str, valid: Sequence[str]) -> str | None:
    """The valid name that is `name`: to the letter, by its canonical form, or alone without regard to case; or None."""
    if name in valid:
        return name
    asked, forms = canonical(name), [canonical(v) for v in valid]
    if asked in forms:
        return valid[forms.index(asked)]
    alike = [v for v, form in zip(valid, forms) if form.lower() == asked.lower()]
    return alike[0] if len(alike) == 1 else None


def match_name(what: str, name: str, valid: Iterable[str]) -> str:
    """The valid name that equals `name`, else without regard to case; ValueError with the valid names otherwise."""
    valid = list(valid)
    found = find_name(name, valid)
    if found is not None:
        return found
    by_lower = {v.lower(): v for v in valid}
    near = get_close_matches(name.lower(), by_lower, n=1)
    hint = f" (did you mean '{shown(by_lower[near[0]])}'?)" if near else ""
    raise ValueError(f"unknown {what} '{shown(name)}'{hint}; valid: {', '.join(map(shown, valid)) or 'none'}")


def resolve_styles(spec: StyleSpec, styles: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Strengths by the model's own style names; ValueError for unknown styles or two of one exclusive group."""
    strengths = {match_name("style", name, styles): value for name, value in parse_styles(spec).items()}
    taken: dict[str, str] = {}
    for name in (name for name, strength in strengths.items() if strength > 0):
        group = styles[name].get("group")
        if group and group in taken:
            raise ValueError(f"styles {taken[group]!r} and {name!r} exclude each other; give one of them")
        if group:
            taken[group] = name
    return strengths
