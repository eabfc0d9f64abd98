"""The `hfdiff` command; a command's module is imported when it runs, since the libraries take seconds to load."""

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import hfdiff.core.threads  # noqa: F401  (before torch)
from hfdiff.core.errors import BadInput, run_program
from hfdiff.core.names import unknown

# Name -> what it does; hfdiff/commands/NAME.py holds the dataclass Name with main().
COMMANDS = {
    "plan": "Say what training with these flags, or with --config FILE, costs on this machine; writes nothing.",
    "sample": "Draw pictures from a trained model.",
    "select": "Draw candidates of each class and keep the best by CLIP, beside what its scores say of real pictures.",
    "evaluate": "Measure how good a model is: against real pictures, and by a judge that never chose any of them.",
    "show": "Explain a model in pictures, with a text for each: noise, its reverse, when a judge sees the class.",
    "card": "Write a model's card, README.md, from the files of its run; --output_dir writes all that push would send.",
    "push": "Publish a model on the Hub: list every file, send them in one commit, load it back and compare pictures.",
    "demo": "Serve a page on this machine to play with a model: classes, styles, watching it draw, scores, downloads.",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console command."""
    words = sys.argv[1:] if argv is None else list(argv)
    signal.signal(signal.SIGTERM, leave)
    run_program(lambda: _run(words))


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print("usage: hfdiff COMMAND ...   (hfdiff COMMAND --help tells more)\n")
        print("\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items()))
        return 0
    check_endpoint()
    name, *flags = words
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    from hfdiff.core.config import command_line, parse
    from hfdiff.training.config import TrainConfig

    command: Any = getattr(importlib.import_module(f"hfdiff.commands.{name}"), name.capitalize())
    read = parse if issubclass(command, TrainConfig) else command_line
    return read(command, flags, COMMANDS[name], prog=f"hfdiff {name}").main()


def check_endpoint() -> None:
    """BadInput for an address of the Hub that its client would end on, while it is imported."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        parts = urlsplit(endpoint)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise BadInput(f"HF_ENDPOINT is {endpoint!r}; valid: an address such as https://huggingface.co")


def leave(number: int, frame: Any) -> None:
    """End on a signal as on ctrl-C: what was begun in temporary folders is cleared away."""
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
