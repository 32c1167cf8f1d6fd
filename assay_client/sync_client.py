"""The client for ordinary programs: the asynchronous one, driven on a thread of its own."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

from assay_client.async_client import AsyncRewardClient
from assay_client.settings import DEFAULT_TIMEOUT_S, Settings
from assay_client.types import Comparisons, ModelInfo, Prompt, Ranking, Scale, Scores, Truncate

T = TypeVar("T")

_starting = threading.Lock()


def _renew_lock() -> None:
    global _starting
    _starting = threading.Lock()


# Another thread may have held the lock at the fork; in the child it does not exist to release it.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class _LoopThread:
    """A daemon thread that runs an event loop with an `AsyncRewardClient` in it.

    In a forked child the thread is gone and its frames are never freed. They refer to this object, so the
    parent's connections are not freed there either, which would disturb the parent (see `connection`).
    """

    def __init__(self, settings: Settings) -> None:
        self.pid = os.getpid()
        self._client = AsyncRewardClient(
            settings.base_urls,
            api_key=settings.api_key,
            timeout=settings.timeout,
            max_concurrency=settings.max_concurrency,
            max_items=settings.max_items,
            model_digest=settings.model_digest,
            retries=settings.retries,
        )
        self._guard = threading.Lock()
        self._stopped = False
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=self._run, args=(started,), name="assay-client", daemon=True)
        self._thread.start()
        self._loop, self._stop = started.result()

    def _run(self, started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
        async def until_stopped() -> None:
            stop = asyncio.Event()
            started.set_result((asyncio.get_running_loop(), stop))
            await stop.wait()
            await self._client.close()

        # On the way out `asyncio.run` cancels the calls that are still waiting, so no caller hangs.
        asyncio.run(until_stopped())

    def call(self, work: Callable[[AsyncRewardClient], Coroutine[Any, Any, T]]) -> T:
        """Run a method of the client on the loop and wait for it; an interrupt of the waiting cancels it."""
        future: Future[T] | None = None
        tasks: list[asyncio.Task[Any] | None] = []
        abandoned = False

        async def run() -> T:
            tasks.append(asyncio.current_task())
            if abandoned:
                raise asyncio.CancelledError
            return await work(self._client)

        def cancel() -> None:
            for task in tasks:
                if task is not None:
                    task.cancel()

        try:
            with self._guard:
                if self._stopped:
                    raise RuntimeError("the client is closed")
                future = asyncio.run_coroutine_threadsafe(run(), self._loop)
            return future.result()
        except CancelledError:
            raise RuntimeError("the client was closed during the call") from None
        except BaseException:
            # A signal's exception may come before `future` has its value, so the task is reached by another way.
            if future is None or not future.done():
                abandoned = True
                with suppress(RuntimeError):  # the loop has ended, and the calls with it
                    self._loop.call_soon_threadsafe(cancel)
            raise

    def close(self) -> None:
        """End the loop and its thread. Without effect in a forked child, where neither exists."""
        if self.pid != os.getpid():
            return
        with self._guard:
            if not self._stopped:
                self._stopped = True
                self._loop.call_soon_threadsafe(self._stop.set)
        # The garbage collector may call this on any thread, also on this one.
        if threading.current_thread() is not self._thread:
            self._thread.join()


class RewardClient:
    """Scores texts with an Assay server: every score, in order, or an `AssayError`.

    The same arguments and methods as `AsyncRewardClient`, for programs without an event loop. It may also be
    used inside a running loop (the call blocks it), from several threads, and in forked children.
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
        self._thread: _LoopThread | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({','.join(self._settings.base_urls)!r})"

    def score(
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
        return self._call(
            lambda client: client.score(
                prompt, responses, scale=scale, truncate=truncate, allow_empty=allow_empty, timeout=timeout
            )
        )

    def score_pairs(
        self,
        pairs: Iterable[tuple[Prompt, str]],
        *,
        scale: Scale = "raw",
        truncate: Truncate | None = None,
        allow_empty: bool = False,
        timeout: float | None = None,
    ) -> Scores:
        """Score (prompt, response) tuples. Pairs of one prompt belong together: it is then computed once."""
        return self._call(
            lambda client: client.score_pairs(
                pairs, scale=scale, truncate=truncate, allow_empty=allow_empty, timeout=timeout
            )
        )

    def compare(
        self,
        comparisons: Iterable[tuple[Prompt, str, str]],
        *,
        truncate: Truncate | None = None,
        allow_empty: bool = False,
        timeout: float | None = None,
    ) -> Comparisons:
        """Tell for each (prompt, response a, response b) which response is preferred, and how surely."""
        return self._call(
            lambda client: client.compare(comparisons, truncate=truncate, allow_empty=allow_empty, timeout=timeout)
        )

    def rank(
        self,
        prompt: Prompt,
        responses: Iterable[str],
        *,
        truncate: Truncate | None = None,
        allow_empty: bool = False,
        timeout: float | None = None,
    ) -> Ranking:
        """Order the responses to one prompt, best first. One request: too many raise `TooLargeError`."""
        return self._call(
            lambda client: client.rank(prompt, responses, truncate=truncate, allow_empty=allow_empty, timeout=timeout)
        )

    def model(self, *, timeout: float | None = None) -> ModelInfo:
        """Return what is loaded, and the server's limits."""
        return self._call(lambda client: client.model(timeout=timeout))

    def wait_until_ready(self, timeout: float = 300.0) -> None:
        """Return once the server is ready; raises `DeadlineExceededError` after `timeout` seconds."""
        self._call(lambda client: client.wait_until_ready(timeout))

    def close(self) -> None:
        """Close the connections and end the thread. Calls in progress raise `RuntimeError`."""
        self._closed = True
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, work: Callable[[AsyncRewardClient], Coroutine[Any, Any, T]]) -> T:
        with _starting:
            if self._closed:
                raise RuntimeError("the client is closed")
            thread = self._thread
            if thread is None or thread.pid != os.getpid():
                thread = self._thread = _LoopThread(self._settings)
                # Also runs at exit, so that a client nobody closed leaves without complaint.
                weakref.finalize(self, thread.close)
        return thread.call(work)
