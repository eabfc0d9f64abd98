"""`hfdiff card`."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from hfdiff.core.errors import BadInput
from hfdiff.core.files import write_folder
from hfdiff.publish.card import write_card
from hfdiff.publish.folder import collect, listing, new_folder
from hfdiff.publish.hub import repo_name
from hfdiff.publish.records import Facts
from hfdiff.publish.redaction import public_path


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
