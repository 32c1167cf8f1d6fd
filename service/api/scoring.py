"""From the items of any route to their scores: what must be true before, and who waits how."""

import asyncio
import time
from collections.abc import Sequence

from fastapi import Request

from service.api.context import Context, State, context_of, until_gone
from service.api.errors import ApiError, FieldName, Part
from service.scoring.errors import QueueFullError
from service.scoring.items import AnyItem, Item
from service.scoring.scorer import Scores, Wishes

_LEAST_PAUSE, _MOST_PAUSE = 0.5, 2.0
"""Seconds after which a request that is held asks for its places again. Where the queue is full of tokens, or what
waits takes too long, its texts are tokenized each time."""


def deadline_of(request: Request, timeout_ms: float | None) -> float:
    """When the time of a request is up, in monotonic seconds; it began with the request's headers."""
    settings = context_of(request).settings
    seconds = min(timeout_ms or settings.default_timeout_ms, settings.max_timeout_ms) / 1000
    began: float = request.state.began
    return began + seconds


async def score_items(
    request: Request, items: Sequence[AnyItem], wishes: Wishes, field_name: FieldName, hold_s: float = 0.0
) -> Scores:
    """Score the items of a request.

    Args:
        request: whose body was read.
        items: at least one.
        wishes: of the caller.
        field_name: where in the body the text of an item is, for errors.
        hold_s: seconds from the request's beginning in which it waits for room in a queue that is full, for callers
            that take a refusal for the end.

    Raises:
        ApiError: not ready, or a text that is far too long.
        ScoringError: see `service.scoring.errors`.
        ClientGoneError: the client left.
    """
    context = context_of(request)
    if context.state not in (State.READY, State.DRAINING):
        raise ApiError(503, "not_ready", f"the server is {context.state}", retry_after=1.0)
    most = context.settings.max_text_chars
    for place, item in enumerate(items):
        sizes: dict[Part, int] = (
            {"prompt": item.prompt_chars, "response": len(item.response)}
            if isinstance(item, Item)
            else {"response": item.size}
        )
        for part, size in sizes.items():
            if size > most:
                # It would occupy a tokenizer for seconds before it turned out to be too long.
                message = f"{size} characters, more than the {most} of one text; shorten it"
                raise ApiError(422, "too_many_tokens", message, field_name(place, part))
    request.state.field_name = field_name
    held_until: float = request.state.began + hold_s
    if wishes.deadline is not None:
        held_until = min(held_until, wishes.deadline)
    return await until_gone(request, _admitted(context, items, wishes, held_until))


async def _admitted(context: Context, items: Sequence[AnyItem], wishes: Wishes, held_until: float) -> Scores:
    while True:
        try:
            return await context.scorer.score(items, wishes)
        except QueueFullError as error:
            pause = min(max(error.retry_after, _LEAST_PAUSE), _MOST_PAUSE)
            if time.monotonic() + pause >= held_until or context.state is not State.READY:
                raise
            await asyncio.sleep(pause)
