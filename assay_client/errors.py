"""What can go wrong in a call: one typed exception a cause, all of them `AssayError`.

A call returns scores or raises one of these; it never returns a substitute for a score.
"""

from __future__ import annotations

TLS_REFUSED = "tls"
NOT_CONNECTED = "not_connected"
CONNECTION_LOST = "connection_lost"
INCOMPLETE_REPLY = "incomplete_reply"
SILENT = "silent"
ENGINE_FAILED = "engine_failed"  # the server's own code


class AssayError(Exception):
    """Base of every error of this client.

    `request_id` names the request in the server's log, `attempts` counts the requests sent for the part that
    failed, `elapsed_s` is the time since the call began. `status`, `code` and `field` come from the server's
    error reply where there was one; `field` counts in the caller's list, also when the call was split.
    """

    def __init__(
        self,
        message: str,
        *,
        request_id: str | None = None,
        attempts: int = 0,
        elapsed_s: float = 0.0,
        status: int | None = None,
        code: str | None = None,
        field: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.request_id = request_id
        self.attempts = attempts
        self.elapsed_s = elapsed_s
        self.status = status
        self.code = code
        self.field = field
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        known = (("status", self.status), ("code", self.code), ("field", self.field))
        facts = [f"{name} {value}" for name, value in known if value is not None]
        if self.request_id is not None:
            facts.append(f"request {self.request_id}")
        if self.attempts:
            facts.append(f"{self.attempts} attempt{'s' if self.attempts > 1 else ''}, {self.elapsed_s:.2f} s")
        return f"{self.message} [{', '.join(facts)}]" if facts else self.message


class ConnectionFailedError(AssayError, ConnectionError):
    """No connection, or it broke before the whole reply came.

    `code` is "tls" for a refused certificate, "not_connected" where no connection was made, "connection_lost" where
    it broke before the reply, "incomplete_reply" where it broke within, and "silent" where nothing came and the server
    did not answer /live either.
    """


class DeadlineExceededError(AssayError, TimeoutError):
    """The call's total deadline passed. `__cause__` is the last failure that was being retried, if any."""


class UnavailableError(AssayError):
    """The server, or a proxy before it, cannot answer at present (408, 502, 503, 504)."""


class OverloadedError(UnavailableError):
    """The server's queue is full (429), or it asks for a longer wait than the deadline leaves."""


class InvalidRequestError(AssayError, ValueError):
    """The input is wrong and will stay so; `field` says where."""


class TooLargeError(InvalidRequestError):
    """An item, or a request that cannot be split, exceeds a limit of the server (413, or too many tokens)."""


class UnauthorizedError(AssayError):
    """The API key is missing or not accepted (401, 403)."""


class ModelMismatchError(AssayError):
    """The server runs another model than the pinned one, or the model moved between the parts of one call."""


class NonFiniteScoreError(AssayError):
    """The model gave NaN or infinity for this input."""


class BadReplyError(AssayError):
    """The reply breaks the protocol: not JSON, a wrong count, a score that is no number, and the like."""


class ServerError(AssayError):
    """The server failed in an unforeseen way (500 and other 5xx)."""
