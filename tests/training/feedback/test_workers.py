"""Workers exchange what they should, and none outlives another's failure."""

import os
import signal
import threading
import time

import pytest
import torch

from tests.training.feedback.jobs import break_down, die, exchange, refuse, wait_for_ever
from training.feedback.workers import WorkerError, run_workers


def test_two_workers_share_gradients_sums_and_parts(tmp_path):
    run_workers(2, exchange, tmp_path)
    for rank in range(2):
        seen = torch.load(tmp_path / f"{rank}.pt")
        assert torch.equal(seen["first"], torch.full((2, 3), 0.5))
        assert torch.equal(seen["second"], torch.arange(4.0) / 2)
        assert seen["still"] is None
        assert seen["summed"].tolist() == [2.0, 1.0]
        assert seen["part"] == list(range(rank, 7, 2))
        assert seen["gathered"] == [0, 10, 20, 30, 40, 50, 60]


def test_one_worker_needs_no_other(tmp_path):
    run_workers(1, exchange, tmp_path)
    seen = torch.load(tmp_path / "0.pt")
    assert seen["gathered"] == [0, 10, 20, 30, 40, 50, 60]
    assert torch.equal(seen["second"], torch.zeros(4))


def test_an_expected_failure_is_told_in_one_line():
    with pytest.raises(WorkerError, match="worker 1: ModelMismatchError: another model"):
        run_workers(2, refuse, None)


def test_a_worker_that_is_killed_ends_the_others():
    with pytest.raises(WorkerError, match="worker 0 was ended by SIGKILL"):
        run_workers(2, die, None)


def test_a_defect_keeps_its_traceback():
    with pytest.raises(Exception, match="KeyError: 'a defect'"):
        run_workers(2, break_down, None)


def test_an_interrupt_of_the_first_process_alone_ends_the_workers(tmp_path):
    def interrupt() -> None:
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob("*.pid"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    watching = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin without
    try:
        watching.start()
        with pytest.raises(KeyboardInterrupt):
            run_workers(2, wait_for_ever, tmp_path)
        watching.join()
    finally:
        signal.signal(signal.SIGINT, before)
    for path in tmp_path.glob("*.pid"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)
