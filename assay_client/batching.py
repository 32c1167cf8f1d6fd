"""How a long list becomes requests that the server accepts."""

from __future__ import annotations

from collections.abc import Sequence

from assay_client.errors import TooLargeError


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
