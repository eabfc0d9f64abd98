"""A Space: the page, and a program that shows a model on it."""

import json
from pathlib import Path

from huggingface_hub import SpaceCardData

from hfdiff.publish.card import NEEDS
from hfdiff.publish.records import ModelRecords, read_card
from hfdiff.publish.redaction import check_secrets

GRADIO = "6.31.0"  # that the page was tried with
MEASURED = "measured.json"
APP = f"""import json
from pathlib import Path

from diffusers import DiffusionPipeline

from page import serve

MODEL = "{{name}}"
MEASURED = json.loads(Path(__file__).with_name("{MEASURED}").read_text(encoding="utf-8"))
serve(DiffusionPipeline.from_pretrained(MODEL, trust_remote_code=True), MODEL, measured=MEASURED)
"""
PAGE = Path(__file__).parent / "page.py"


def write_space_folder(records: ModelRecords, folder: Path, name: str) -> None:
    """Write a Space into an empty folder: the page, the five numbers of the model's report, and a program that shows
    the model `name` on it."""
    (folder / "page.py").write_bytes(PAGE.read_bytes())
    first_screen = json.dumps(records.first_screen, indent=2, ensure_ascii=False) + "\n"
    (folder / MEASURED).write_text(first_screen, encoding="utf-8")
    (folder / "app.py").write_text(APP.format(name=name), encoding="utf-8")
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in NEEDS), encoding="utf-8")
    data = SpaceCardData(
        title=name.rpartition("/")[2],
        sdk="gradio",
        sdk_version=GRADIO,
        app_file="app.py",
        python_version="3.11",  # the least that diffusers takes
        license=read_card(records.readme).data.license,
        models=[name],
    )
    text = f"---\n{data.to_yaml()}\n---\n\nDraw with [{name}](https://huggingface.co/{name}) by class and by style.\n"
    (folder / "README.md").write_text(text, encoding="utf-8")
    check_secrets(folder, records.home)
