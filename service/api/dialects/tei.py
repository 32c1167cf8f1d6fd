"""Text Embeddings Inference's /predict and /rerank, for a model of one label.

Scores are raw unless `raw_scores` is given as false: TEI's own default would put them through a sigmoid. A text that is
too long is an error unless `truncate` is true.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import Request, Response
from pydantic import Field

from service.api.context import context_of
from service.api.dialects.dialect import Dialect, Open, Texts, answer, model_name, sigmoid, told
from service.api.errors import ApiError, Failure
from service.api.health import ready
from service.api.items import measured
from service.api.schemas import Text
from service.bundle.text_format import Side, Truncation
from service.scoring.items import AnyItem, Item, WholeText
from service.scoring.scorer import Scores


def _error_shape(failure: Failure) -> object:
    kind = {424: "Backend", 429: "Overloaded", 503: "Unhealthy", 504: "Backend"}.get(failure.status, "Validation")
    return {"error": told(failure), "error_type": "Empty" if failure.code == "empty_text" else kind}


DIALECT = Dialect("tei", _error_shape, {"empty_text": 400, "too_many_items": 422, "engine_failed": 424, 500: 424})

Parts = Annotated[list[Text], Field(min_length=1, max_length=2)]


class Options(Open):
    """What both of its requests may ask for."""

    truncate: bool | None = None
    truncation_direction: Literal["left", "right", "Left", "Right"] = "right"
    raw_scores: bool | None = None


class PredictRequest(Options):
    """A text; a text or pair in a list; or a list of such lists."""

    inputs: Text | Parts | Annotated[list[Parts], Field(min_length=1, fail_fast=True)]


@DIALECT.router.post("/predict")
async def predict(request: Request, body: PredictRequest) -> Response:
    """One prediction of the one label for each text or pair."""
    batch = bool(body.inputs) and isinstance(body.inputs[0], list)
    rows: list[Any] = list(body.inputs) if batch else [body.inputs]
    scores = await _score(request, [_item(row, body) for row in rows], "inputs", body)
    predictions = [[{"score": value, "label": "LABEL_0"}] for value in _shown(scores, body)]
    return answer(predictions if batch else predictions[0], request, _headers(scores))


class RankTextsRequest(Options):
    """A prompt and its responses."""

    query: Text
    texts: Texts
    return_text: bool = False


@DIALECT.router.post("/rerank")
async def rerank(request: Request, body: RankTextsRequest) -> Response:
    """The responses, best first."""
    if not body.texts:
        raise ApiError(422, "empty_text", "the list is empty; send at least one text", "texts")
    scores = await _score(request, measured(body.query, body.texts), "texts", body)
    values = _shown(scores, body)
    ranks = [
        {"index": place, "score": values[place], **({"text": body.texts[place]} if body.return_text else {})}
        for place in sorted(range(len(values)), key=lambda place: -values[place])
    ]
    return answer(ranks, request, _headers(scores))


@DIALECT.router.get("/info")
async def info(request: Request) -> Response:
    """What is served, and the limits."""
    context = context_of(request)
    manifest, settings = context.scorer.bundle.manifest, context.settings
    content = {
        "model_id": model_name(request),
        "model_sha": context.scorer.bundle.digest,
        "model_dtype": context.runner.session.precision,
        "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
        "max_input_length": manifest.max_tokens,
        "max_batch_tokens": settings.max_batch_tokens,
        "max_client_batch_size": settings.max_items,
        "max_concurrent_requests": settings.queue_items,
        "auto_truncate": False,
        "tokenization_workers": settings.tokenizer_threads,
        "version": context.version,
    }
    return answer(content, request)


@DIALECT.router.get("/health")
async def health(request: Request) -> Response:
    """200 while requests are taken."""
    return await ready(request)


async def _score(request: Request, items: Sequence[AnyItem], field: str, body: Options) -> Scores:
    left = body.truncation_direction.lower() == "left"
    side = Truncation.PROMPT_LEFT if left else Truncation.RESPONSE_RIGHT
    truncate = side if body.truncate else None
    return await DIALECT.score(request, items, lambda place: f"{field}.{place}", truncate=truncate)


def _item(row: str | list[str], body: PredictRequest) -> AnyItem:
    """Of a text, of a text in a list, or of a pair."""
    if isinstance(row, list) and len(row) == 2:
        return Item(row[0], row[1])
    text = row if isinstance(row, str) else row[0]
    return WholeText(text, cut=Side(body.truncation_direction.lower()) if body.truncate else None)


def _shown(scores: Scores, body: Options) -> list[float]:
    return [sigmoid(score) for score in scores.raw] if body.raw_scores is False else scores.raw


def _headers(scores: Scores) -> dict[str, str]:
    """Times in milliseconds."""
    times = {
        "tokenization": scores.tokenize_seconds,
        "queue": scores.queue_seconds,
        "inference": scores.infer_seconds,
    }
    return {
        "x-compute-tokens": str(sum(item.tokens for item in scores.items)),
        **{f"x-{name}-time": str(round(1000 * seconds)) for name, seconds in times.items()},
    }
