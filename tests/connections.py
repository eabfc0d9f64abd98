"""A program: do commands of `hfdiff` in this process, and write what each tried to reach.

`python connections.py COMMANDS REPORT`, both JSON: {name: words} -> {name: {"code": exit code, "tried": attempts}}.
"""

import json
import sys
import traceback
from pathlib import Path
from typing import Any

# What Python says before a packet leaves or a name is looked up. A program that was started is not watched: it counts.
SENDING = {"socket.connect", "socket.sendto", "socket.sendmsg"}
LOOKING_UP = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"}
STARTING = {"subprocess.Popen", "os.exec", "os.posix_spawn", "os.system"}
UNWATCHED = ("fc-list",)  # matplotlib lists the fonts of this machine
THIS_MACHINE = ("127.0.0.1", "localhost")
tried: list[str] = []


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Note an attempt, and refuse what would leave this machine: a test that fails reaches nobody either."""
    if event in STARTING and arguments[0] not in UNWATCHED:
        tried.append(f"{event} {arguments[0]}")
    elif event in SENDING | LOOKING_UP:
        address = arguments[1] if event in SENDING else arguments[:2]
        if not isinstance(address, tuple):  # a socket of the file system, or one that is connected already
            return
        tried.append(f"{event} {address[0]}:{address[1] if len(address) > 1 else ''}")
        if address[0] not in THIS_MACHINE:
            raise ConnectionRefusedError(f"not in this test: {tried[-1]}")


def do(words: list[str]) -> int:
    """The exit code of one command, or of importing all that hfdiff gives."""
    import hfdiff

    if words == ["import"]:
        return 0 if all(getattr(hfdiff, name) for name in hfdiff.__all__) else 1
    from accelerate.state import AcceleratorState

    from hfdiff.cli import main

    AcceleratorState._reset_state(reset_partial_state=True)  # as a process of its own begins
    try:
        main(words)
    except SystemExit as stop:
        return int(stop.code or 0)
    except Exception:  # as a process of its own ends, and the next command is done all the same
        traceback.print_exc()
    return 1


if __name__ == "__main__":
    sys.addaudithook(watch)
    report = {}
    for name, words in json.loads(Path(sys.argv[1]).read_text()).items():
        tried.clear()
        report[name] = {"code": do(words), "tried": list(tried)}
    Path(sys.argv[2]).write_text(json.dumps(report))
