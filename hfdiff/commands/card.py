"""`hfdiff card`."""

import contextlib

from hfdiff.commands.flags import CardFlags
from hfdiff.core.errors import BadInput
from hfdiff.core.files import write_folder
from hfdiff.core.locks import write_lock
from hfdiff.publish.card import card_lock, write_card
from hfdiff.publish.folder import listing, new_folder, write_model_folder
from hfdiff.publish.hub import repo_name
from hfdiff.publish.records import ModelRecords
from hfdiff.publish.redaction import public_path


def main(flags: CardFlags) -> int:
    if flags.half and flags.output_dir is None:
        raise BadInput("half goes with output_dir: a card alone has no weights")
    records = ModelRecords.of(flags.model)
    out = None if flags.output_dir is None else new_folder(flags.output_dir, records.home)
    name = None if flags.repo_id is None else repo_name(flags.repo_id)
    with card_lock(records), write_lock(out) if out else contextlib.nullcontext():
        print(f"the card: {write_card(records, name)}")
        if out is not None:
            name = name or public_path(str(out))
            write_folder(out, lambda folder: write_model_folder(records, folder, name, flags.half))
            print("\n".join([*listing(out), f"the whole: {out}"]))
    return 0
