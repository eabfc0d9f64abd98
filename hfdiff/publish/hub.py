"""A model's way to the Hub: listed, sent in one commit, loaded back and compared."""

import glob
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, ModelCard, get_token, snapshot_download
from huggingface_hub.constants import ENDPOINT
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import filter_repo_objects, get_session, validate_repo_id

from hfdiff.core.errors import BadInput, first_line
from hfdiff.core.files import write_folder
from hfdiff.models.loading import without_bars
from hfdiff.publish.card import write_card
from hfdiff.publish.folder import listing, write_model_folder
from hfdiff.publish.proof import check_files, load_back
from hfdiff.publish.records import IMAGES, NOTES, RECORDS, ModelRecords
from hfdiff.publish.redaction import on_screen
from hfdiff.publish.space import write_space_folder

TIMEOUT_SECONDS = 120.0  # seconds without a word from the Hub, in which its client would wait for ever
# What an earlier push of a model may have sent; taken back where this one does not send it.
OWNED_PATTERNS = (f"{IMAGES}/*", NOTES, *RECORDS, "config.yaml", "metrics.jsonl", "clip_*/*", "guide_unet/*")
AGAIN = "nothing on this machine is lost, and the same command tries again"


class HubError(OSError):
    """The Hub did not do what was asked: one line, exit code 1; nothing on this machine is lost."""


def repo_name(repo_id: str | None, default: str = "") -> str:
    """OWNER/NAME or NAME; BadInput where it cannot be one."""
    name = repo_id if repo_id is not None else re.sub(r"[^\w.-]+", "-", default, flags=re.ASCII).strip("-.")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise BadInput(f"repo_id {name!r}: {first_line(error)}; give --repo_id OWNER/NAME") from error
    return name


def check_token() -> None:
    token = get_token()
    if not token:
        raise BadInput("no token of the Hub on this machine; give one by `hf auth login`, or in HF_TOKEN")
    if not token.isascii():
        raise BadInput("the token of the Hub holds letters that none has; give a valid one by `hf auth login`")


def with_owner(name: str) -> str:
    """OWNER/NAME, the owner by default the token's own."""
    check_token()
    if "/" in name:
        return name
    with one_line_errors(name):
        return f"{HfApi().whoami()['name']}/{name}"


@contextmanager
def one_line_errors(repo_id: str) -> Iterator[None]:
    """While entered, what the Hub's client raises becomes one line."""
    try:
        yield
    except BadInput:
        raise
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        reason = f"{status}: {first_line(error)[:200]}"
        if status == 401:
            raise BadInput("the Hub does not take this token (401); give a valid one by `hf auth login`") from error
        if status == 403:
            raise BadInput(
                f"this token may not write to {repo_id} ({first_line(error)[:200]}); "
                "valid: one that may, and a repository of your own"
            ) from error
        if 400 <= status < 500 and status not in (408, 409, 412, 429):
            raise BadInput(f"the Hub does not take this ({reason})") from error
        raise HubError(f"the Hub failed ({reason}); {AGAIN}") from error
    except json.JSONDecodeError as error:
        raise HubError(f"what answers at {ENDPOINT} is no Hub (HF_ENDPOINT says where it is); {AGAIN}") from error
    except ValueError as error:  # the Hub's word on a card
        raise BadInput(f"the Hub does not take this: {' '.join(str(error).split())[:300]}") from error
    except Exception as error:  # the client's HTTP library has kinds of its own for a Hub that is not there
        raise HubError(f"the Hub cannot be reached ({first_line(error)[:200]}); {AGAIN}") from error


def push(
    records: ModelRecords,
    repo_id: str | None = None,
    *,
    private: bool = True,
    half: bool = False,
    space: bool = False,
    dry_run: bool = False,
    confirm: Callable[[], bool] = lambda: True,
    log: Callable[[str], None] = print,
) -> str | None:
    """Publish a model: its address, or None where nothing was sent. `confirm` is asked when all is listed."""
    name = repo_name(repo_id, records.name)
    get_session().timeout = TIMEOUT_SECONDS
    if not dry_run:
        name = with_owner(name)
    if not records.readme.is_file():
        log(f"the card: {write_card(records)}")
    parcels: dict[str, Callable[[Path], None]] = {"model": lambda path: write_model_folder(records, path, name, half)}
    if space:
        parcels["space"] = lambda path: write_space_folder(records, path, name)
    with tempfile.TemporaryDirectory(prefix="hfdiff-push-") as place:
        folders = {kind: Path(place) / kind for kind in parcels}
        repos: dict[str, RemoteRepo] = {}
        for kind, folder in folders.items():
            write_folder(folder, parcels[kind])
            if not dry_run:
                with one_line_errors(name):
                    repos[kind] = find_repo(name, kind, private, log)
        old = stale_files(folders["model"], repos["model"].files) if repos else []
        for kind, folder in folders.items():
            deleted = (f"{'deleted':>12}  {on_screen(file)}" for file in old if kind == "model")
            log("\n".join([f"the {kind}:", *listing(folder), *deleted]))
        if dry_run or not confirm():
            log("nothing was sent")
            return None
        with one_line_errors(name):
            sent = send(folders["model"], name, repos["model"], old=old)
        prove(folders["model"], sent)
        log(f"{sent.address}: commit {sent.commit[:12]} holds what was sent, byte for byte")
        log("loaded back in a process of its own, without a token, and its images are the same")
        if space:
            with one_line_errors(name):
                shown = send(folders["space"], name, repos["space"], "space", space_sdk="gradio")
            prove(folders["space"], shown)
            log(f"the Space: {shown.address}")
            if repos["model"].private:
                log("the Space reads a private model: give it a token in its settings, as the secret HF_TOKEN")
    return sent.address


@dataclass(frozen=True)
class Sent:
    """The commit that a push has made."""

    name: str
    kind: str
    address: str
    commit: str


@dataclass(frozen=True)
class RemoteRepo:
    """A repository as a push finds it, or would make it."""

    private: bool
    files: frozenset[str] = frozenset()
    commit: str | None = None


def find_repo(name: str, kind: str, private: bool, log: Callable[[str], None]) -> RemoteRepo:
    """BadInput for a public one where a private one is meant; one that is private stays so, and that is said."""
    try:
        info = HfApi().repo_info(name, repo_type=kind, timeout=TIMEOUT_SECONDS)
    except RepositoryNotFoundError:
        return RemoteRepo(private)
    if private and not info.private:
        raise BadInput(f"the {kind} {name} is there and public; if it is yours, give --no_private")
    if info.private and not private:
        log(f"the {kind} {name} is there and private, and stays so; its settings on the Hub change that")
    return RemoteRepo(bool(info.private), frozenset(file.rfilename for file in info.siblings or ()), info.sha)


def stale_files(folder: Path, files: Iterable[str]) -> list[str]:
    """What an earlier push of a model has sent, and this one does not."""
    sent = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    gone = (file for file in files if file not in sent)
    return sorted(filter_repo_objects(gone, allow_patterns=list(OWNED_PATTERNS)))


def send(
    folder: Path,
    name: str,
    found: RemoteRepo,
    kind: str = "model",
    *,
    space_sdk: str | None = None,
    old: Sequence[str] = (),
) -> Sent:
    """One commit with all that is new, and without what is old, on what was found."""
    api = HfApi()
    ModelCard.load(folder / "README.md").validate(kind)
    address = str(api.create_repo(name, repo_type=kind, private=found.private, exist_ok=True, space_sdk=space_sdk))
    if found.private and not api.repo_info(name, repo_type=kind, timeout=TIMEOUT_SECONDS).private:
        raise BadInput(f"the {kind} {name} has just become public; if it is yours, give --no_private")
    with without_bars():
        done = api.upload_folder(
            repo_id=name,
            repo_type=kind,
            folder_path=folder,
            delete_patterns=[glob.escape(file) for file in old],
            parent_commit=found.commit,
            commit_message="Model, card and records by hfdiff" if kind == "model" else "A page by hfdiff",
        )
    return Sent(name, kind, address, done.oid)


def download(folder: Path, sent: Sent, place: Path) -> Path:
    """What the Hub has of a commit: all that was sent, and all else that lies in a folder of it."""
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    folders = {name.partition("/")[0] for name in names if "/" in name}
    with one_line_errors(sent.name), without_bars():
        snapshot_download(
            sent.name,
            repo_type=sent.kind,
            revision=sent.commit,
            local_dir=place / "repository",
            cache_dir=place / "cache",  # an empty one: nothing of before may stand in
            allow_patterns=[*map(glob.escape, names), *(f"{glob.escape(name)}/*" for name in folders)],
        )
    return place / "repository"


def prove(folder: Path, sent: Sent) -> None:
    """Download the commit that was made, compare every file, load a model back; HubError for any difference.

    Only code that is ours, byte for byte, runs: whoever else may write to the repository can change anything in it.
    """
    with tempfile.TemporaryDirectory(prefix="hfdiff-proof-") as place:
        try:
            there = download(folder, sent, Path(place))
            check_files(folder, there)
            if sent.kind == "model":
                load_back(folder, there)
        except (ValueError, HubError) as error:
            raise HubError(
                f"{sent.name} was sent, and does not load back as it is here: {first_line(error)[:300]}; {AGAIN}"
            ) from error
    with one_line_errors(sent.name):
        main = HfApi().repo_info(sent.name, repo_type=sent.kind, timeout=TIMEOUT_SECONDS).sha
    if main != sent.commit:
        raise HubError(
            f"{sent.address}: commit {sent.commit} holds what was sent, but is not the last any more: somebody "
            f"has made {main} since; look at what it changes"
        )
