"""`hfdiff push`."""

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from hfdiff.publish.hub import push
from hfdiff.publish.records import Facts


@dataclass(frozen=True, kw_only=True)
class Push:
    model: Annotated[str, tyro.conf.Positional]
    """A run's folder, or a pipeline's."""
    repo_id: str | None = None
    """OWNER/NAME; by default your own, and the folder's name."""
    private: bool = True
    """--no_private: everyone sees a new repository; one that is there stays as it is."""
    space: bool = False
    """Send a page to play with it as well, a Space of the same name."""
    half: bool = False
    """Publish the UNet's weights in half precision: half the size; they load as float32."""
    dry_run: bool = False
    """List the files, and send nothing."""
    yes: bool = False
    """Do not ask. Where there is no terminal, nothing is asked."""

    def main(self) -> int:
        facts = Facts.of(self.model)
        push(
            facts,
            self.repo_id,
            private=self.private,
            half=self.half,
            space=self.space,
            dry_run=self.dry_run,
            confirm=lambda: self.yes or confirmed("send these files? [y/N] "),
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
