"""Public bug reports of people who do this job, each a program that ends with 0 where hfdiff is right (README.md).

They take minutes, and a process each: `make test-cases` runs them all. What they hold the project to is in the unit
tests, too.
"""

import subprocess
import sys
from pathlib import Path

import pytest

CASES = sorted(Path(__file__).parent.glob("*/run.py"))


@pytest.mark.long
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.parent.name)
def test_a_reported_case_is_right(case):
    done = subprocess.run([sys.executable, str(case)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
