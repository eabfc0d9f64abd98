"""Several at work in one place: each writes whole, or learns who holds it."""

import errno
import json
import multiprocessing
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import _unix

from hfdiff.core.errors import BadInput, TrainingFailed
from hfdiff.core.files import clear_unfinished, moved_aside, recover_folder, write_file, write_folder, write_json
from hfdiff.core.locks import write_lock

HOLD = """
import sys
from pathlib import Path
from hfdiff.core.locks import write_lock
with write_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def elsewhere(tmp_path):
    """A process that holds the lock of `tmp_path / "new" / "out"`."""
    target = tmp_path / "new" / "out"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        yield target, process
        process.kill()


def test_the_second_is_told_who_holds_it(elsewhere):
    target, process = elsewhere
    said = f"output_dir {target} is in use by process {process.pid} on {socket.gethostname()}; wait for its end"
    with pytest.raises(BadInput, match=re.escape(said)), write_lock(target):
        pass
    process.communicate()
    assert not target.parent.exists()  # nothing was written, nothing stays
    with write_lock(target):
        assert [path.name for path in target.parent.iterdir()] == [".out.lock"]


def test_a_killed_holder_holds_nothing(elsewhere):
    target, process = elsewhere
    process.kill()
    process.wait()
    with write_lock(target):
        assert (target.parent / ".out.lock").read_text().split()[0] == str(os.getpid())


def test_a_link_leads_to_the_same_lock(elsewhere, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "new")
    with pytest.raises(BadInput, match="in use by process"), write_lock(tmp_path / "link" / "out"):
        pass


def test_one_waits_for_the_other(elsewhere):
    target, process = elsewhere
    entered = threading.Event()

    def wait() -> None:
        with write_lock(target, wait=True):
            entered.set()

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert not entered.wait(0.3)
    process.communicate()
    waiting.join()
    assert entered.is_set()


@pytest.mark.parametrize("answer", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_stands_for_the_lock_where_there_are_none(tmp_path, monkeypatch, capfd, answer):
    def flock(*_: object) -> None:
        raise OSError(answer, os.strerror(answer))

    monkeypatch.setattr(_unix.fcntl, "flock", flock)
    target = tmp_path / "out"
    with write_lock(target):
        assert capfd.readouterr().err.count("no locks in the file system of") == 1
        with pytest.raises(BadInput, match=f"in use by process {os.getpid()} on"), write_lock(target):
            pass
        (tmp_path / ".out.lock.held").write_text("4711\nanother-host\n")
        with pytest.raises(BadInput, match=r"process 4711 on another-host \(.*\.out\.lock\.held goes with it\)"):
            write_lock(target).__enter__()
        (tmp_path / ".out.lock.held").unlink()
    with write_lock(target):
        pass
    assert not any(tmp_path.iterdir())


def at_once(work, *arguments, processes: int = 2) -> list[str]:
    """What went wrong in some processes that do the same at the same time."""
    context = multiprocessing.get_context("fork")
    barrier, problems = context.Barrier(processes), context.Queue()

    def one(number: int) -> None:
        barrier.wait()
        try:
            work(number, *arguments)
        except BaseException as error:
            problems.put(repr(error))

    running = [context.Process(target=one, args=(number,)) for number in range(processes)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    return [problems.get() for _ in range(problems.qsize())]


def write_often(number: int, folder: Path) -> None:
    def fill(place: Path) -> None:
        for name in "abc":
            (place / name).write_text(str(number))

    for _ in range(150):
        write_folder(folder / "pipeline", fill)
        write_file(folder / "record.json", json.dumps([number] * 1000).encode())
        assert len(set(json.loads((folder / "record.json").read_text()))) == 1


def test_writers_of_one_place_all_succeed_and_mix_nothing(tmp_path):
    assert at_once(write_often, tmp_path) == []
    assert len({(tmp_path / "pipeline" / name).read_text() for name in "abc"}) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"pipeline", "record.json"}


def enter_often(number: int, target: Path) -> None:
    for _ in range(100):
        with write_lock(target, wait=True):
            (target.parent / "inside").touch(exist_ok=False)
            (target.parent / "inside").unlink()


def test_a_lock_lets_one_in_at_a_time(tmp_path):
    (tmp_path / "keep").touch()
    assert at_once(enter_often, tmp_path / "out", processes=4) == []


def test_only_what_a_writer_left_is_cleared(tmp_path):
    (tmp_path / ".out.old").mkdir()
    (tmp_path / ".out.older").mkdir()
    (tmp_path / ".hfdiff-abc").mkdir()
    assert [path.name for path in moved_aside(tmp_path / "out")] == [".out.old"]
    write_folder(tmp_path / "out", lambda folder: None)
    assert (tmp_path / ".out.old").is_dir()  # without the lock, it may be another's
    recover_folder(tmp_path / "out")
    clear_unfinished(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"out", ".out.older"}


def test_a_record_holds_no_nan(tmp_path):
    write_json(tmp_path / "record.json", {"value": 1.0})
    write_json(tmp_path / "name.json", {"command": "caf\udce9 é"})
    assert json.loads((tmp_path / "name.json").read_text()) == {"command": "caf\udce9 é"}
    with pytest.raises(TrainingFailed, match=r"record\.json is not written: Out of range float"):
        write_json(tmp_path / "record.json", {"value": float("nan")})
    assert json.loads((tmp_path / "record.json").read_text()) == {"value": 1.0}
