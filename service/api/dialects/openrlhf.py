"""OpenRLHF's remote reward model: `--reward.remote_url http://HOST:PORT/openrlhf/get_reward`.

Its client sends the decoded text of prompt and response with special tokens kept, gives up after five failures one
second apart or 180 s, and sends empty lists to all servers but the first. So a request waits while the queue is full,
and is answered before the client has given up.
"""

from typing import Annotated, Any

from fastapi import Request, Response
from pydantic import Field

from service.api.context import context_of
from service.api.dialects.dialect import Dialect, Open, answer, message_only, probability
from service.api.errors import ApiError
from service.api.schemas import Text
from service.scoring.items import AnyItem, Item, WholeText

DIALECT = Dialect("openrlhf", message_only, {429: 503}, hold_s=150, timeout_s=160)


class RewardRequest(Open):
    """Texts to score, in order."""

    query: Annotated[list[Text], Field(description="Rendered prompt and response in one, special tokens spelled out.")]
    prompts: list[Text] | None = Field(
        None, description="The prompt that each query begins with, for models that read prompt and response apart."
    )
    labels: list[Any] | None = Field(None, description="Not looked at.")


@DIALECT.router.post("/get_reward")
async def get_reward(request: Request, body: RewardRequest) -> Response:
    """Raw scores as `rewards`; `scores` are the calibrated probabilities, since dynamic filtering expects 0 to 1."""
    prompts = body.prompts or [""] * len(body.query)
    if len(prompts) != len(body.query):
        message = f"{len(prompts)} prompts for {len(body.query)} queries; send one for each, or none"
        raise ApiError(422, "invalid", message, "prompts")
    apart = bool(context_of(request).scorer.bundle.manifest.text_format.middle)
    items = [_item(query, prompt if apart else "") for query, prompt in zip(body.query, prompts, strict=True)]
    scores = await DIALECT.score(request, items, lambda place: f"query.{place}")
    return answer(
        {
            "rewards": scores.raw,
            "scores": [probability(request, score) for score in scores.raw],
            "extra_logs": {"scored_tokens": [item.tokens for item in scores.items]},
        },
        request,
    )


def _item(query: str, prompt: str) -> AnyItem:
    """The text as it is, or cut in two behind its prompt."""
    if prompt and query.startswith(prompt):
        return Item(prompt, query[len(prompt) :])
    return WholeText(query)
