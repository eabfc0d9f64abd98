"""What a run survives. The long ones, `make test-faults`, print their counts for docs/reliability.md."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import class_folders

pytestmark = pytest.mark.slow

FAULTS = Path(__file__).parent / "faults.py"


def counts(kind: str, folder: Path, *more: object) -> dict:
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, str(FAULTS), kind, str(folder), *map(str, more)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    print(kind, *more[1:], result)
    return result


@pytest.fixture
def data(tmp_path) -> str:
    return str(class_folders(tmp_path / "data", {"cat": 16, "dog": 14}))


SAVES = ["checkpoint:1", "checkpoint:2", "folder:1", "file:1"]  # what is saved, and how many checkpoints are kept


@pytest.mark.parametrize("kind", ["crash", pytest.param("full", marks=pytest.mark.long)])
def test_every_file_system_call_of_a_save_may_fail(tmp_path, kind):
    for case, result in counts(kind, tmp_path / kind, *SAVES).items():
        assert result["calls"] >= 3, case
        assert result["lost"] == 0, case


@pytest.mark.long
def test_a_run_may_stop_after_any_step_and_go_on_in_more_or_fewer_processes(tmp_path, data):
    result = counts("resumed", tmp_path / "resumed", data, 48)
    assert result.pop("difference") < 1e-5
    assert result == {"resumes": 7, "unequal": 0, "other_pictures": 0}


@pytest.mark.long
def test_a_disk_that_is_full_from_any_moment_on(tmp_path, data):
    result = counts("full_run", tmp_path / "full", data, 40)
    assert result.pop("calls") > 100
    assert result == {"trials": 40, "wrong_exit_code": 0, "unclear": 0, "lost": 0}


@pytest.mark.long
def test_thirty_kills_of_one_run_lose_nothing(tmp_path, data):
    result = counts("killed", tmp_path / "killed", data, 30, 10_000)
    assert result == {"kills": 30, "lost": 0, "ends_equal": 1}


@pytest.mark.long
@pytest.mark.parametrize("world", [1, 2])
def test_runs_stopped_by_a_signal_end_as_others(tmp_path, data, world):
    result = counts("signalled", tmp_path / "signalled", data, 20, 1600, world)
    assert result == {"signals": 20, "wrong_exit_code": 0, "unsaved": 0, "unequal": 0}
