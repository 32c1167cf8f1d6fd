"""The native API: score, compare, rank, model."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel
from pydantic_core import to_json

from service.api.context import Context, aside, context_of
from service.api.decoding import StrictRoute
from service.api.errors import FieldName, Part
from service.api.items import measured
from service.api.schemas import (
    CompareReply,
    CompareRequest,
    ComparisonResult,
    ErrorReply,
    FailureBody,
    ItemFailure,
    LimitsReply,
    ModelName,
    ModelReply,
    Options,
    PrecisionCheck,
    RankReply,
    RankRequest,
    ScoreReply,
    ScoreRequest,
    Timing,
    Usage,
)
from service.api.scoring import deadline_of, score_items
from service.bundle.calibration import Scale
from service.bundle.manifest import UNCERTAINTY
from service.bundle.text_format import Truncation
from service.observability.tracing import span
from service.scoring.errors import DeadlineExceededError
from service.scoring.items import Item
from service.scoring.scorer import ItemResult, Scores, Wishes

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply, "description": description}
    for status, description in {
        400: "The body is not JSON.",
        401: "A key is needed.",
        409: "Another model is served than the one pinned.",
        413: "The body or the list of items is too large.",
        415: "The content type is not JSON.",
        422: "A field is missing, unknown, of the wrong type, empty or too long.",
        429: "The queue is full; Retry-After says when to come back.",
        500: "The model gave a score that is not finite.",
        503: "Not ready, draining, or the batch failed; try again.",
        504: "The time for the request was up.",
    }.items()
}
_ITEM_BYTES, _NUMBER_BYTES = 128, 20
"""What an item's details and scores, and one number, take in a reply at most, about."""

router = APIRouter(prefix="/v1", route_class=StrictRoute, tags=["native"], responses=_ERRORS)


@router.post("/score", response_model=ScoreReply)
async def score(request: Request, body: ScoreRequest) -> Response:
    """Score prompt/response pairs, or many responses to one prompt; scores come back in the same order."""
    if body.pairs is not None:
        items = [measured(pair.prompt, [pair.response])[0] for pair in body.pairs]
        call = await _Call.score(request, items, _pair_field, body, body.on_error == "item")
    else:
        assert body.prompt is not None  # the schema saw to it
        assert body.responses is not None
        items = measured(body.prompt, body.responses)
        call = await _Call.score(request, items, _response_field, body, body.on_error == "item")
    scale = Scale(body.scale)

    def reply() -> ScoreReply:
        shown = [call.shown(result, scale) for result in call.scores.items]
        return ScoreReply(
            **call.common(), scale=body.scale, scores=shown, uncertainty=call.uncertainty(scale), heads=call.heads()
        )

    return await call.reply(reply)


@router.post("/compare", response_model=CompareReply)
async def compare(request: Request, body: CompareRequest) -> Response:
    """Which of two responses is preferred, with a calibrated probability."""
    items = [item for row in body.comparisons for item in measured(row.prompt, [row.response_a, row.response_b])]
    call = await _Call.score(request, items, _comparison_field, body)
    raw = call.scores.raw
    calibration = call.context.scorer.bundle.manifest.calibration

    def reply() -> CompareReply:
        results = [
            ComparisonResult(
                preferred="a" if a > b else "b" if b > a else "tie",
                probability=calibration.preference(a, b),
                margin=a - b,
                score_a=a,
                score_b=b,
            )
            for a, b in zip(raw[::2], raw[1::2], strict=True)
        ]
        return CompareReply(**call.common(), comparisons=results)

    return await call.reply(reply)


@router.post("/rank", response_model=RankReply)
async def rank(request: Request, body: RankRequest) -> Response:
    """Put the responses to one prompt in order, with all pairwise probabilities."""
    items = measured(body.prompt, body.responses)
    call = await _Call.score(request, items, _response_field, body)
    raw = call.scores.raw
    temperature = call.context.scorer.bundle.manifest.calibration.temperature

    def reply() -> RankReply:
        order = sorted(range(len(raw)), key=lambda place: -raw[place])
        return RankReply(**call.common(), order=order, scores=raw, win_probabilities=[])

    # Row by row: a thousand responses make a million probabilities.
    return await call.reply(reply, "win_probabilities", lambda: _preferences(raw, temperature))


@router.get("/model")
async def model(request: Request) -> ModelReply:
    """What is served: identity, precision, execution provider, limits, calibration, evaluation, provenance."""
    context = context_of(request)
    manifest, settings = context.scorer.bundle.manifest, context.settings
    return ModelReply(
        model=_model_name(context),
        family=manifest.family,
        base_model=manifest.base_model,
        licence=manifest.licence,
        max_tokens=manifest.max_tokens,
        precision=context.runner.session.precision,
        provider=context.runner.session.provider,
        nodes=context.runner.session.placement.nodes,
        precision_gate=None if context.gate is None else asdict(context.gate),
        precision_check=_precision_check(context),
        deterministic=settings.deterministic,
        heads=list(manifest.heads),
        text_format_sha256=manifest.text_format_sha256,
        layout_version=manifest.layout_version,
        calibration=manifest.calibration.model_dump(mode="json"),
        evaluation=dict(manifest.evaluation),
        provenance=manifest.provenance.model_dump(mode="json"),
        limits=LimitsReply(
            body_bytes=settings.max_body_bytes,
            items_per_request=settings.max_items,
            responses_per_ranking=settings.ranked_items,
            tokens_per_item=manifest.max_tokens,
            queue_items=settings.queue_items,
            queue_tokens=settings.queue_tokens_for(manifest.max_tokens),
        ),
        server_version=context.version,
    )


class _Call:
    """One scoring call: its scores, and the parts that every reply has."""

    def __init__(self, context: Context, scores: Scores, began: float, deadline: float) -> None:
        self.context = context
        self.scores = scores
        self._began = began
        self._deadline = deadline

    @classmethod
    async def score(
        cls, request: Request, items: Sequence[Item], field_name: FieldName, options: Options,
        per_item_failures: bool = False,
    ) -> "_Call":  # fmt: skip
        """Score the items of a request.

        Raises:
            ApiError, ScoringError, ClientGoneError: see `service.api.scoring.score_items`.
        """
        deadline = deadline_of(request, options.timeout_ms)
        wishes = Wishes(
            truncate=None if options.truncate is None else Truncation(options.truncate),
            allow_empty=options.allow_empty,
            deadline=deadline,
            model_digest=options.model_digest,
            per_item_failures=per_item_failures,
        )
        scores = await score_items(request, items, wishes, field_name)
        return cls(context_of(request), scores, request.state.began, deadline)

    def common(self) -> dict[str, Any]:
        """Model, details, usage and timing."""
        scores = self.scores
        return {
            "model": _model_name(self.context),
            "details": [
                {"tokens": item.tokens, "truncated": item.removed > 0, "tokens_removed": item.removed}
                for item in scores.items
            ],
            "usage": Usage(
                items=len(scores.items),
                tokens=sum(item.tokens for item in scores.items),
                computed_tokens=scores.computed_tokens,
            ),
            "timing": Timing(
                total_ms=(time.monotonic() - self._began) * 1000,
                tokenize_ms=scores.tokenize_seconds * 1000,
                queue_ms=scores.queue_seconds * 1000,
                infer_ms=scores.infer_seconds * 1000,
            ),
        }

    def shown(self, result: ItemResult, scale: Scale) -> float | ItemFailure:
        """A score on the caller's scale, or the failure in its place: never null and never a made-up number."""
        if isinstance(result.score, float):
            return self.context.scorer.bundle.manifest.calibration.rescale(result.score, scale)
        return ItemFailure(error=FailureBody(code="nonfinite_score", message=str(result.score)))

    def uncertainty(self, scale: Scale) -> list[float | None] | None:
        """How far the members of an ensemble disagree on each item, on the caller's scale; None of other models."""
        manifest = self.context.scorer.bundle.manifest
        if UNCERTAINTY not in manifest.heads:
            return None
        place = manifest.heads.index(UNCERTAINTY)
        return [
            manifest.calibration.rescale_deviation(item.score, item.heads[place], scale)
            if isinstance(item.score, float)
            else None
            for item in self.scores.items
        ]

    def heads(self) -> dict[str, list[float | None]] | None:
        """Raw scores of the heads behind the reward, by name; None of a model with one head."""
        names = self.context.scorer.bundle.manifest.heads
        if len(names) == 1:
            return None
        return {
            name: [item.heads[place] if isinstance(item.score, float) else None for item in self.scores.items]
            for place, name in enumerate(names)
            if place and name != UNCERTAINTY
        }

    async def reply(
        self, build: Callable[[], BaseModel], long_field: str | None = None,
        rows: Callable[[], Iterable[list[float]]] = lambda: (),
    ) -> Response:  # fmt: skip
        """The reply; every number in it is finite, since JSON has no other.

        Args:
            build: makes the body.
            long_field: a field that `build` leaves empty, if it is to be written from `rows`.
            rows: of that field.

        Raises:
            DeadlineExceededError: the time was up before it could be written.
        """

        def write() -> bytes:
            if time.monotonic() >= self._deadline:
                raise DeadlineExceededError("the time for this request was up before its reply could be written")
            began = time.perf_counter()
            # What is none is a field that this model does not have.
            exclude = None if long_field is None else {long_field}
            content = build().model_dump_json(exclude=exclude, exclude_none=True).encode()
            if long_field is not None:
                # One call for all of them would hold the interpreter's lock, and with it every probe, until it is done.
                table = b",".join(map(to_json, rows()))
                content = b'%b,"%b":[%b]}' % (content[:-1], long_field.encode(), table)
            self.context.metrics.stage_duration.labels("serialize").observe(time.perf_counter() - began)
            return content

        items = len(self.scores.items)
        heads = len(self.context.scorer.bundle.manifest.heads)
        size = items * (_ITEM_BYTES + _NUMBER_BYTES * heads if long_field is None else _NUMBER_BYTES * items)
        with span("serialize"):
            content = await aside(self.context.reply_thread, size, write)
        digest = self.context.scorer.bundle.digest
        return Response(content, media_type="application/json", headers={"X-Assay-Model-Digest": digest})


def _precision_check(context: Context) -> PrecisionCheck:
    if context.gate is not None:
        return "passed"
    return "not_needed" if context.runner.session.precision == "fp32" else "not_checked"


def _response_field(place: int, part: Part) -> str:
    return "prompt" if part == "prompt" else f"responses.{place}"


def _pair_field(place: int, part: Part) -> str:
    return f"pairs.{place}.{part}"


def _comparison_field(place: int, part: Part) -> str:
    name = "prompt" if part == "prompt" else ("response_a", "response_b")[place % 2]
    return f"comparisons.{place // 2}.{name}"


def _preferences(raw: Sequence[float], temperature: float) -> Iterator[list[float]]:
    """Probability that each is preferred to each: `Calibration.preference`, a row at a time."""
    scores = np.array(raw)
    for score in raw:
        with np.errstate(over="ignore"):  # to 1 / (1 + inf), which is the 0 that it should be
            row: list[float] = (1 / (1 + np.exp((scores - score) / temperature))).tolist()
        yield row


def _model_name(context: Context) -> ModelName:
    bundle = context.scorer.bundle
    return ModelName(name=bundle.manifest.name, digest=bundle.digest)
