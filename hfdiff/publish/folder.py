"""A model's folder as others get it."""

import json
import os
import re
from pathlib import Path

import yaml

from hfdiff.core.config import to_mapping
from hfdiff.core.errors import BadInput
from hfdiff.core.files import folder_to_write, to_json
from hfdiff.models.loading import load_pipeline, without_bars
from hfdiff.publish.records import IMAGES, NOTES, RECORDS, ModelRecords, check_image, read_card
from hfdiff.publish.redaction import check_secrets
from hfdiff.publish.sections import code

CARD_FIELDS = ("license", "library_name", "pipeline_tag")
LOADED_BY = re.compile(r'DiffusionPipeline\.from_pretrained\(("(?:\\.|[^"\\])*")')


def write_model_folder(records: ModelRecords, folder: Path, name: str | None = None, half: bool = False) -> None:
    """Write what others get into a folder that is empty: the pipeline at its root, card, figures, records.

    The card is the model's README.md, which must be there; it says how to load `name`, where that is given. `half`
    saves the weights in half precision; they load as float32. Of the model's own folder, nothing else leaves.
    """
    pipeline = load_pipeline(records.model)
    for unet in filter(None, (pipeline.unet, pipeline.guide_unet)) if half else ():
        if not all(weight.half().isfinite().all() for weight in unet.parameters()):
            raise BadInput(
                f"half precision cannot hold the weights of {records.model}: some are above 65,504; leave half out"
            )
        unet.half()
    with without_bars():
        pipeline.save_pretrained(folder)
    text = card_text(records)
    if name:
        text = loaded_by(text, name)
    (folder / "README.md").write_text(text, encoding="utf-8")
    (folder / IMAGES).mkdir()
    for image in re.findall(rf"\]\({IMAGES}/([\w.-]+)\)", text):
        file = records.home / IMAGES / image
        if not file.is_file():
            raise BadInput(f"the card {records.readme} shows {file}, which is not there; hfdiff card makes it")
        check_image(file, "hfdiff card makes it")
        (folder / IMAGES / image).write_bytes(file.read_bytes())
    if records.notes:
        (folder / NOTES).write_text(f"{records.notes}\n", encoding="utf-8")
    if records.config:
        config = yaml.safe_dump(to_mapping(records.config), sort_keys=False)
        (folder / "config.yaml").write_text(config, encoding="utf-8")
    if points := records.curves:
        (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(point)}\n" for point in points), encoding="utf-8")
    for record, known in records.by_name.items():
        if known is not None:
            (folder / record).write_text(to_json(known), encoding="utf-8")
    check_secrets(folder, records.home)


def loaded_by(card: str, name: str) -> str:
    """The card, loading `name` wherever it loads the pipeline that its first piece of code does; others stay."""
    if not (first := LOADED_BY.search(card)):
        return card
    for call in ("DiffusionPipeline.from_pretrained(", "load_pipeline("):
        card = card.replace(call + first[1], call + code(name))
    return card


def card_text(records: ModelRecords) -> str:
    """The card; BadInput names what it lacks."""
    data = read_card(records.readme).data
    lacking = [field for field in CARD_FIELDS if not data.get(field)]
    if lacking:
        raise BadInput(
            f"{records.readme} lacks {', '.join(lacking)} at its head; add them there (a license also in config.yaml, "
            "where there is one)"
        )
    if not records.has_current_card:
        raise BadInput(
            f"{records.readme} is of other weights or numbers than this model's ({', '.join(RECORDS)}, config.yaml); "
            "hfdiff card writes it again"
        )
    return records.readme.read_text(encoding="utf-8")


def listing(folder: Path) -> list[str]:
    """Every file with its size, and the sum."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = [path.stat().st_size for path in files]
    lines = [f"{size:>12,}  {path.relative_to(folder)}" for path, size in zip(files, sizes)]
    return [*lines, f"{sum(sizes):>12,}  bytes in {len(files)} files"]


def new_folder(path: str, home: Path) -> Path:
    """A folder that is not there yet, or empty, and none of the model's: nothing that is there is ever replaced."""
    out = folder_to_write(path)
    if Path(os.path.normpath(out)).name in ("", ".."):
        raise BadInput(f"output_dir {path} has no name of its own; give a new folder")
    if out.resolve().is_relative_to(home.resolve()):
        raise BadInput(f"output_dir {path} lies in the model's own folder; give another")
    try:
        taken = out.is_symlink() or (out.exists() and any(out.iterdir()))
    except OSError as error:
        raise BadInput(f"output_dir {path[:60]!r} cannot be written: {error.strerror}; give another folder") from error
    if taken:
        raise BadInput(f"output_dir {path} already exists; give a new folder")
    return out
