"""One lock for whatever is written: the second who would write there learns who is at work."""

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from hfdiff.core.errors import BadInput
from hfdiff.core.files import at_home

# What file systems answer that have no locks: some network ones, and those of containers.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextlib.contextmanager
def write_lock(target: Path, flag: str = "output_dir", wait: bool = False) -> Iterator[None]:
    """While entered, a file or folder belongs to this process; BadInput says who is at work there, `wait` waits.

    The lock is a file beside it, `.NAME.lock`, that holds process and host; it is gone afterwards. Where the file
    system has no locks, a file `.NAME.lock.held` is the lock, and that is said.
    """
    target = at_home(target).resolve()
    made = [parent for parent in target.parents if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    file = lock_file(target)
    lock = FileLock(file, timeout=-1 if wait else 0, fallback_to_soft=False)
    try:
        lock = acquire(lock, wait)
    except Timeout as error:
        raise BadInput(
            f"{flag} {target} is in use by {holder(Path(error.lock_file))}; wait for its end, or give another"
        ) from error
    try:
        if not isinstance(lock, SoftFileLock):
            file.write_text(f"{os.getpid()}\n{socket.gethostname()}\n", encoding="utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows: it is open
            file.unlink()  # while it is held: who has opened it meanwhile sees that it lost its name
        lock.release()
        with contextlib.suppress(OSError):
            for parent in made:  # empty, where what was to be written was refused
                parent.rmdir()


def lock_file(target: Path) -> Path:
    """Beside the target; in it where nothing can be written beside it, as at the root of a mounted disk."""
    name = f".{target.name[:200]}.lock"
    inside = target.is_dir() and not os.access(target.parent, os.W_OK)
    return target / name if inside else target.with_name(name)


def acquire(lock: FileLock, wait: bool) -> FileLock | SoftFileLock:
    """The lock, held; or one that needs none of the file system's."""
    try:
        lock.acquire()
    except FileNotFoundError:  # its folder went with the one who held it
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        return acquire(lock, wait)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        soft = SoftFileLock(f"{lock.lock_file}.held", timeout=-1 if wait else 0)
        soft.acquire()
        print(f"warning: no locks in the file system of {soft.lock_file}; that file stands for one", file=sys.stderr)
        return soft
    return lock


def holder(file: Path) -> str:
    """Who holds a lock, as its file says."""
    try:
        pid, host, *_ = file.read_text(encoding="utf-8").split()
    except (OSError, ValueError):  # just being written
        return "another process"
    return f"process {pid} on {host}" + ("" if host == socket.gethostname() else f" ({file} goes with it)")
