"""LLaMA-Factory's reward model behind an API: `reward_model_type: api`, and the whole address as `reward_model`.

Its client has no timeout, repeats nothing and looks at no status, so that requests wait in place of being refused.
"""

import uuid
from typing import Annotated

from fastapi import Request, Response
from pydantic import Field, StrictInt

from service.api.context import context_of
from service.api.dialects.dialect import Dialect, Open, Texts, answer, message_only, model_name
from service.api.errors import ApiError
from service.bundle.text_format import Side
from service.scoring.items import WholeText

DIALECT = Dialect("llamafactory", message_only, {429: 503}, hold_s=3600, timeout_s=3600)


class EvaluationRequest(Open):
    """Texts to score."""

    model: str | None = Field(None, description='Not looked at: its client says "model".')
    messages: Texts = Field(description="Rendered prompt and response in one, special tokens spelled out.")
    max_length: Annotated[StrictInt, Field(ge=1)] | None = Field(
        None, description="With it, what is longer than the model takes is cut on the right."
    )


@DIALECT.router.post("/v1/score/evaluation")
async def evaluation(request: Request, body: EvaluationRequest) -> Response:
    """Raw scores, in order."""
    limit = context_of(request).scorer.bundle.manifest.max_tokens
    if body.max_length is not None and body.max_length < limit:
        message = f"texts can be cut to the model's {limit} tokens alone"
        raise ApiError(422, "invalid", message, "max_length")
    cut = None if body.max_length is None else Side.RIGHT
    items = [WholeText(text, cut=cut) for text in body.messages]
    scores = await DIALECT.score(request, items, lambda place: f"messages.{place}")
    return answer(
        {
            "id": f"scoreeval-{uuid.uuid4().hex}",
            "object": "score.evaluation",
            "model": model_name(request),
            "scores": scores.raw,
        },
        request,
    )
