"""SGLang's native /classify, /v1/score, and /v1/embeddings as verl reads it.

Scores are raw. (SGLang's /v1/classify puts one label through a softmax, which is always 1; it is not imitated.)
"""

import uuid
from typing import Annotated, Any

from fastapi import Request, Response
from pydantic import Field, StrictInt

from service.api.dialects.dialect import (
    Dialect,
    Open,
    Texts,
    TokenLists,
    Tokens,
    answer,
    known_tokens,
    model_name,
    told,
    usage,
)
from service.api.errors import ApiError, Failure
from service.api.health import ready
from service.api.items import measured
from service.api.schemas import Text
from service.scoring.items import AnyItem, Item, WholeText, WholeTokens


def _error_shape(failure: Failure) -> object:
    return {"object": "error", "message": told(failure), "type": failure.code, "code": failure.status}


DIALECT = Dialect("sglang", _error_shape, {422: 400, 429: 503})

Pairs = Annotated[list[Annotated[list[Text], Field(min_length=2, max_length=2)]], Field(fail_fast=True)]


class ClassifyRequest(Open):
    """Rendered texts, pairs of prompt and response, or token ids."""

    text: Text | Texts | Pairs | None = None
    input_ids: Tokens | TokenLists | None = None
    rid: str | list[str] | None = None


@DIALECT.router.post("/classify")
@DIALECT.router.put("/classify")
async def classify(request: Request, body: ClassifyRequest) -> Response:
    """The score is `embedding[0]`; an object for one text, a list for a list."""
    if (body.text is None) == (body.input_ids is None):
        raise ApiError(422, "invalid", "send either text or input_ids", "text")
    given: Any = body.text if body.text is not None else body.input_ids
    field = "text" if body.text is not None else "input_ids"
    single = isinstance(given, str) or (field == "input_ids" and given and isinstance(given[0], int))
    parts = [given] if single else given
    items = [_item(request, part, field if single else f"{field}.{place}") for place, part in enumerate(parts)]
    scores = await DIALECT.score(request, items, lambda place: field if single else f"{field}.{place}")
    names = body.rid if isinstance(body.rid, list) and len(body.rid) == len(items) else [body.rid] * len(items)
    replies = [
        {
            "embedding": [score],
            "meta_info": {
                "id": name if isinstance(name, str) else uuid.uuid4().hex,
                "finish_reason": {"type": "length", "length": 0},
                "prompt_tokens": item.tokens,
                "e2e_latency": scores.queue_seconds + scores.infer_seconds,
            },
        }
        for name, score, item in zip(names, scores.raw, scores.items, strict=True)
    ]
    return answer(replies[0] if single else replies, request)


class EmbeddingsRequest(Open):
    """Rendered texts."""

    model: str | None = Field(None, description="Not looked at.")
    input: Text | Texts | Tokens


@DIALECT.router.post("/v1/embeddings")
async def embeddings(request: Request, body: EmbeddingsRequest) -> Response:
    """The score as an embedding of one number."""
    single = isinstance(body.input, str) or bool(body.input and isinstance(body.input[0], int))
    parts: list[Any] = [body.input] if single else list(body.input)
    items = [_item(request, part, "input") for part in parts]
    scores = await DIALECT.score(request, items, lambda place: "input" if single else f"input.{place}")
    data = [{"object": "embedding", "embedding": [score], "index": place} for place, score in enumerate(scores.raw)]
    model = body.model or model_name(request)
    return answer({"data": data, "model": model, "object": "list", "usage": usage(scores)}, request)


class QueryRequest(Open):
    """A prompt and its responses."""

    query: Text
    items: Text | Texts
    label_token_ids: list[StrictInt] | None = Field(None, description="Of language models; refused here.")
    apply_softmax: bool = False
    item_first: bool = False
    model: str | None = None


@DIALECT.router.post("/v1/score")
async def score(request: Request, body: QueryRequest) -> Response:
    """A list of one score for each item."""
    for name, asked in (
        ("label_token_ids", body.label_token_ids),
        ("apply_softmax", body.apply_softmax),
        ("item_first", body.item_first),
    ):
        if asked:
            raise ApiError(422, "invalid", "a reward model has one raw score and reads the prompt first", name)
    responses = [body.items] if isinstance(body.items, str) else body.items
    items = measured(body.query, responses)
    scores = await DIALECT.score(request, items, lambda place: f"items.{place}")
    content = {"scores": [[score] for score in scores.raw], "model": body.model or model_name(request)}
    return answer({**content, "usage": usage(scores), "object": "scoring"}, request)


@DIALECT.router.get("/health")
async def health(request: Request) -> Response:
    """200 while requests are taken."""
    return await ready(request)


def _item(request: Request, given: Any, field: str) -> AnyItem:
    """Of a text, of a pair of texts, or of token ids."""
    if isinstance(given, str):
        return WholeText(given)
    if isinstance(given[0], str):
        return Item(given[0], given[1])
    return WholeTokens(known_tokens(request, given, field))
