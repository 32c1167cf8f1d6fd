"""Work shared among processes on this machine's cores."""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from threading import Thread
from typing import Any

from joblib import cpu_count


def available_cores() -> int:
    """Those that affinity and the container's quota allow."""
    return int(cpu_count())


@contextmanager
def process_pool(begin: Callable[..., None], *arguments: Any) -> Iterator[ProcessPoolExecutor]:
    """A process for each core, in which `begin(*arguments)` was called first.

    They are spawned, since a process that has computed with torch must not be forked. Ctrl-C is left to this process;
    when its block ends in an error, what has not begun is dropped, and when it is killed, they end too.
    """
    with ProcessPoolExecutor(available_cores(), get_context("spawn"), _start, (begin, arguments)) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _start(begin: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    begin(*arguments)


def _end_with_parent() -> None:
    """A worker alone would wait for work for ever, or compute what nobody collects."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
