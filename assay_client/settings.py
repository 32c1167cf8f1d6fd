"""Where the server is and how to call it: arguments first, then the environment, then defaults."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from math import isfinite
from urllib.parse import urlsplit

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Settings:
    """The arguments of a client, checked. The key stays out of `repr` and of error messages."""

    base_url: str
    api_key: str | None = field(repr=False)
    timeout: float
    max_concurrency: int
    max_items: int | None
    model_digest: str | None
    retries: int

    @classmethod
    def resolve(
        cls,
        base_url: str | None,
        *,
        api_key: str | None,
        timeout: float,
        max_concurrency: int,
        max_items: int | None,
        model_digest: str | None,
        retries: int,
    ) -> Settings:
        """Fill in ASSAY_URL and ASSAY_API_KEY and check every value; raises `ValueError`."""
        url = base_url or os.environ.get("ASSAY_URL") or DEFAULT_URL
        key = (api_key or os.environ.get("ASSAY_API_KEY") or "").strip() or None
        _check_url(url)
        if key is not None and not (key.isascii() and key.isprintable()):
            raise ValueError("the API key holds characters that no HTTP header can carry")
        check_timeout(timeout)
        for name, value, least in (
            ("max_concurrency", max_concurrency, 1),
            ("max_items", 1 if max_items is None else max_items, 1),
            ("retries", retries, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")
        return cls(url.rstrip("/"), key, timeout, max_concurrency, max_items, model_digest, retries)


def check_timeout(timeout: float) -> None:
    """Raise `ValueError` unless the timeout is a positive, finite number of seconds: calls have deadlines."""
    if not (isfinite(timeout) and timeout > 0):
        raise ValueError(f"timeout must be a positive, finite number of seconds, not {timeout}")


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ValueError("base_url must not hold credentials; give api_key or set ASSAY_API_KEY")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"base_url must look like http://host:port, not {url!r}")
