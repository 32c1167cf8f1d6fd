"""What worker processes are given in tests; a module of its own, so that they can import it."""

import os
import signal
from pathlib import Path

import torch

from assay_client import ModelMismatchError
from training.feedback.workers import average_gradients, gathered, own_part, summed


def exchange(rank: int, folder: Path) -> None:
    """Gradients, sums and parts, as each worker sees them after the exchange."""
    first, second, still = (torch.nn.Parameter(torch.zeros(shape)) for shape in ((2, 3), (4,), (5,)))
    first.grad = torch.full((2, 3), float(rank))
    second.grad = torch.arange(4.0) * rank
    average_gradients([first, second, still])
    whole = list(range(7))
    torch.save(
        {
            "first": first.grad,
            "second": second.grad,
            "still": still.grad,
            "summed": summed(torch.tensor([1.0, rank])),
            "part": own_part(whole),
            "gathered": gathered([10 * element for element in own_part(whole)]),
            "threads": torch.get_num_threads(),
        },
        folder / f"{rank}.pt",
    )


def refuse(rank: int, argument: object) -> None:
    """One worker finds another model; the other waits for it."""
    if rank == 1:
        raise ModelMismatchError("another model")
    summed(torch.zeros(1))


def die(rank: int, argument: object) -> None:
    """One worker is killed; the other waits for it."""
    if rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    summed(torch.zeros(1))


def break_down(rank: int, argument: object) -> None:
    """A defect."""
    raise KeyError("a defect")


def wait_for_ever(rank: int, folder: Path) -> None:
    """Say that it runs, and wait."""
    (folder / f"{rank}.pid").write_text(str(os.getpid()))
    signal.pause()
