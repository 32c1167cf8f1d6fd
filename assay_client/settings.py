"""Where the server is and how to call it: arguments first, then the environment, then defaults."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from urllib.parse import urlsplit

from assay_client.discovery import PREFIX

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Settings:
    """The arguments of a client, checked. The key stays out of `repr` and of error messages."""

    base_urls: tuple[str, ...]
    api_key: str | None = field(repr=False)
    timeout: float
    max_concurrency: int
    max_items: int | None
    model_digest: str | None
    retries: int

    @classmethod
    def resolve(
        cls,
        base_url: str | Sequence[str] | None,
        *,
        api_key: str | None,
        timeout: float,
        max_concurrency: int,
        max_items: int | None,
        model_digest: str | None,
        retries: int,
    ) -> Settings:
        """Fill in ASSAY_URL, ASSAY_API_KEY and ASSAY_API_KEY_FILE and check every value.

        Raises:
            ValueError: a value that cannot be meant, or a file of the key that cannot be read.
        """
        listed = base_url is not None and not isinstance(base_url, str)
        given = ",".join(base_url or ()) if listed else base_url or os.environ.get("ASSAY_URL") or DEFAULT_URL
        if not given:
            raise ValueError("base_url is an empty list: name a server")
        urls = [url.strip().rstrip("/") for url in str(given).split(",")]
        for url in urls:
            _check_url(url)
        if len(set(urls)) < len(urls):
            raise ValueError(f"base_url names a server twice: {', '.join(urls)}")
        key = (api_key or os.environ.get("ASSAY_API_KEY") or _key_from_file()).strip() or None
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
        return cls(tuple(urls), key, timeout, max_concurrency, max_items, model_digest, retries)


def check_timeout(timeout: float) -> None:
    """Raise `ValueError` unless the timeout is a positive, finite number of seconds: calls have deadlines."""
    if not (isfinite(timeout) and timeout > 0):
        raise ValueError(f"timeout must be a positive, finite number of seconds, not {timeout}")


def _key_from_file() -> str:
    """What ASSAY_API_KEY_FILE holds, as a mounted secret does; nothing if it is not set."""
    path = os.environ.get("ASSAY_API_KEY_FILE")
    if not path:
        return ""
    try:
        key = Path(path).read_text(encoding="ascii").strip()
    except OSError as error:
        raise ValueError(f"ASSAY_API_KEY_FILE: {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:  # whose own text holds the key
        raise ValueError(f"ASSAY_API_KEY_FILE: {path} holds characters that no HTTP header can carry") from None
    if not key:
        raise ValueError(f"ASSAY_API_KEY_FILE: {path} is empty")
    return key


def _check_url(url: str) -> None:
    parts = urlsplit(url.removeprefix(PREFIX))
    try:
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"base_url {url!r}: {error}") from None
    if "@" in parts.netloc:
        raise ValueError("base_url must not hold credentials; give api_key or set ASSAY_API_KEY")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"base_url must look like http://host:port or {PREFIX}http://host:port, not {url!r}")
