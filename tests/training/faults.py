"""Damage on purpose, in forked processes that share the imports; prints counts.

python tests/training/faults.py KIND FOLDER ...

Nothing of torch runs before a fork, so that the children begin clean.
"""

import contextlib
import errno
import hashlib
import json
import os
import random
import re
import resource
import runpy
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch

import hfdiff.training.checkpoint as checkpoint
from hfdiff.core.files import clear_unfinished, recover_folder, write_file, write_folder
from hfdiff.training import loop
from hfdiff.training.checkpoint import (
    list_checkpoints,
    newest_checkpoint,
    read_checkpoint,
    recover_run,
    save_checkpoint,
)
from hfdiff.training.run_folder import RunFolder

SCRIPT = Path(__file__).parents[2] / "train_scripts" / "train.py"
EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod"}  # of sys.audit; and fsync, safetensors
CRASHED = 9


def fork(action: Callable[[], object]) -> int:
    """Run in a child of its own process group; its process id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    os.setpgid(0, 0)
    code = 1
    try:
        action()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def in_child(action: Callable[[], object]) -> int:
    return wait(fork(action))


class Faults:
    """While entered, the file-system call `number` fails: a crash there, or no space left from there on."""

    def __init__(self, number: int, kind: str):
        self.left, self.kind, self.active = number, kind, False

    def tick(self, writes: bool) -> None:
        self.left -= 1
        if self.kind == "crash" and self.left == 0:
            os._exit(CRASHED)
        if self.kind == "full" and self.left <= 0 and writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _audit(self, event: str, args: tuple) -> None:
        if self.active and event in EVENTS:
            flags = args[2] if event == "open" else 0
            self.tick(writes=event == "os.mkdir" or (event == "open" and bool(flags & (os.O_WRONLY | os.O_RDWR))))

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        fsync, save = os.fsync, checkpoint.save_file

        def save_in_parts(tensors: dict, path: Path) -> None:
            self.tick(writes=True)
            self.active = False
            save(tensors, path)
            whole = path.read_bytes()
            path.write_bytes(whole[: len(whole) // 2])
            self.active = True
            self.tick(writes=True)
            self.active = False
            path.write_bytes(whole)
            self.active = True

        def ticking_fsync(handle: int) -> None:
            self.tick(writes=True)
            fsync(handle)

        os.fsync, checkpoint.save_file = ticking_fsync, save_in_parts
        sys.addaudithook(self._audit)
        self.active = True
        yield
        self.active = False


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class CheckpointCase:
    """A third checkpoint is saved."""

    def __init__(self, folder: Path, keep: int):
        self.run, self.keep = RunFolder(folder), keep

    def _save(self, step: int) -> None:
        weights = {"a": torch.full((40, 3), float(step)), "b": torch.full((7,), float(step))}
        tensors = {"unet": weights, "ema": weights, "optimizer": weights}
        save_checkpoint(self.run.checkpoints, tensors, {"step": step, "data": "d"}, self.keep)

    def before(self) -> None:
        self._save(1)
        self._save(2)

    def change(self) -> None:
        self._save(3)

    def changed(self) -> bool:
        return (self.run.checkpoints / "step-000000003").exists()

    def check(self) -> None:
        warnings: list[str] = []
        recover_run(self.run)
        found = newest_checkpoint(self.run, warnings.append)
        assert found is not None
        assert found.numbers["step"] in (2, 3), found.numbers
        assert not warnings, warnings
        assert all((v == found.numbers["step"]).all() for named in found.tensors.values() for v in named.values())
        self._save(4)
        kept = [path.name for path in list_checkpoints(self.run.checkpoints)]
        assert kept[0] == "step-000000004"
        assert len(kept) == min(self.keep, len(kept)), kept
        left = {path.name for path in self.run.checkpoints.iterdir()} - set(kept)
        assert not left, left


class FolderCase:
    """A folder, such as the pipeline's, is replaced by another."""

    def __init__(self, folder: Path, keep: int):
        self.target = folder / "pipeline"

    def _write(self, text: str) -> None:
        def fill(folder: Path) -> None:
            (folder / "inner").mkdir()
            for name in ("a", "b", "inner/c"):
                (folder / name).write_text(text)

        write_folder(self.target, fill)

    def before(self) -> None:
        self.target.parent.mkdir()
        self._write("old")

    def change(self) -> None:
        self._write("new")

    def changed(self) -> bool:
        return (self.target / "a").read_text() == "new"

    def check(self) -> None:
        recover_folder(self.target)
        texts = {(self.target / name).read_text() for name in ("a", "b", "inner/c")}
        assert texts in ({"old"}, {"new"}), texts
        self._write("again")
        clear_unfinished(self.target.parent)
        assert [path.name for path in self.target.parent.iterdir()] == ["pipeline"]


class FileCase:
    """A small file is written over."""

    def __init__(self, folder: Path, keep: int):
        self.target = folder / "config.yaml"

    def before(self) -> None:
        write_file(self.target, b"old")

    def change(self) -> None:
        write_file(self.target, b"new")

    def changed(self) -> bool:
        return self.target.read_bytes() == b"new"

    def check(self) -> None:
        assert self.target.read_bytes() in (b"old", b"new")


CASES = {"checkpoint": CheckpointCase, "folder": FolderCase, "file": FileCase}


def at_every_call(kind: str, root: Path, case: str, keep: int) -> dict[str, int]:
    """Fail at the first file-system call of a change, at the second, and so on, to the last."""
    number = failed = 0
    while True:
        number += 1
        folder = root / f"{kind}-{case}-{keep}-{number}"
        trial = CASES[case](folder, keep)

        def change(trial=trial, folder=folder, number=number) -> None:
            trial.before()
            old = hashes(folder)
            try:
                with Faults(number, kind)():
                    trial.change()
            except OSError as error:
                now = hashes(folder)
                kept = trial.changed() or all(now[name] == old[name] for name in old)
                raise SystemExit(CRASHED if kept and error.errno == errno.ENOSPC else 1) from error

        code = in_child(change)
        if code not in (0, CRASHED):
            raise SystemExit(f"{case} at call {number}: exit code {code}")
        failed += in_child(trial.check) != 0
        if code == 0:
            return {"calls": number - 1, "lost": failed}


TINY = (
    "--block_out_channels 8 16 --norm_num_groups 4 --attention_head_dim 8 --patch_size 4 --batch_size 8 --dropout 0.1 "
    "--mixed_precision no --logging_images 16 --validation_images 80 --sample_images 100000 --checkpointing_images 16 "
    "--ema_profiles 0.05 0.1 --guide_share 0.3"
).split()


def training(
    script: dict,
    flags: list[str],
    output: Path,
    rank: int = 0,
    world: int = 1,
    port: int = 0,
    faults: Faults | None = None,
) -> None:
    """The training program, as a launcher would start it; beside its output it notes each step's images and noise."""
    if world > 1:
        given = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        os.environ |= {key: str(value) for key, value in given.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    seen, now = output.with_suffix(f".seen{rank}").open("a"), [0]

    def draw_batch(config, table, batch_size, step, device, original=loop.draw_batch):
        now[0] = step
        return original(config, table, batch_size, step, device)

    def make_inputs(config, table, objective, draw, original=loop.make_inputs):
        for row, noise in zip(draw.rows.tolist(), draw.noise):
            seen.write(f"{now[0]} {row} {hashlib.sha256(noise.numpy().tobytes()).hexdigest()}\n")
        seen.flush()
        return original(config, table, objective, draw)

    loop.draw_batch, loop.make_inputs = draw_batch, make_inputs
    with output.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        with faults() if faults else contextlib.nullcontext():
            script["run_program"](lambda: script["main"](flags))


def start(script: dict, flags: list[str], output: Path, world: int = 1) -> list[int]:
    """The process ids of a training's processes, in one process group."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pids: list[int] = []
    for rank in range(world):
        pids.append(fork(lambda rank=rank: training(script, flags, output, rank, world, port)))
        with contextlib.suppress(OSError):
            os.setpgid(pids[-1], pids[0])
    return pids


def finish(script: dict, flags: list[str], output: Path, world: int = 1) -> list[int]:
    return [wait(pid) for pid in start(script, flags, output, world)]


def final(run: Path) -> dict[str, str]:
    """What a run ends with: the hashes of its newest checkpoint's tensors and its snapshots', and its losses."""
    newest = list_checkpoints(run / "checkpoints")[0]
    points = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    tensors = [*newest.glob("*.safetensors"), *(run / "snapshots").iterdir()]
    kept = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in tensors}
    return kept | {str(point["step"]): f"{point['loss']!r} {point['val_loss']!r} {point['lr']!r}" for point in points}


def newest_step(run: Path) -> int:
    """The step of the newest checkpoint, which must be whole; 0 where there is none."""
    paths = list_checkpoints(run / "checkpoints")
    if paths and in_child(lambda: read_checkpoint(paths[0])):
        return -1
    return int(paths[0].name.removeprefix("step-")) if paths else 0


def killed(root: Path, data: str, trials: int, images: int) -> dict[str, int]:
    """One run, killed at random times after it went on and started again, against one that was left alone."""
    script, draw = runpy.run_path(str(SCRIPT), run_name="train"), random.Random(0)
    flags = ["--dataset", data, *TINY, "--max_train_images", str(images)]
    log = root / "log"
    assert finish(script, [*flags, "--output_dir", str(root / "whole")], log) == [0], log.read_text()[-2000:]
    lost = kills = step = 0
    again = [*flags, "--output_dir", str(root / "killed")]
    while kills < trials:
        launches = log.read_text().count("precision:")
        (pid,) = start(script, again, log)
        while log.read_text().count("precision:") == launches:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 2))
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:  # done before it was killed: from the start
            assert status == 0, log.read_text()[-2000:]
            (root / "killed").rename(root / f"done-{kills}-{draw.random()}")
            step = 0
            continue
        os.killpg(pid, signal.SIGKILL)
        wait(pid)
        kills += 1
        before, step = step, newest_step(root / "killed")
        lost += step < before
    code = finish(script, again, log)[0]
    equal = code == 0 and final(root / "killed") == final(root / "whole")
    return {"kills": kills, "lost": lost, "ends_equal": int(equal)}


def signalled(root: Path, data: str, trials: int, images: int, world: int) -> dict[str, int]:
    """Runs stopped by SIGTERM or SIGINT to their process group at random times, and started again."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it starts in the background ignore it
    script, draw = runpy.run_path(str(SCRIPT), run_name="train"), random.Random(world)
    flags = ["--dataset", data, *TINY, "--max_train_images", str(images)]
    log = root / "log"
    assert set(finish(script, [*flags, "--output_dir", str(root / "whole")], log, world)) == {0}, log.read_text()[
        -2000:
    ]
    wanted, done, wrong_code, unsaved, unequal = final(root / "whole"), 0, 0, 0, 0
    while done < trials:
        number = (signal.SIGTERM, signal.SIGINT)[done % 2]
        run = root / f"run-{done}-{draw.randrange(10**6)}"
        again = [*flags, "--output_dir", str(run)]
        pids = start(script, again, log, world)
        while not (run / "metrics.jsonl").exists():
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 3))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pids[0], number)
        codes = {wait(pid) for pid in pids}
        if codes == {0}:
            continue  # it was done
        done += 1
        wrong_code += codes != {128 + number}
        told = re.findall(r"stopped by signal \d+ after ([\d,]+) images", log.read_text())
        unsaved += not told or 8 * newest_step(run) != int(told[-1].replace(",", ""))
        unequal += set(finish(script, again, log, world)) != {0} or final(run) != wanted
        resumed = re.findall(r"resuming after ([\d,]+) images", log.read_text())
        unsaved += not told or not resumed or resumed[-1] != told[-1]
    return {"signals": done, "wrong_exit_code": wrong_code, "unsaved": unsaved, "unequal": unequal}


def full_runs(root: Path, data: str, trials: int) -> dict[str, int]:
    """Runs whose disk is full from some file-system call on, evenly spread over all that a whole run makes."""
    script = runpy.run_path(str(SCRIPT), run_name="train")
    flags = ["--dataset", data, *TINY, "--max_train_images", "80"]
    run, count = root / "whole", root / "count"

    def counted() -> None:
        faults = Faults(0, "count")
        try:
            training(script, [*flags, "--output_dir", str(run)], root / "log", faults=faults)
        finally:
            faults.active = False
            count.write_text(str(-faults.left))

    assert in_child(counted) == 0, (root / "log").read_text()[-2000:]
    calls, wrong_code, unclear, lost = int(count.read_text()), 0, 0, 0
    for trial in range(trials):
        log, run = root / f"log{trial}", root / f"run{trial}"

        def full(trial=trial, log=log, run=run) -> None:
            if trial % 2:  # the system's own: no file grows beyond so much, which stops writes inside libraries too
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000 * 2 ** (trial // 2 % 8), resource.RLIM_INFINITY))
                training(script, [*flags, "--output_dir", str(run)], log)
            faults = Faults(1 + calls * trial // trials, "full")
            training(script, [*flags, "--output_dir", str(run)], log, faults=faults)

        code = in_child(full)
        refused = code == 2 and not (run / "config.yaml").exists()  # before it began, as a folder that takes nothing
        wrong_code += code != 1 and not refused
        lines = [line for line in log.read_text().splitlines() if "it/s" not in line and "img/s" not in line]
        told = re.fullmatch("hfdiff: error: .*(No space left on device|File too large).*", lines[-1]) if lines else None
        unclear += told is None
        lost += newest_step(run) < 0
    return {"calls": calls, "trials": trials, "wrong_exit_code": wrong_code, "unclear": unclear, "lost": lost}


def seen_by(run: Path, since: int) -> set[str]:
    """The images and noise of the steps from `since` on, of all processes."""
    lines = [line for file in run.parent.glob(f"{run.name}.seen*") for line in file.read_text().splitlines()]
    return {line for line in lines if not line.startswith("validation") and int(line.split()[0]) >= since}


def resumed(root: Path, data: str, images: int) -> dict[str, float]:
    """A run gone on with in a fresh process after each of its steps; then, without dropout, by 2 processes and by 1.

    Dropout is drawn for each micro-batch, so with it the number of processes matters.
    """
    script = runpy.run_path(str(SCRIPT), run_name="train")
    flags = ["--dataset", data, *TINY, "--max_train_images", str(images), "--checkpointing_images", "8"]
    flags += ["--gradient_accumulation_steps", "2", "--logging_images", "8", "--keep_checkpoints", "99"]

    def run(name: str, world: int, dropout: float) -> Path:
        words = [*flags, "--dropout", str(dropout), "--output_dir", str(root / name)]
        codes = finish(script, words, root / f"{name}.log", world)
        assert set(codes) == {0}, (root / f"{name}.log").read_text()[-2000:]
        return root / name

    def again(old: Path, step: int, world: int, dropout: float) -> Path:
        name = f"{old.name}-{step}"
        shutil.copytree(old, root / name)
        for path in list_checkpoints(root / name / "checkpoints"):
            if int(path.name.removeprefix("step-")) > step:
                shutil.rmtree(path)
        return run(name, world, dropout)

    def noted(folder: Path) -> list[dict]:
        return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]

    steps, unequal, other_images = images // 8, 0, 0
    whole = run("whole", 1, 0.1)
    for step in range(1, steps):
        rerun = again(whole, step, 1, 0.1)
        unequal += final(rerun) != final(whole)
        other_images += seen_by(rerun, 0) != seen_by(whole, step)
    one, two = run("one", 1, 0), run("two", 2, 0)
    more, fewer = again(one, steps // 2, 2, 0), again(two, steps // 2, 1, 0)
    for folder in (more, fewer):
        other_images += seen_by(folder, 0) != seen_by(one, steps // 2)
    points = [point for folder in (two, more, fewer) for point in zip(noted(folder), noted(one), strict=True)]
    difference = max(abs(a["loss"] / b["loss"] - 1) for a, b in points)
    assert all(a["lr"] == b["lr"] for a, b in points)
    return {"resumes": steps + 1, "unequal": unequal, "other_pictures": other_images, "difference": difference}


def main(kind: str, folder: str, *more: str) -> None:
    root = Path(folder)
    if kind in ("crash", "full"):
        trials = [trial.split(":") for trial in more]
        print(json.dumps({" ".join(trial): at_every_call(kind, root, trial[0], int(trial[1])) for trial in trials}))
    elif kind == "resumed":
        print(json.dumps(resumed(root, more[0], int(more[1]))))
    elif kind == "full_run":
        print(json.dumps(full_runs(root, more[0], int(more[1]))))
    elif kind == "killed":
        print(json.dumps(killed(root, more[0], int(more[1]), int(more[2]))))
    else:
        print(json.dumps(signalled(root, more[0], int(more[1]), int(more[2]), int(more[3]))))


if __name__ == "__main__":
    main(*sys.argv[1:])
