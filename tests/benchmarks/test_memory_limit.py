import os
import subprocess
import sys

import pytest

from benchmarks.memory_limit import memory_limit

MIB = 2**20


def allocated(mib: int, bound_mib: int) -> int:
    """How a process ends that fills so much memory within a bound."""
    with memory_limit(f"assay-test-{os.getpid()}", bound_mib * MIB) as limit:
        if limit is None:
            pytest.skip("no control group can be made here")
        command = [sys.executable, "-c", f"print(len(bytearray({mib} * 2**20)))"]
        return subprocess.run(command, preexec_fn=limit.join, capture_output=True).returncode


def test_more_than_the_bound_is_killed() -> None:
    assert allocated(32, bound_mib=128) == 0
    assert allocated(256, bound_mib=128) == -9


def test_memory_of_the_group_is_told() -> None:
    with memory_limit(f"assay-test-{os.getpid()}", 256 * MIB) as limit:
        if limit is None:
            pytest.skip("no control group can be made here")
        script = "held = bytearray(b'x' * (64 * 2**20)); print(flush=True); input()"
        command = [sys.executable, "-c", script]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, preexec_fn=limit.join, stdin=pipe, stdout=pipe, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdout.readline()
            assert 64 * MIB <= limit.anonymous_bytes() <= 200 * MIB
            process.communicate("\n")
