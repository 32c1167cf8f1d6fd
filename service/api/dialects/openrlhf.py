"""OpenRLHF's remote reward model: `--reward.remote_url http://HOST:PORT/openrlhf/get_reward`.

Its client sends the decoded text of prompt and response with special tokens kept, gives up after five failures one
second apart or 180 s, and sends empty lists to all servers but the first. So a request waits while the queue is full,
and is answered before the client has given up.
"""

from typing import Any

from fastapi import Request, Response
from pydantic import Field

from service.api.dialects.dialect import Dialect, Open, Texts, answer, message_only, probability
from service.scoring.items import WholeText

DIALECT = Dialect("openrlhf", message_only, {429: 503}, hold_s=150, timeout_s=160)


class RewardRequest(Open):
    """Texts to score, in order."""

    query: Texts = Field(description="Rendered prompt and response in one, special tokens spelled out.")
    prompts: Any = Field(None, description="Not looked at: the query begins with it.")
    labels: Any = Field(None, description="Not looked at.")


@DIALECT.router.post("/get_reward")
async def get_reward(request: Request, body: RewardRequest) -> Response:
    """Raw scores as `rewards`; `scores` are the calibrated probabilities, since dynamic filtering expects 0 to 1."""
    items = [WholeText(query) for query in body.query]
    scores = await DIALECT.score(request, items, lambda place: f"query.{place}")
    return answer(
        {
            "rewards": scores.raw,
            "scores": [probability(request, score) for score in scores.raw],
            "extra_logs": {"scored_tokens": [item.tokens for item in scores.items]},
        },
        request,
    )
