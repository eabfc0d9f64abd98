"""The `hfdiff` command; a command's module is imported when it runs, since the libraries take seconds to load."""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from hfdiff.errors import run_program, unknown

# Before torch: threads that spin while they wait stall each other on a machine that is shared (5 times here).
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

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
    run_program(lambda: _run(words))


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print("usage: hfdiff COMMAND ...   (hfdiff COMMAND --help tells more)\n")
        print("\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items()))
        return 0
    name, *flags = words
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    from hfdiff.config import command_line, parse
    from hfdiff.training import TrainConfig

    command: Any = getattr(importlib.import_module(f"hfdiff.commands.{name}"), name.capitalize())
    read = parse if issubclass(command, TrainConfig) else command_line
    return read(command, flags, COMMANDS[name], prog=f"hfdiff {name}").main()


if __name__ == "__main__":
    main()
