"""The `hfdiff` command, and the programs of train_scripts/: the table of commands.

A command's module is imported when it runs, since the libraries take seconds to load.
"""

import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import hfdiff.core.threads  # noqa: F401  (before torch)
from hfdiff.core.errors import BadInput, Printable, run_program
from hfdiff.core.names import unknown


class Command(NamedTuple):
    """What a command takes, a class of hfdiff/commands/flags.py, and a line of help; a module of its name does it."""

    flags: str
    about: str


COMMANDS = {
    "train": Command(
        "TrainConfig",
        "Train a model; --config FILE gives defaults, other flags override them; run it again to resume.",
    ),
    "plan": Command(
        "TrainConfig", "Say what training with these flags, or with --config FILE, costs here; writes nothing."
    ),
    "study": Command("StudyFlags", "Train variants at an equal budget, judge them alike, and recommend one."),
    "sample": Command("SampleFlags", "Draw images from a trained model."),
    "select": Command("SelectFlags", "Draw candidates of each class and keep the best by CLIP, beside real images."),
    "evaluate": Command(
        "EvaluateFlags",
        "Measure how good a model is, or images are, beside real ones, by a judge that never chose any.",
    ),
    "show": Command("ShowFlags", "Explain a model in figures: noise, its reverse, when a judge sees the class."),
    "ema": Command("EmaFlags", "Save a run's pipeline with EMA weights of another length, after training."),
    "card": Command("CardFlags", "Write a model's card, README.md, from the files of its run."),
    "push": Command("PushFlags", "Publish a model on the Hub: list its files, send them, load it back, compare."),
    "demo": Command("DemoFlags", "Serve a page on this machine to play with a model."),
    "train-judge": Command("JudgeConfig", "Train the judge of a dataset: a small classifier of classes and styles."),
    "train-clip": Command("ClipConfig", "Train the small CLIP of a dataset: it scores images by prompts."),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console command."""
    words = sys.argv[1:] if argv is None else list(argv)
    run_program(lambda: _run(words))


def _run(words: list[str]) -> int:
    if words[:1] == ["--version"]:
        print(version("hfdiff"))
        return 0
    if not words or words[0] in ("-h", "--help"):
        print("usage: hfdiff COMMAND ...   (hfdiff COMMAND --help tells more)\n")
        print("\n".join(f"  {name:<12} {command.about}" for name, command in COMMANDS.items()))
        return 0
    name, *flags = words
    if name not in COMMANDS:
        raise unknown("command", name, COMMANDS)
    return run_command(name, flags)


def run_command(name: str, argv: Sequence[str], prog: str = "") -> int:
    """Read a command's flags and do it; the exit code."""
    from hfdiff.commands import flags
    from hfdiff.core.config import parse

    signal.signal(signal.SIGTERM, leave)
    check_endpoint()
    kind: Any = getattr(flags, COMMANDS[name].flags)
    given = parse(kind, argv, COMMANDS[name].about, prog=prog or f"hfdiff {name}")
    with contextlib.redirect_stdout(Printable(sys.stdout)):
        code: int = importlib.import_module(f"hfdiff.commands.{name.replace('-', '_')}").main(given)
    return code


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
