"""All dialects by name, and how an application takes them in."""

from collections.abc import Collection, Iterator

from fastapi import FastAPI
from fastapi.routing import APIRoute

from service.api.dialects import kserve, llamafactory, nemogym, openrlhf, sglang, slime, swift, tei, vllm
from service.api.dialects.dialect import Dialect

DIALECTS: dict[str, Dialect] = {
    module.DIALECT.name: module.DIALECT
    for module in (openrlhf, vllm, sglang, tei, slime, llamafactory, swift, kserve, nemogym)
}


_ERRORS: dict[int | str, dict[str, object]] = {
    status: {"description": f"{who}, in the words of the dialect."}
    for status, who in (("4XX", "What is wrong with the request"), ("5XX", "Why the server cannot answer"))
}


def install_dialects(app: FastAPI, names: Collection[str], root: str | None) -> Iterator[tuple[str, str]]:
    """Add the routes of dialects, each under its name.

    Args:
        app: that has its own routes already; where a path of the root is one of those, it stays the application's own.
        names: keys of `DIALECTS`.
        root: the one whose routes are at the root too, for callers that take a host and a port only.

    Yields:
        Path and method of every route that was added.
    """
    prefixes = [(DIALECTS[name], f"/{name}") for name in names] + ([(DIALECTS[root], "")] if root else [])
    for dialect, prefix in prefixes:
        app.include_router(dialect.router, prefix=prefix, include_in_schema=bool(prefix), responses=_ERRORS)
        for route in dialect.routes:
            assert isinstance(route, APIRoute)
            yield from ((prefix + route.path, method) for method in sorted(route.methods or ()))
