"""ms-swift's reward models: a chat completion whose content is the score.

Its client asks for the list of models first, takes any failure but a 400 for a broken connection, and waits a day.
"""

import time
import uuid

from fastapi import Request, Response

from service.api.dialects.chat import Turns, conversation
from service.api.dialects.dialect import Dialect, Open, answer, check_model, model_name, model_names, told, usage
from service.api.errors import Failure
from service.api.health import ready


def _error_shape(failure: Failure) -> object:
    return {"message": told(failure), "object": "error"}


DIALECT = Dialect(
    "swift", _error_shape, {404: 400, 413: 400, 415: 400, 422: 400, 429: 503}, hold_s=3600, timeout_s=3600
)


class CompletionRequest(Open):
    """A conversation that ends in the assistant's turn."""

    model: str | None = None
    messages: Turns


@DIALECT.router.post("/v1/chat/completions")
async def completion(request: Request, body: CompletionRequest) -> Response:
    """The raw score of the last turn, as a number where a text would be."""
    check_model(request, body.model)
    scores = await DIALECT.score(request, [conversation(body.messages)], lambda _: "messages")
    (score,) = scores.raw
    message = {"role": "assistant", "content": score, "tool_calls": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
    return answer(
        {
            "model": body.model or model_name(request),
            "choices": [choice],
            "usage": usage(scores),
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
        },
        request,
    )


@DIALECT.router.get("/v1/models")
async def models(request: Request) -> Response:
    """The one model, and the other names that it goes by."""
    created = int(time.time())
    data = [{"id": name, "object": "model", "created": created, "owned_by": "assay"} for name in model_names(request)]
    return answer({"object": "list", "data": data}, request)


@DIALECT.router.get("/health")
@DIALECT.router.get("/ping")
@DIALECT.router.post("/ping")
async def health(request: Request) -> Response:
    """200 while requests are taken."""
    return await ready(request)
