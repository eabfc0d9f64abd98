"""Files and folders that appear complete or not at all: written under another name, synced to disk, then renamed."""

import contextlib
import errno
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from hfdiff.core.errors import BadInput, TrainingFailed

UMASK = os.umask(0o077)  # can only be read by setting it
os.umask(UMASK)


# Names beside what is written, until it is there: each writer has its own. A crash leaves them behind.
FRESH = ".hfdiff-"
MOVED = re.compile(r"\.(.+)\.old(?:-[0-9a-f]{8})?")


def write_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a folder that appears at `target` complete or not at all; an older one there is replaced.

    Of several who write at once, each succeeds, and what is there is one of theirs, whole.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=FRESH, dir=target.parent))
    try:
        fill(fresh)
        fresh.chmod(0o777 & ~UMASK)
        _sync(fresh)
        old = _replace_folder(fresh, target)
    except BaseException as error:
        shutil.rmtree(fresh, ignore_errors=True)
        if isinstance(error, SafetensorError):  # a full disk, in that library's words
            raise OSError(f"{target} cannot be written: {error}") from error
        raise
    _sync_entry(target.parent)
    for folder in old:
        shutil.rmtree(folder, ignore_errors=True)


def _replace_folder(fresh: Path, target: Path) -> list[Path]:
    """Rename fresh -> target; where what was there is now. No system renames onto a folder that is not empty."""
    old: list[Path] = []
    while True:
        with contextlib.suppress(FileNotFoundError):  # nothing there, or another writer took it
            aside = target.with_name(f".{target.name}.old-{secrets.token_hex(4)}")
            target.rename(aside)
            old.append(aside)
        try:
            fresh.rename(target)
            return old
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def moved_aside(target: Path) -> list[Path]:
    """What a crash between the two renames of `write_folder` left of the older folder; the newest first."""
    beside = target.parent.glob(f".{glob.escape(target.name)}.old*")
    found = [path for path in beside if (match := MOVED.fullmatch(path.name)) and match[1] == target.name]
    return sorted((path for path in found if path.is_dir()), key=lambda path: path.stat().st_mtime, reverse=True)


def recover_folder(target: Path) -> None:
    """Put back the older folder, where a crash took it from `target`; for who holds the lock of the place."""
    for old in moved_aside(target):
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(target)


def clear_unfinished(folder: Path) -> None:
    """Delete what crashes left half written in a folder; for who holds its lock."""
    for path in folder.glob(f"{FRESH}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_file(target: Path, content: bytes) -> None:
    """Write a small file so that it appears complete or not at all, whoever else writes it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=FRESH, dir=target.parent)
    fresh = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.chmod(0o666 & ~UMASK)
        fresh.replace(target)
        _sync_entry(target.parent)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def write_json(target: Path, record: Mapping[str, Any]) -> None:
    """Write a record, as JSON that every reader takes: without NaN and infinity."""
    try:
        write_file(target, to_json(record).encode())
    except ValueError as error:
        raise TrainingFailed(f"{target} is not written: {error}") from error


def to_json(record: Mapping[str, Any]) -> str:
    """A record as indented JSON with a line's end; ValueError for a number that is not finite."""
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode(errors="backslashreplace").decode()  # bytes of a file's name that are no text


def sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~UMASK)  # safetensors come out readable by their owner alone
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        else:
            _sync_entry(path)
    _sync_entry(folder)


def _sync_entry(folder: Path) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders, and keeps their entries itself
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_inside(path: Path, places: Sequence[Path]) -> bool:
    """Does a path lie in one of the places, all links followed?"""
    try:
        return any(path.resolve().is_relative_to(place.resolve()) for place in places)
    except (OSError, RuntimeError):  # a link to itself
        return False


def link_out(folder: Path) -> Path | None:
    """A link in the folder that leads out of it, where there is one."""
    links = (path for path in sorted(folder.rglob("*")) if path.is_symlink())
    return next((link for link in links if not is_inside(link, (folder,))), None)


def slug(text: str) -> str:
    """What can be part of a file's name: "T-shirt/top" -> "t-shirt-top"; at most 60 characters."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")[:60]


def at_home(path: str | Path) -> Path:
    """The path that a person gave, ~ as the home that it names; BadInput where it names nobody's."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise BadInput(f"{str(path)[:100]!r} begins with the home of nobody here; valid: ~/ and a path") from error


def folder_to_write(path: str, flag: str = "output_dir") -> Path:
    """The folder that a flag names; BadInput where it cannot be one, or nothing can be written in it."""
    if not path.strip() or "\0" in path:
        raise BadInput(f"{flag} is {path!r}; valid: a folder")
    folder = at_home(path)
    try:
        place = next(place for place in (folder, *folder.parents) if place.exists() or place.is_symlink())
        if not place.is_dir():
            raise BadInput(f"{flag} {path}: {place} is no folder; give another")
        with tempfile.TemporaryFile(dir=place):  # a file without a name: permissions alone do not tell of /proc
            pass
    except OSError as error:
        raise BadInput(f"{flag} {path[:60]!r} cannot be written: {error.strerror}; give another folder") from error
    return folder


def file_to_write(path: str, flag: str) -> Path:
    """The file that a flag names; BadInput where it cannot be one, or is there and no plain file (/dev/null)."""
    file = at_home(path)
    if not path.strip() or "\0" in path or path.endswith("/") or file.is_dir():
        raise BadInput(f"{flag} is {path!r}; valid: a file, metrics.json for example")
    folder_to_write(str(file.parent), flag)
    try:
        if file.exists() and not file.is_file():
            raise BadInput(f"{flag} {path} is no plain file; give another")
    except OSError as error:
        raise BadInput(f"{flag} {path[:60]!r} cannot be written: {error.strerror}; give another file") from error
    return file


def is_json(file: Path) -> bool:
    """Is it a file of JSON, and a whole one?"""
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def existing_folder(path: str) -> Path | None:
    """The folder of that name (~ is the user's own), or None; what no file system takes as a name is no folder."""
    try:
        folder = Path(path).expanduser()
        return folder if path.strip() and folder.is_dir() else None
    except (OSError, ValueError, RuntimeError):
        return None
