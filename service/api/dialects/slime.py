"""slime's remote reward model: `--rm-type remote_rm --rm-url http://HOST:PORT/slime/reward`.

A sample a request, and a bare number back, or `{"reward": number}` with `?key=reward` (and slime's `--reward-key`). Its
client gives up a request after 120 s and backs off for minutes.
"""

from typing import Annotated, Any

from fastapi import Query, Request, Response
from pydantic import Field

from service.api.dialects.chat import Turns
from service.api.dialects.dialect import Dialect, Open, answer, message_only
from service.api.schemas import Text
from service.scoring.items import Item

DIALECT = Dialect("slime", message_only, hold_s=60, timeout_s=110)


class Sample(Open):
    """A prompt, as text or as messages, and its response."""

    prompt: Text | Turns
    response: Text
    label: Any = Field(None, description="Not looked at.")


@DIALECT.router.post("/reward")
async def reward(
    request: Request, body: Sample, key: Annotated[str | None, Query(max_length=64, pattern=r"^\w+$")] = None
) -> Response:
    """The raw score, under `key` if there is one."""
    prompt = body.prompt if isinstance(body.prompt, str) else [turn.message for turn in body.prompt]
    scores = await DIALECT.score(request, [Item(prompt, body.response)], lambda _: "response")
    (score,) = scores.raw
    return answer(score if key is None else {key: score}, request)
