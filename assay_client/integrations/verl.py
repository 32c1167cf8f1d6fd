"""A custom reward function for verl: its `path` is `pkg://assay_client.integrations.verl`, its `name` `compute_score`.

verl gives such a function the response alone: the prompt must be in the data set's `extra_info`, under `prompt`, as
text or as messages. The function's own arguments are verl's `reward_kwargs`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from assay_client.async_client import AsyncRewardClient
from assay_client.integrations.conversations import pair
from assay_client.types import Scale, Truncate

_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str | None, AsyncRewardClient]] = WeakKeyDictionary()


async def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    url: str | None = None,
    scale: Scale = "raw",
    truncate: Truncate | None = None,
    **others: Any,
) -> dict[str, float]:
    """The reward of one response, under `score`.

    Args:
        data_source, ground_truth: not looked at.
        solution_str: the response, without special tokens.
        extra_info: with the prompt under `prompt`.
        url: of the server; by default ASSAY_URL.
        scale, truncate: as of `AsyncRewardClient.score`.
        others: what else verl passes.

    Raises:
        ValueError: no prompt.
        AssayError: no score.
    """
    asked = (extra_info or {}).get("prompt")
    if asked is None:
        raise ValueError(
            "extra_info has no 'prompt': put the prompt there when the data set is prepared, as text or as messages"
        )
    prompt, response = pair(asked, solution_str)
    clients = _clients.setdefault(asyncio.get_running_loop(), {})
    client = clients.get(url) or clients.setdefault(url, AsyncRewardClient(url))
    scores = await client.score(prompt, [response], scale=scale, truncate=truncate, allow_empty=True)
    return {"score": scores[0]}
