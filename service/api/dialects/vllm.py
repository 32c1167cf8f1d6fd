"""vLLM's pooling routes: /classify, /pooling, /score and /rerank. verl calls the first one.

Scores are raw unless `use_activation` is true: vLLM's own default would put them through a sigmoid. verl never repeats
a 4xx and repeats a 5xx, so that a full queue is a 503 here.
"""

import base64
import struct
import time
import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import Request, Response
from pydantic import Field, StrictInt

from service.api.context import context_of
from service.api.dialects.chat import Turns, conversation
from service.api.dialects.dialect import (
    Dialect,
    Open,
    Texts,
    TokenLists,
    Tokens,
    answer,
    check_model,
    known_tokens,
    model_name,
    sigmoid,
    usage,
)
from service.api.errors import ApiError, Failure
from service.api.health import ready
from service.api.items import measured
from service.api.schemas import Text
from service.bundle.text_format import Side, Truncation
from service.scoring.items import AnyItem, Item, WholeText, WholeTokens
from service.scoring.scorer import Scores


def _error_shape(failure: Failure) -> object:
    kind = "NotFoundError" if failure.status == 404 else "BadRequestError"
    if failure.status >= 500:
        kind = "ServiceUnavailableError" if failure.status == 503 else "InternalServerError"
    error = {"message": failure.message, "type": kind, "param": failure.field, "code": failure.status}
    return {"error": error}


DIALECT = Dialect("vllm", _error_shape, {422: 400, 429: 503})


class Options(Open):
    """What all of its requests may ask for."""

    model: str | None = Field(None, description="Must be the served model's name, or one of the model_aliases.")
    use_activation: bool | None = Field(None, description="Put the score through a sigmoid.")
    truncate_prompt_tokens: Annotated[StrictInt, Field(ge=-1)] | None = Field(
        None,
        description="-1 or the model's length: cut what is longer. Without it a text that is too long is an error.",
    )
    truncation_side: Literal["left", "right"] | None = Field(None, description="The side that is cut; left by default.")
    request_id: str | None = None


class TextsRequest(Options):
    """Texts, token ids, or one conversation that ends in the assistant's turn."""

    input: Text | Texts | Tokens | TokenLists | None = None
    messages: Turns | None = None
    add_special_tokens: bool | None = Field(
        None, description="By default true for texts; tokens are taken as they are."
    )
    task: str | None = Field(None, description="Of /pooling: classify, or nothing.")
    encoding_format: Literal["float", "base64"] = "float"
    chat_template: Any = Field(None, description="Refused, like the other fields that would change what is scored.")
    chat_template_kwargs: Any = None
    add_generation_prompt: Any = None
    continue_final_message: Any = None
    normalize: Any = None


_REFUSED = (
    "chat_template", "chat_template_kwargs", "add_generation_prompt", "continue_final_message", "normalize",
)  # fmt: skip


@DIALECT.router.post("/classify")
async def classify(request: Request, body: TextsRequest) -> Response:
    """One label whose `probs` hold the score."""
    scores = await _score_texts(request, body)
    data = [
        {"index": place, "label": "LABEL_0", "probs": [score], "num_classes": 1}
        for place, score in enumerate(_activated(scores, body))
    ]
    return answer({**_head("classify", "list", request, body), "data": data, "usage": _usage(scores)}, request)


@DIALECT.router.post("/pooling")
async def pooling(request: Request, body: TextsRequest) -> Response:
    """The score as a vector of one number."""
    if body.task not in (None, "classify"):
        raise ApiError(
            422, "invalid", f"the task {body.task!r} needs scores of tokens; this model scores texts", "task"
        )
    scores = await _score_texts(request, body)
    data = [
        {"index": place, "object": "pooling", "data": _encoded([score], body.encoding_format)}
        for place, score in enumerate(_activated(scores, body))
    ]
    return answer({**_head("pool", "list", request, body), "data": data, "usage": _usage(scores)}, request)


OneOrMore = Text | Texts


class SidesRequest(Options):
    """Pairs of prompt and response: one to many, or one to one."""

    queries: OneOrMore | None = None
    text_1: OneOrMore | None = None
    data_1: OneOrMore | None = None
    documents: OneOrMore | None = None
    items: OneOrMore | None = None
    text_2: OneOrMore | None = None
    data_2: OneOrMore | None = None


@DIALECT.router.post("/score")
@DIALECT.router.post("/v1/score")
async def score(request: Request, body: SidesRequest) -> Response:
    """Scores of pairs, in order."""
    firsts = _given(body, "queries", "text_1", "data_1")
    seconds = _given(body, "documents", "items", "text_2", "data_2")
    if len(firsts) == 1:
        firsts = firsts * len(seconds)
    if len(firsts) != len(seconds):
        message = f"{len(firsts)} texts on one side and {len(seconds)} on the other; send one to many, or as many"
        raise ApiError(422, "invalid", message)
    items = [Item(first, second) for first, second in zip(firsts, seconds, strict=True)]
    _check(request, body)
    scores = await DIALECT.score(request, items, lambda place: f"pair {place}", truncate=_truncation(body))
    data = [{"index": place, "object": "score", "score": value} for place, value in enumerate(_activated(scores, body))]
    return answer({**_head("score", "list", request, body), "data": data, "usage": _usage(scores)}, request)


class DocumentsRequest(Options):
    """A prompt and its responses."""

    query: Text
    documents: Texts
    top_n: Annotated[StrictInt, Field(ge=0)] = Field(0, description="How many of the best; 0 for all.")


@DIALECT.router.post("/rerank")
@DIALECT.router.post("/v1/rerank")
@DIALECT.router.post("/v2/rerank")
async def rerank(request: Request, body: DocumentsRequest) -> Response:
    """The responses, best first."""
    _check(request, body)
    items = measured(body.query, body.documents)
    scores = await DIALECT.score(request, items, lambda place: f"documents.{place}", truncate=_truncation(body))
    values = _activated(scores, body)
    order = sorted(range(len(values)), key=lambda place: -values[place])[: body.top_n or None]
    results = [
        {"index": place, "document": {"text": body.documents[place]}, "relevance_score": values[place]}
        for place in order
    ]
    head = {"id": _identity("rerank", body), "model": body.model or model_name(request)}
    return answer({**head, "usage": _usage(scores), "results": results}, request)


@DIALECT.router.get("/health")
async def health(request: Request) -> Response:
    """200 while requests are taken."""
    return await ready(request)


async def _score_texts(request: Request, body: TextsRequest) -> Scores:
    if (body.input is None) == (body.messages is None):
        raise ApiError(422, "invalid", "send either input or messages", "input")
    _check(request, body)
    for name in _REFUSED:
        if getattr(body, name):
            message = "not done here: the model's own template and scale are used; leave it out"
            raise ApiError(422, "invalid", message, name)
    cut = None if body.truncate_prompt_tokens is None else Side(body.truncation_side or "left")
    if body.messages is not None:
        item = conversation(body.messages)
        return await DIALECT.score(request, [item], lambda _: "messages", truncate=_truncation(body))
    items = _items(request, body.input, body.add_special_tokens, cut)
    if not items:
        raise ApiError(422, "invalid", "the list is empty; send at least one text", "input")
    return await DIALECT.score(
        request, items, lambda place: "input" if isinstance(body.input, str) else f"input.{place}"
    )


def _items(request: Request, given: Any, special: bool | None, cut: Side | None) -> list[AnyItem]:
    """Of one text or more, or of the token ids of one or more."""
    if isinstance(given, str) or (given and isinstance(given[0], int)):
        given = [given]
    items: list[AnyItem] = []
    for place, one in enumerate(given):
        if isinstance(one, str):
            items.append(WholeText(one, framed=special is not False, cut=cut))
        else:
            items.append(WholeTokens(known_tokens(request, one, f"input.{place}"), cut=cut))
    return items


def _check(request: Request, body: Options) -> None:
    """The model's name, and a length to cut to that can be had."""
    context = context_of(request)
    check_model(request, body.model)
    limit, length = context.scorer.bundle.manifest.max_tokens, body.truncate_prompt_tokens
    if length is not None and length != -1 and length < limit:
        message = f"texts can be cut to the model's {limit} tokens alone; send -1"
        raise ApiError(422, "invalid", message, "truncate_prompt_tokens")


def _truncation(body: Options) -> Truncation | None:
    """What may be cut of a prompt and a response apart."""
    if body.truncate_prompt_tokens is None:
        return None
    return Truncation.RESPONSE_RIGHT if body.truncation_side == "right" else Truncation.PROMPT_LEFT


def _given(body: SidesRequest, *names: str) -> list[str]:
    found = [(name, value) for name in names if (value := getattr(body, name)) is not None]
    if len(found) != 1:
        raise ApiError(422, "invalid", f"send one of {', '.join(names)}", names[0])
    value = found[0][1]
    return [value] if isinstance(value, str) else list(value)


def _activated(scores: Scores, body: Options) -> list[float]:
    return [sigmoid(score) for score in scores.raw] if body.use_activation else scores.raw


def _encoded(values: Sequence[float], encoding: str) -> list[float] | str:
    if encoding == "float":
        return list(values)
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()


def _identity(kind: str, body: Options) -> str:
    return f"{kind}-{body.request_id or uuid.uuid4().hex}"


def _head(kind: str, what: str, request: Request, body: Options) -> dict[str, Any]:
    model = body.model or model_name(request)
    return {"id": _identity(kind, body), "object": what, "created": int(time.time()), "model": model}


def _usage(scores: Scores) -> dict[str, Any]:
    return {**usage(scores), "prompt_tokens_details": None}
