"""Files and folders that appear complete or not at all: written under another name, synced to disk, then renamed."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors import SafetensorError

from hfdiff.core.errors import BadInput

UMASK = os.umask(0o077)  # can only be read by setting it
os.umask(UMASK)


def write_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a folder that appears at `target` complete or not at all; an older one there is replaced."""
    fresh, old = stations(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    recover_folder(target)
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir()
        fill(fresh)
        _sync(fresh)
    except BaseException as error:
        shutil.rmtree(fresh, ignore_errors=True)
        if isinstance(error, SafetensorError):  # a full disk, in that library's words
            raise OSError(f"{target} cannot be written: {error}") from error
        raise
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    _sync_entry(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def stations(target: Path) -> tuple[Path, Path]:
    """Where `write_folder` has what is new before it is there, and what is old before it is gone."""
    return target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")


def recover_folder(target: Path) -> None:
    """Put back the older folder, where a crash came between the two renames of `write_folder`."""
    old = stations(target)[1]
    if old.exists() and not target.exists():
        old.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def write_file(target: Path, content: bytes) -> None:
    """Write a small file so that it appears complete or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.new")
    try:
        with fresh.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(target)
        _sync_entry(target.parent)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


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


def folder_to_write(path: str, flag: str = "output_dir") -> Path:
    """The folder that a flag names; BadInput where it cannot be one, or nothing can be written in it."""
    if not path.strip() or "\0" in path:
        raise BadInput(f"{flag} is {path!r}; valid: a folder")
    folder = Path(path).expanduser()
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
    file = Path(path).expanduser()
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
