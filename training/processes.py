"""Processes that train one model, as `torchrun` or `accelerate launch` starts them; one alone is the main one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import PartialState


def count() -> int:
    """How many processes train."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this one among them."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this one writes files, logs and shows bars."""
    return rank() == 0


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
    """The loop's own way to join the others, so that it finds them joined."""
    return PartialState(cpu=not torch.accelerator.is_available())
