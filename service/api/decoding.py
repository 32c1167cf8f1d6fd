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
        try:
            return from_json(body, allow_inf_nan=False)
        except ValueError as error:
            raise ApiError(400, "invalid_json", f"the body is not valid JSON: {error}") from None
        finally:
            context_of(self).metrics.stage_duration.labels("parse").observe(time.perf_counter() - began)


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


def _require_json(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise ApiError(
            415, "unsupported_media_type",
            f"the content type is {kind[:100] or 'missing'}; send Content-Type: application/json",
        )  # fmt: skip
