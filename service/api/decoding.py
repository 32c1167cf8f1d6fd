"""JSON from bytes, strictly: what the standard decoder lets through (NaN, lone surrogates) is refused here."""

import time
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.requests import ClientDisconnect

from service.api.context import ClientGoneError, context_of
from service.api.errors import ApiError


class StrictRequest(Request):
    """A request whose body must be standard JSON in UTF-8."""

    async def json(self) -> Any:
        """The decoded body.

        Raises:
            ApiError: 400 for anything that is not standard JSON.
        """
        body = await self.body()
        began = time.perf_counter()
        context = context_of(self)
        try:
            content = from_json(body, allow_inf_nan=False)
        except ValueError as error:
            raise ApiError(400, "invalid_json", f"the body is not valid JSON: {error}") from None
        finally:
            context.metrics.stage_duration.labels("parse").observe(time.perf_counter() - began)
        _require_short_lists(content, context.settings.max_items)
        return content


class StrictRoute(APIRoute):
    """A route that decodes with `StrictRequest` and takes JSON only."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, wrapped."""
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            strict_request = StrictRequest(request.scope, request.receive)
            if request.method == "POST":
                _require_json(request)
                try:
                    await strict_request.body()
                except ClientDisconnect:  # FastAPI would call it a bad request
                    raise ClientGoneError from None
            return await handle(strict_request)

        return strict


def _require_short_lists(content: Any, max_items: int) -> None:
    """Refuse lists of too many items before they are validated one by one, which for a million takes seconds."""
    if not isinstance(content, dict):
        return
    for name, texts_of_each in (("pairs", 1), ("responses", 1), ("comparisons", 2)):
        value = content.get(name)
        if isinstance(value, list) and (items := len(value) * texts_of_each) > max_items:
            raise ApiError(
                413, "too_many_items", f"{items} items, more than the {max_items} of one request; split them", name
            )


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
