"""How a long list becomes requests that the server accepts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from assay_client.errors import TooLargeError
from assay_client.types import Limits

T = TypeVar("T")


def items_allowed(limits: Limits, *, texts: int, whole: bool) -> int:
    """Return how many items of `texts` texts each one request may hold; at least 1.

    A request of more texts or tokens than the whole queue holds could never be admitted. What an item has in tokens
    is not known here, so each counts as the longest allowed. Not if the request must stay `whole`: then the server,
    which counts, shall decide.
    """
    bounds = [limits.items_per_request]
    if limits.queue_items is not None:
        bounds.append(limits.queue_items)
    if limits.queue_tokens is not None and limits.tokens_per_item is not None and not whole:
        bounds.append(limits.queue_tokens // limits.tokens_per_item)
    return max(1, min(bounds) // texts)


def split(sizes: Sequence[int], *, max_items: int, max_bytes: int, name: str) -> list[range]:
    """Cut a list into consecutive spans of at most `max_items` items and `max_bytes` bytes.

    `sizes[i]` is the size of item i in bytes, one more is counted for the comma after it. The spans cover
    0 .. len(sizes) - 1 in order, none is empty, and each takes as many items as it can.

    Raises `TooLargeError` where a single item exceeds `max_bytes`; its field is `name`.i.
    """
    if max_items < 1:
        raise ValueError(f"max_items must be at least 1, not {max_items}")
    spans: list[range] = []
    start, filled = 0, 0
    for index, size in enumerate(sizes):
        needed = size + 1
        if needed > max_bytes:
            raise TooLargeError(
                f"{name}.{index} takes {needed} bytes as JSON and a request has room for {max(max_bytes, 0)}",
                field=f"{name}.{index}",
            )
        if index > start and (index - start == max_items or filled + needed > max_bytes):
            spans.append(range(start, index))
            start, filled = index, 0
        filled += needed
    if start < len(sizes):
        spans.append(range(start, len(sizes)))
    return spans


async def gather(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all at once and return the results in order; the first failure cancels the rest and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
    except BaseExceptionGroup as errors:
        # The first failure's own cause stays; the group adds nothing.
        raise errors.exceptions[0] from errors.exceptions[0].__cause__
    return [task.result() for task in tasks]


async def halving(span: range, name: str, send: Callable[[range, str], Awaitable[T]]) -> list[T]:
    """Return the results of `send` for a span and its name, in order, in halves where the server finds it too long.

    The limits may have been another server's, or the texts longer than they let expect; only the server can tell.
    """
    try:
        return [await send(span, name)]
    except TooLargeError as error:
        if error.code != "too_many_items" or len(span) < 2:
            raise
    middle = len(span) // 2
    halves = await gather(halving(half, f"{name}-{i}", send) for i, half in enumerate((span[:middle], span[middle:])))
    return [result for half in halves for result in half]
