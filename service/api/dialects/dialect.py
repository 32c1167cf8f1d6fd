"""What the dialects share: other systems' wire formats, each a thin translation onto the same scorer."""

import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StrictInt
from starlette.routing import BaseRoute

from service.api.context import context_of
from service.api.decoding import StrictRoute
from service.api.errors import ApiError, ErrorShape, Failure, Part
from service.api.schemas import Text
from service.api.scoring import deadline_of, score_items
from service.bundle.calibration import Scale
from service.bundle.text_format import Truncation
from service.scoring.errors import TooManyTokensError
from service.scoring.items import AnyItem, Item
from service.scoring.scorer import Scores, Wishes

Texts = Annotated[list[Text], Field(fail_fast=True)]
Tokens = Annotated[list[StrictInt], Field(min_length=1, fail_fast=True)]
TokenLists = Annotated[list[Tokens], Field(fail_fast=True)]
"""With the first fault as the only one: an error for each of a million values takes seconds to build."""


class Open(BaseModel):
    """A request that may have fields which its dialect knows and we need not."""

    model_config = ConfigDict(extra="ignore", frozen=True)


@dataclass(frozen=True)
class Dialect:
    """One wire format.

    Attributes:
        name: prefix of its paths, and what the settings call it.
        error_shape: the JSON of its errors.
        statuses: what its callers get in place of the API's own, by code or by status.
        hold_s: seconds in which a request waits for room in a full queue.
        timeout_s: seconds after which a request is answered, so that its caller has not given up; None leaves it to
            the server's own.
        untyped_bodies: its callers name no content type.
        router: of its paths, without the prefix.
    """

    name: str
    error_shape: ErrorShape
    statuses: Mapping[int | str, int] = field(default_factory=dict)
    hold_s: float = 0.0
    timeout_s: float | None = None
    untyped_bodies: bool = False
    router: APIRouter = field(init=False)

    def __post_init__(self) -> None:
        route = type("DialectRoute", (_DialectRoute,), {"dialect": self, "untyped_bodies": self.untyped_bodies})
        object.__setattr__(
            self, "router", APIRouter(route_class=route, tags=[self.name], strict_content_type=not self.untyped_bodies)
        )

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """Its routes, without the prefix."""
        return self.router.routes

    async def score(
        self, request: Request, items: Sequence[AnyItem], field_name: Callable[[int], str],
        truncate: Truncation | None = None,
    ) -> Scores:  # fmt: skip
        """Score the items of a request; there may be none.

        Args:
            request: whose body was read.
            items: in the order of the request.
            field_name: where in the body an item is.
            truncate: what may be cut of items whose prompt and response are apart.

        Raises:
            ApiError: too many items, or see `score_items`.
            ScoringError, ClientGoneError: see `score_items`.
        """
        most = context_of(request).settings.max_items
        if len(items) > most:
            raise ApiError(
                413, "too_many_items", f"{len(items)} items, more than the {most} of one request; split them"
            )
        if not items:
            return Scores([], 0, 0.0, 0.0, 0.0)
        deadline = deadline_of(request, None if self.timeout_s is None else 1000 * self.timeout_s)
        for place, item in enumerate(items):
            if not isinstance(item, Item) and not item.size:
                raise ApiError(422, "empty_text", "the text is empty", field_name(place))
        # Policies do end at once: an empty response is scored, as an empty text of both is not.
        wishes = Wishes(truncate=truncate, allow_empty=True, deadline=deadline)

        def name(place: int, _: Part) -> str:
            return field_name(place)

        try:
            return await score_items(request, items, wishes, name, self.hold_s)
        except TooManyTokensError as error:  # without the native API's advice
            raise TooManyTokensError(f"{str(error).partition(';')[0]}; shorten it", error.item) from error


class _DialectRoute(StrictRoute):
    """A route that answers errors as its dialect does."""

    dialect: Dialect

    def get_route_handler(self) -> Callable[[Request], Coroutine[object, object, Response]]:
        """The handler, wrapped."""
        handle = super().get_route_handler()

        async def in_dialect(request: Request) -> Response:
            request.state.error_shape = self.dialect.error_shape
            request.state.statuses = self.dialect.statuses
            return await handle(request)

        return in_dialect


def answer(content: object, request: Request, headers: dict[str, str] | None = None) -> JSONResponse:
    """A reply that also says which model gave it."""
    digest = context_of(request).scorer.bundle.digest
    return JSONResponse(content, headers={"X-Assay-Model-Digest": digest, **(headers or {})})


def probability(request: Request, score: float) -> float:
    """A raw score as the calibrated probability of being preferred to the average one."""
    return context_of(request).scorer.bundle.manifest.calibration.rescale(score, Scale.PROBABILITY)


def usage(scores: Scores) -> dict[str, int]:
    """Tokens as OpenAI's API counts them."""
    tokens = sum(item.tokens for item in scores.items)
    return {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}


def sigmoid(value: float) -> float:
    """1 / (1 + exp(-value)), which overflows for no value."""
    grown = math.exp(-abs(value))
    return 1 / (1 + grown) if value >= 0 else grown / (1 + grown)


def known_tokens(request: Request, ids: Sequence[int], field: str) -> tuple[int, ...]:
    """The token ids of an item.

    Raises:
        ApiError: one that the model has not.
    """
    vocabulary = context_of(request).scorer.bundle.formatter.tokenizer.vocabulary_size
    for token in ids:
        if not 0 <= token < vocabulary:
            message = f"{token} is no token of this model, which has those from 0 to {vocabulary - 1}"
            raise ApiError(422, "invalid", message, field)
    return tuple(ids)


def model_name(request: Request) -> str:
    """Name of the served model."""
    return context_of(request).scorer.bundle.manifest.name


def model_names(request: Request) -> tuple[str, ...]:
    """What the served model goes by, without the name that stands for any."""
    aliases = context_of(request).settings.model_aliases
    return (model_name(request), *(name for name in aliases if name != "*"))


def check_model(request: Request, name: str | None) -> None:
    """Refuse a request for another model; None asks for none.

    Raises:
        ApiError: 404.
    """
    names = model_names(request)
    if name is not None and name not in names and "*" not in context_of(request).settings.model_aliases:
        message = f"the model {name[:100]!r} is not served here, but {names[0]!r} (see the setting model_aliases)"
        raise ApiError(404, "not_found", message, "model")


def told(failure: Failure) -> str:
    """The message of a failure with the field at fault, for shapes that have no place for it."""
    return failure.message if failure.field is None else f"{failure.field}: {failure.message}"


def message_only(failure: Failure) -> object:
    """Errors of systems that have no shape for them."""
    return {"error": told(failure), "code": failure.code}
