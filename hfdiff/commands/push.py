"""`hfdiff push`."""

import sys

from hfdiff.commands.flags import PushFlags
from hfdiff.publish.card import card_lock
from hfdiff.publish.hub import push
from hfdiff.publish.records import ModelRecords


def main(flags: PushFlags) -> int:
    records = ModelRecords.of(flags.model)
    with card_lock(records):
        push(
            records,
            flags.repo_id,
            private=flags.private,
            half=flags.half,
            space=flags.space,
            dry_run=flags.dry_run,
            confirm=lambda: flags.yes or confirmed("send these files? [y/N] "),
        )
    return 0


def confirmed(question: str) -> bool:
    """What the user says; yes where there is no terminal to ask at."""
    try:
        if sys.stdin is None or not sys.stdin.isatty():
            return True
        print(question, end="", file=sys.stderr, flush=True)  # the list may go to a file
        return input().strip().lower() in ("y", "yes")
    except EOFError:
        return False
