"""A bounded run of the fuzzers; a longer one is `python -m benchmarks.operations.fuzz`."""

import pytest

from benchmarks.operations.fuzz import TARGETS, in_process

pytest.importorskip("atheris", reason="it has no build for this machine")


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_that_comes_over_the_wire_is_unforeseen(target):
    status, said = in_process(target, "-runs=5000", "-max_total_time=60")
    assert status == 0, said[-3000:]
    assert "Done" in said
