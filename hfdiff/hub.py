"""A model's folder as others get it, and its way to the Hub: listed, sent in one commit, loaded back and compared."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import HfApi, ModelCard, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from hfdiff.card import PICTURES, Facts, public_command, public_path, write_card
from hfdiff.checkpoint import load_pipeline
from hfdiff.config import to_mapping
from hfdiff.errors import BadInput, first_line
from hfdiff.files import without_bars, write_folder

# Beside the pipeline and its card; of a folder, nothing else leaves the machine.
RECORDS = ("training.json", "metrics.json", "selection.json")
CARD_FIELDS = ("license", "library_name", "pipeline_tag")
LOADED_BY = re.compile(r'(from_pretrained|load_pipeline)\("[^"]*"')
TOKEN = re.compile(r"hf_[A-Za-z0-9]{16,}")
LOAD_BACK = Path(__file__).parent / "load_back.py"


class HubFailed(OSError):
    """The Hub did not do what was asked: one line, exit code 1; nothing on this machine is lost."""


def collect(facts: Facts, folder: Path, name: str | None = None, half: bool = False) -> None:
    """Write what others get into a folder that is empty: the pipeline at its root, card, pictures, records.

    The card is the model's README.md, which must be there; it says how to load `name`, where that is given. `half`
    saves the weights in half precision; they load as float32.
    """
    pipeline = load_pipeline(facts.model)
    if half:
        pipeline.unet.half()
    with without_bars():
        pipeline.save_pretrained(folder)
    text = card_text(facts.home)
    if name:
        text = LOADED_BY.sub(rf'\1("{name}"', text)
    (folder / "README.md").write_text(text, encoding="utf-8")
    (folder / PICTURES).mkdir()
    for picture in re.findall(rf"\]\({PICTURES}/([\w.-]+)\)", text):
        file = facts.home / PICTURES / picture
        if not file.is_file():
            raise BadInput(
                f"the card {facts.home / 'README.md'} shows {file}, which is not there; hfdiff card makes it"
            )
        (folder / PICTURES / picture).write_bytes(file.read_bytes())
    if facts.config:
        config = replace(facts.config, dataset=public_path(facts.config.dataset), output_dir=facts.home.name)
        config = replace(config, init_from=config.init_from and public_path(config.init_from))
        (folder / "config.yaml").write_text(yaml.safe_dump(to_mapping(config), sort_keys=False))
    for record in RECORDS:
        known = facts.read(record)
        if known is not None:
            (folder / record).write_text(json.dumps(public(known), indent=2, ensure_ascii=False) + "\n")
    check_secrets(folder)


def card_text(home: Path) -> str:
    """The card; BadInput names what it lacks."""
    readme = home / "README.md"
    try:
        card = ModelCard.load(readme)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BadInput(f"{readme} is no model card: {first_line(error)[:200]}; hfdiff card writes one") from error
    lacking = [field for field in CARD_FIELDS if not card.data.get(field)]
    if lacking:
        raise BadInput(f"{readme} lacks {', '.join(lacking)} at its head; add them, or let hfdiff card write it again")
    return readme.read_text(encoding="utf-8")


def public(value: Any, key: str = "") -> Any:
    """A record's values without what they say of the machine."""
    if isinstance(value, dict):
        return {key: public(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [public(item) for item in value]
    if isinstance(value, str):
        return public_command(value) if key == "command" else public_path(value)
    return value


def check_secrets(folder: Path) -> None:
    """BadInput where a text holds a token of the Hub's, or names the user's home."""
    home = f"{Path.home()}/"
    for file in sorted(folder.rglob("*")):
        if file.suffix in (".md", ".json", ".yaml", ".py", ".txt"):
            text = file.read_text(encoding="utf-8", errors="replace")
            found = "a token of the Hub" if TOKEN.search(text) or (get_token() or home) in text else None
            found = found or ("a path of this machine" if home in text else None)
            if found:
                raise BadInput(f"{file.relative_to(folder)} holds {found}; take it out first")


def listing(folder: Path) -> list[str]:
    """Every file with its size, and the sum."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = [path.stat().st_size for path in files]
    lines = [f"{size:>12,}  {path.relative_to(folder)}" for path, size in zip(files, sizes)]
    return [*lines, f"{sum(sizes):>12,}  bytes in {len(files)} files"]


def repo_name(repo_id: str | None, default: str) -> str:
    """OWNER/NAME, the owner by default the token's; BadInput where it cannot be one, or there is no token."""
    name = repo_id or re.sub(r"[^\w.-]+", "-", default)
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise BadInput(f"repo_id {name!r}: {first_line(error)}") from error
    if not get_token():
        raise BadInput("no token of the Hub on this machine; give one by `hf auth login`, or in HF_TOKEN")
    if "/" in name:
        return name
    with telling(name):
        return f"{HfApi().whoami()['name']}/{name}"


@contextmanager
def telling(repo_id: str) -> Iterator[None]:
    """While entered, what the Hub's client raises becomes one line."""
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        if status == 401:
            raise BadInput("the Hub does not take this token (401); give a valid one by `hf auth login`") from error
        if status == 403:
            raise BadInput(f"this token may not write to {repo_id} (403); valid: a repository of your own") from error
        raise HubFailed(f"the Hub failed ({status}: {first_line(error)[:200]}); {AGAIN}") from error
    except BadInput:
        raise
    except ValueError as error:  # the Hub's word on a card
        raise BadInput(f"the Hub does not take this: {first_line(error)[:300]}") from error
    except Exception as error:  # the client's HTTP library has kinds of its own for a Hub that is not there
        raise HubFailed(f"the Hub cannot be reached ({first_line(error)[:200]}); {AGAIN}") from error


AGAIN = "nothing on this machine is lost, and the same command tries again"


def push(
    facts: Facts,
    repo_id: str | None = None,
    *,
    private: bool = True,
    half: bool = False,
    dry_run: bool = False,
    may: Callable[[], bool] = lambda: True,
    say: Callable[[str], None] = print,
) -> str | None:
    """Publish a model: its address, or None where nothing was sent. `may` is asked when all is listed."""
    if not (facts.home / "README.md").is_file():
        say(f"the card: {write_card(facts)}")
    name = (repo_id or facts.home.name) if dry_run else repo_name(repo_id, facts.home.name)
    with tempfile.TemporaryDirectory(prefix="hfdiff-push-") as place:
        folder = Path(place) / "model"
        write_folder(folder, lambda path: collect(facts, path, name, half))
        say("\n".join(listing(folder)))
        if dry_run or not may():
            say("nothing was sent")
            return None
        with telling(name):
            address = send(folder, name, private, say)
        load_back(folder, name)
    say(f"{address}: loaded back in a process of its own, and its pictures are the same")
    return address


def send(folder: Path, name: str, private: bool, say: Callable[[str], None]) -> str:
    """One commit with all that is new; the repository's address."""
    api = HfApi()
    ModelCard.load(folder / "README.md").validate()
    address = str(api.create_repo(name, private=private, exist_ok=True))
    if private and not api.model_info(name).private:
        say(f"warning: {name} was there before and is public; hfdiff does not change that")
    with without_bars():
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Model, card and records by hfdiff")
    return address


def load_back(folder: Path, name: str) -> None:
    """Load what was sent, in a process of its own and with an empty cache; HubFailed where it draws otherwise."""
    with tempfile.TemporaryDirectory(prefix="hfdiff-cache-") as cache:
        environment = os.environ | {"HF_HOME": cache, "HF_TOKEN": get_token() or "", "CUDA_VISIBLE_DEVICES": ""}
        words = [sys.executable, "-I", str(LOAD_BACK), str(folder), name]
        done = subprocess.run(words, env=environment, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise HubFailed(f"{name} was sent, and does not load back as it is here: {reason[:300]}; {AGAIN}")
