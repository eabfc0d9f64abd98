"""`hfdiff card`."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hfdiff.card import Facts, public_path, write_card
from hfdiff.core.errors import BadInput
from hfdiff.core.files import folder_to_write, stations, write_folder
from hfdiff.hub import collect, listing, repo_name


@dataclass(frozen=True, kw_only=True)
class Card:
    model: Annotated[str, tyro.conf.Positional]
    """A run's folder, or a pipeline's."""
    repo_id: str | None = None
    """OWNER/NAME on the Hub, for the code that loads it; by default this folder."""
    output_dir: str | None = None
    """A new folder for the whole: pipeline, card, pictures and records, as they would be on the Hub."""
    half: bool = False
    """There, save the weights in half precision: half the size; they load as float32."""

    def main(self) -> int:
        if self.half and self.output_dir is None:
            raise BadInput("half goes with output_dir: a card alone has no weights")
        facts = Facts.of(self.model)
        out = None if self.output_dir is None else new_folder(self.output_dir, facts.home)
        name = None if self.repo_id is None else repo_name(self.repo_id)
        print(f"the card: {write_card(facts, name)}")
        if out is not None:
            name = name or public_path(str(out))
            write_folder(out, lambda folder: collect(facts, folder, name, self.half))
            print("\n".join([*listing(out), f"the whole: {out}"]))
        return 0


def new_folder(path: str, home: Path) -> Path:
    """A folder that is not there yet, or empty, and none of the model's: nothing that is there is ever replaced."""
    out = folder_to_write(path)
    if Path(os.path.normpath(out)).name in ("", ".."):
        raise BadInput(f"output_dir {path} has no name of its own; give a new folder")
    if out.resolve().is_relative_to(home.resolve()):
        raise BadInput(f"output_dir {path} lies in the model's own folder; give another")
    try:
        beside = [place for place in stations(out) if place.exists()]
        taken = out.is_symlink() or (out.exists() and any(out.iterdir()))
    except OSError as error:
        raise BadInput(f"output_dir {path[:60]!r} cannot be written: {error.strerror}; give another folder") from error
    if taken:
        raise BadInput(f"output_dir {path} is there already; give a new folder")
    if beside:
        raise BadInput(f"{beside[0]} is there, a name that output_dir {path} needs; give another, or take it away")
    return out
