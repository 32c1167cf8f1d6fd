"""Processes that train one model, as `torchrun` or `accelerate launch` starts them; one alone is the main one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import PartialState

from training.pool import available_cores

_PATIENCE = timedelta(days=1)
"""A process that died is noticed at once by the launcher; one that prepares data is waited for."""


def count() -> int:
    """How many processes train."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this one among them."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this one writes files, logs and shows bars."""
    return rank() == 0


def limit_threads() -> None:
    """Compute on no more threads than run at once: torch counts cores, and knows nothing of a container's quota."""
    torch.set_num_threads(min(torch.get_num_threads(), available_cores()))


def refuse_uneven(elements: int) -> None:
    """Refuse a step whose elements the processes cannot share alike.

    Raises:
        ValueError: naming the setting.
    """
    if elements % count():
        raise ValueError(
            f"optimiser.batch_elements is {elements}, the elements of a step over all processes, and {count()} "
            "processes cannot share that alike"
        )


def wait() -> None:
    """Until all processes are here."""
    if count() > 1:
        _state().wait_for_everyone()


@contextmanager
def main_first() -> Iterator[None]:
    """Let the main process go through the block before the others, who find what it has made."""
    if not is_main():
        wait()
    yield
    if is_main():
        wait()


def _state() -> PartialState:
    """The loop's own way to join the others, so that it finds them joined; they may wait long for data."""
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=_PATIENCE)
