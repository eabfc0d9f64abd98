"""What must not leave the machine."""

import os
import re
import shlex
from pathlib import Path
from typing import Any

from huggingface_hub import get_token

from hfdiff.core.errors import BadInput


def public(value: Any, key: str = "") -> Any:
    """A record's values without what they say of the machine."""
    if isinstance(value, dict):
        return {key: public(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [public(item) for item in value]
    if isinstance(value, str):
        return public_command(value) if key == "command" else public_path(value)
    return value


def public_command(command: str) -> str:
    """A command without what it says of a machine: of a path from outside, only the last part stays."""
    words = []
    for word in shlex.split(command):
        flag, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
        words.append(flag + equals + public_path(value))
    return shlex.join(words)


def public_path(text: str) -> str:
    """The last part of a path from outside the current folder; any other text as it is."""
    outside = text.startswith(("/", "~", "file:")) or ".." in Path(text).parts
    return Path(text).name if outside else text


TOKEN = re.compile(r"hf_[A-Za-z0-9]{16,}")


def check_secrets(folder: Path, home: Path) -> None:
    """BadInput where a text holds a token of the Hub's, or a path: of the user's home, of here, or of the model's."""
    deep = (place for place in (Path.cwd(), home.resolve()) if len(place.parts) > 2)  # /data/ is part of addresses too
    places = (Path(os.environ.get("HOME") or "/"), *deep)
    known = {f"{place}/": "a path of this machine" for place in places if place != Path("/")}
    known |= {token: "your token of the Hub"} if (token := get_token()) else {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        if file.suffix not in (".safetensors", ".png", ".webp"):
            text = file.read_text(encoding="utf-8", errors="replace")
            found = [what for secret, what in known.items() if secret in text]
            found += ["a token of the Hub"] if TOKEN.search(text) else []
            if found:
                raise BadInput(f"{file.relative_to(folder)} holds {found[0]}; take it out first")


def on_screen(name: str) -> str:
    """An untrusted name, with nothing that moves the cursor or that a screen cannot show."""
    return name if name.isascii() and name.isprintable() else ascii(name)
