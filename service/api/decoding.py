"""From bytes to a valid request, strictly: what the standard decoder lets through (NaN, lone surrogates) is refused.

Both steps may take long for a large body, so that they are not the event loop's.
"""

import time
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect

from service.api.context import LARGE_BYTES, ClientGoneError, aside, context_of
from service.api.errors import ApiError, invalid
from service.api.schemas import RankRequest
from service.api.structure import refuse_too_many_values, refuse_wrong_structure
from service.observability.tracing import span


class StrictRequest(Request):
    """A request whose body must be standard JSON in UTF-8, and valid by a schema.

    Attributes:
        body_schema: of the body.
    """

    body_schema: type[BaseModel]

    async def json(self) -> Any:
        """The valid request; FastAPI takes an instance of the schema as it is. None where the body is `null`.

        Raises:
            ApiError: 400 for anything that is not standard JSON, 413 for too many items, 422 for a wrong field.
        """
        body = await self.body()
        context = context_of(self)
        began = time.perf_counter()
        try:
            settings = context.settings
            most = settings.ranked_items if issubclass(self.body_schema, RankRequest) else settings.max_items
            with span("parse"):
                return await aside(context.body_thread, len(body), lambda: _decode(body, self.body_schema, most))
        finally:
            context.metrics.stage_duration.labels("parse").observe(time.perf_counter() - began)


class StrictRoute(APIRoute):
    """A route that decodes with `StrictRequest` and takes JSON only.

    Attributes:
        untyped_bodies: take a body without a content type for JSON.
    """

    untyped_bodies = False

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, wrapped."""
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            strict_request = StrictRequest(request.scope, request.receive)
            if self.body_field is not None:
                schema = self.body_field.field_info.annotation
                assert isinstance(schema, type)
                assert issubclass(schema, BaseModel)
                strict_request.body_schema = schema
                if not (self.untyped_bodies and "content-type" not in request.headers):
                    _require_json(request)
                try:
                    await strict_request.body()
                except ClientDisconnect:  # FastAPI would call it a bad request
                    raise ClientGoneError from None
            return await handle(strict_request)

        return strict


def _decode(body: bytes, schema: type[BaseModel], max_items: int) -> BaseModel | None:
    if len(body) > LARGE_BYTES:
        refuse_too_many_values(body, max_items)
    try:
        content = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise ApiError(400, "invalid_json", f"the body is not valid JSON: {error}") from None
    if content is None:
        return None
    if not isinstance(content, dict):
        raise ApiError(422, "invalid", "the body must be a JSON object (its fields are listed under /docs)")
    if schema.model_config.get("extra") == "forbid":
        refuse_wrong_structure(content, schema, max_items)
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        raise invalid(error) from None


def _require_json(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise ApiError(
            415, "unsupported_media_type", f"the body is encoded as {encoding[:100]}; send it without Content-Encoding"
        )
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise ApiError(
            415, "unsupported_media_type",
            f"the content type is {kind[:100] or 'missing'}; send Content-Type: application/json",
        )  # fmt: skip
