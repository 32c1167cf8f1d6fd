"""The client for asyncio programs. All behaviour is here; the synchronous client only drives it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from assay_client.batching import gather, halving, items_allowed, split
from assay_client.calls import Call, poll_ready, send
from assay_client.connection import Connection
from assay_client.decoding import (
    decode_comparisons,
    decode_model,
    decode_ranking,
    decode_scores,
    join_comparisons,
    join_scores,
)
from assay_client.encoding import Options, Request, compare_request, responses_request, score_pairs_request
from assay_client.errors import AssayError, TooLargeError
from assay_client.failures import shift_items
from assay_client.settings import DEFAULT_TIMEOUT_S, Settings, check_timeout
from assay_client.types import Comparisons, Limits, ModelInfo, Prompt, Ranking, Scale, Scores, Truncate

Reply = TypeVar("Reply", Scores, Comparisons, Ranking)
T = TypeVar("T")


class AsyncRewardClient:
    """Scores texts with an Assay server: every score, in order, or an `AssayError`.

    `base_url` is by default ASSAY_URL or http://127.0.0.1:8000; several servers of one model are a list, or in the
    variable separated by commas, and dns+http://host:port stands for all addresses of the host. `api_key` is
    ASSAY_API_KEY, or what the file named by ASSAY_API_KEY_FILE holds. `timeout` is the
    deadline in seconds of a whole call with all its parts and retries. `max_concurrency` bounds the requests
    in flight, `max_items` the items of one request (by default what the server allows). With `model_digest`
    any other model is refused. `retries` bounds the repeats of a request after faults of the server (500, a reply
    that breaks off); the deadline alone bounds those after refusals. With 0 nothing is repeated.

    One client for the life of a process is best: it keeps connections open. It may follow its user into a
    forked child or another event loop, where it connects anew, but serves one loop at a time.
    """

    def __init__(
        self,
        base_url: str | Sequence[str] | None = None,
        *,
        api_key: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        max_concurrency: int = 16,
        max_items: int | None = None,
        model_digest: str | None = None,
        retries: int = 5,
    ) -> None:
        self._settings = Settings.resolve(
            base_url,
            api_key=api_key,
            timeout=timeout,
            max_concurrency=max_concurrency,
            max_items=max_items,
            model_digest=model_digest,
            retries=retries,
        )
        self._connection: Connection | None = None
        self._limits: Limits | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({','.join(self._settings.base_urls)!r})"

    async def score(
        self,
        prompt: Prompt,
        responses: Iterable[str],
        *,
        scale: Scale = "raw",
        truncate: Truncate | None = None,
        allow_empty: bool = False,
        timeout: float | None = None,
    ) -> Scores:
        """Score several responses to one prompt; the server computes the prompt once per request."""
        options = self._options(scale, truncate, allow_empty)
        request = responses_request("/v1/score", prompt, responses, options)
        return await self._split_call(request, options, decode_scores, join_scores, timeout)

    async def score_pairs(
        self,
        pairs: Iterable[tuple[Prompt, str]],
        *,
        scale: Scale = "raw",
        truncate: Truncate | None = None,
        allow_empty: bool = False,
        timeout: float | None = None,
    ) -> Scores:
        """Score (prompt, response) tuples. Pairs of one prompt belong together: it is then computed once."""
        options = self._options(scale, truncate, allow_empty)
        request = score_pairs_request(pairs, options)
        return await self._split_call(request, options, decode_scores, join_scores, timeout)

    async def compare(
        self,
        comparisons: Iterable[tuple[Prompt, str, str]],
        *,
        truncate: Truncate | None = None,
        allow_empty: bool = False,
        timeout: float | None = None,
    ) -> Comparisons:
        """Tell for each (prompt, response a, response b) which response is preferred, and how surely."""
        options = self._options(None, truncate, allow_empty)
        request = compare_request(comparisons, options)
        # The server's limits count texts, and a comparison has two.
        return await self._split_call(request, options, decode_comparisons, join_comparisons, timeout, texts=2)

    async def rank(
        self,
        prompt: Prompt,
        responses: Iterable[str],
        *,
        truncate: Truncate | None = None,
        allow_empty: bool = False,
        timeout: float | None = None,
    ) -> Ranking:
        """Order the responses to one prompt, best first. One request: too many raise `TooLargeError`."""
        options = self._options(None, truncate, allow_empty)
        request = responses_request("/v1/rank", prompt, responses, options)
        return await self._split_call(request, options, decode_ranking, None, timeout)

    async def model(self, *, timeout: float | None = None) -> ModelInfo:
        """Return what is loaded, and the server's limits."""
        return await self._within_deadline(timeout, self._ask_model)

    async def wait_until_ready(self, timeout: float = 300.0) -> None:
        """Return once the server is ready; raises `DeadlineExceededError` after `timeout` seconds."""
        await self._within_deadline(timeout, poll_ready)

    async def close(self) -> None:
        """Close the connections. A closed client stays closed."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _options(self, scale: Scale | None, truncate: Truncate | None, allow_empty: bool) -> Options:
        return Options(scale, truncate, allow_empty, self._settings.model_digest)

    async def _within_deadline(self, timeout: float | None, work: Callable[[Connection, Call], Awaitable[T]]) -> T:
        """Run `work` under one deadline; an `AssayError` that leaves knows its request, attempts and time."""
        timeout = self._settings.timeout if timeout is None else timeout
        check_timeout(timeout)
        call = Call(timeout, self._settings.model_digest)
        try:
            async with asyncio.timeout(timeout):
                return await work(await self._connected(), call)
        except AssayError as error:
            self._doubt_limits(error)
            call.complete(error)
            raise
        except TimeoutError:
            raise call.deadline_error() from call.last_failure

    async def _split_call(
        self,
        request: Request,
        options: Options,
        decode: Callable[[bytes, int, Options], Reply],
        join: Callable[[Sequence[Reply]], Reply] | None,
        timeout: float | None,
        texts: int = 1,
    ) -> Reply:
        """Send a request in parts and join their replies; without `join` it goes whole or not at all."""

        async def part(connection: Connection, call: Call, span: range, request_id: str) -> Reply:
            try:
                body = await send(
                    connection,
                    call,
                    "POST",
                    request.path,
                    request_id=request_id,
                    retries=self._settings.retries,
                    body=lambda timeout_ms: request.body(span, timeout_ms),
                )
                reply = decode(body, len(span), options)
                call.check_digest(reply.model.digest)
            except AssayError as error:
                self._doubt_limits(error)
                error.request_id = error.request_id or request_id
                shift_items(error, span.start)
                raise
            return reply

        async def parts(connection: Connection, call: Call) -> Reply:
            limits = await self._server_limits(connection, call)
            allowed = items_allowed(limits, texts=texts, whole=join is None)
            max_items = min(allowed, self._settings.max_items or allowed)
            spans = split(
                [len(item) for item in request.items],
                max_items=max_items,
                max_bytes=limits.body_bytes - request.fixed_bytes,
                name=request.list_name,
            )
            if join is None and len(spans) > 1:
                raise TooLargeError(
                    f"{len(request.items)} {request.list_name} must go in one request, which may hold "
                    f"{max_items} of them and {limits.body_bytes} bytes",
                    field=request.list_name,
                )
            send_part = partial(part, connection, call)
            if join is None:
                return await send_part(spans[0], f"{call.request_id}-0")
            work = [halving(span, f"{call.request_id}-{i}", send_part) for i, span in enumerate(spans)]
            # Most calls are one part, and need no task of its own: there may be thousands of them at once.
            replies = [await work[0]] if len(work) == 1 else await gather(work)
            found = [reply for of_span in replies for reply in of_span]
            return found[0] if len(found) == 1 else join(found)

        return await self._within_deadline(timeout, parts)

    def _doubt_limits(self, error: AssayError) -> None:
        if isinstance(error, TooLargeError):
            self._limits = None  # They may have changed: ask again next time.

    async def _connected(self) -> Connection:
        if self._closed:
            raise RuntimeError("the client is closed")
        former = self._connection
        if former is not None and former.belongs_here():
            return former
        if former is not None:
            former.require_idle()
        self._connection = fresh = Connection(self._settings)
        if former is not None:
            await former.close()
        return fresh

    async def _ask_model(self, connection: Connection, call: Call) -> ModelInfo:
        retries = self._settings.retries
        body = await send(connection, call, "GET", "/v1/model", request_id=call.request_id, retries=retries)
        info = decode_model(body)
        self._limits = info.limits
        if self._settings.model_digest is not None:
            call.check_digest(info.model.digest)
        return info

    async def _server_limits(self, connection: Connection, call: Call) -> Limits:
        if self._limits is not None:
            return self._limits
        async with connection.limits_lock:
            if self._limits is None:
                return (await self._ask_model(connection, call)).limits
            return self._limits
