"""Several processes on one machine that learn the same parameters, each from its own part of the responses."""

import logging
import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing import get_context
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from assay_client import AssayError
from training.pool import available_cores

T = TypeVar("T")

EXPECTED = (ValueError, OSError, FloatingPointError, AssayError)
"""What ends a run with one line; anything else is a defect and keeps its traceback."""


class WorkerError(RuntimeError):
    """A worker ended before its work was done; the message says which, and of what."""


_PATIENCE = timedelta(days=1)
"""A worker that waits for a server is not given up by the others; one that died is noticed at once."""


def run_workers(count: int, work: Callable[[int, Any], None], argument: Any) -> None:
    """Call `work(rank, argument)` in `count` processes that can exchange tensors; one works in this process.

    `work` and `argument` are pickled. The cores this process may use are shared equally among the workers.

    Raises:
        WorkerError: one failed; the others were ended.
    """
    if count == 1:
        work(0, argument)
        return
    failures: Any = get_context("spawn").SimpleQueue()
    # That the others are ended is what `WorkerError` means; it need not be logged too.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    threads = max(1, available_cores() // count)
    context = start_processes(  # type: ignore[no-untyped-call]
        _run, (count, _free_port(), threads, failures, work, argument), nprocs=count, join=False, start_method="spawn"
    )
    try:
        while not context.join():
            pass
    except ProcessExitedException as error:
        # A worker that explained itself wins over those that were cut off by its end.
        reason = f"worker {error.error_index} was ended by {error.signal_name or f'exit status {error.exit_code}'}"
        raise WorkerError(reason if failures.empty() else failures.get()) from None
    except ProcessRaisedException as error:
        if failures.empty():
            raise
        raise WorkerError(failures.get()) from error
    except BaseException:  # an interrupt that came to this process alone
        for process in context.processes:
            process.terminate()
        for process in context.processes:
            process.join()
        raise


def _run(
    rank: int, count: int, port: int, threads: int, failures: Any, work: Callable[[int, Any], None], argument: Any
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # an interrupt is told once, by the process that started the others
    warnings.filterwarnings("ignore", category=FutureWarning)  # as the process that started it does
    torch.set_num_threads(threads)
    if sys.platform == "linux":  # a host whose name resolves to nothing must not matter
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=count, timeout=_PATIENCE
    )
    try:
        work(rank, argument)
        dist.barrier()
    except EXPECTED as error:
        failures.put(f"worker {rank}: {type(error).__name__}: {error}")
        os._exit(1)
    dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def summed(values: torch.Tensor) -> torch.Tensor:
    """The sum of `values` over all workers, on each of them."""
    if dist.is_initialized():
        values = values.clone()
        dist.all_reduce(values)
    return values


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Put the mean over all workers into every gradient; in one message, since there are many small ones."""
    if not dist.is_initialized():
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = summed(torch.cat([gradient.flatten() for gradient in gradients])) / dist.get_world_size()
    place = 0
    for gradient in gradients:
        gradient.copy_(flat[place : place + gradient.numel()].view_as(gradient))
        place += gradient.numel()


def gathered(part: Sequence[T]) -> list[T]:
    """The parts of all workers, put back in the order that `own_part` took them from; the same on each."""
    if not dist.is_initialized():
        return list(part)
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, list(part))
    return [parts[place % len(parts)][place // len(parts)] for place in range(sum(map(len, parts)))]


def own_part(whole: Sequence[T]) -> list[T]:
    """Every n-th element, n being the number of workers: this worker's."""
    if not dist.is_initialized():
        return list(whole)
    return list(whole[dist.get_rank() :: dist.get_world_size()])
