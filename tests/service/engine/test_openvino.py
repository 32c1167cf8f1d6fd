"""OpenVINO's sessions, in a process of their own, as a server is: without torch and what else the other tests load.

In one process with all of that, a worker of the test suite died of a segmentation fault now and then; no server did.
"""

import subprocess
import sys
from pathlib import Path

import pytest

CASES = sorted((Path(__file__).parent / "openvino").glob("*_cases.py"))


@pytest.mark.parametrize("file", CASES, ids=lambda file: file.stem)
def test_cases(file):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def test_there_are_cases():
    assert [file.stem for file in CASES] == ["int8_cases", "session_cases"]
