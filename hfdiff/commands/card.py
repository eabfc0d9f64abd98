"""`hfdiff card`."""

from hfdiff.commands.flags import CardFlags
from hfdiff.core.errors import BadInput
from hfdiff.core.files import write_folder
from hfdiff.publish.card import write_card
from hfdiff.publish.folder import collect, listing, new_folder
from hfdiff.publish.hub import repo_name
from hfdiff.publish.records import Facts
from hfdiff.publish.redaction import public_path


def main(flags: CardFlags) -> int:
    if flags.half and flags.output_dir is None:
        raise BadInput("half goes with output_dir: a card alone has no weights")
    facts = Facts.of(flags.model)
    out = None if flags.output_dir is None else new_folder(flags.output_dir, facts.home)
    name = None if flags.repo_id is None else repo_name(flags.repo_id)
    print(f"the card: {write_card(facts, name)}")
    if out is not None:
        name = name or public_path(str(out))
        write_folder(out, lambda folder: collect(facts, folder, name, flags.half))
        print("\n".join([*listing(out), f"the whole: {out}"]))
    return 0
