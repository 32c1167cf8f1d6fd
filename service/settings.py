"""Every setting of the server: its name, its default and its meaning, in one table.

Given as a flag (`--port 9000`), as an environment variable (`ASSAY_PORT=9000`), or left alone.
"""

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, BeforeValidator, Field, FiniteFloat, SecretStr, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from service.observability.metrics import SECONDS


def is_sendable(key: str) -> bool:
    """Whether a header can carry the key."""
    return " " not in key and key.isascii() and key.isprintable()


def _keys(given: object) -> object:
    """The keys of a comma-separated list. One that holds none is a mistake, and would open the server to all."""
    if not isinstance(given, str):
        return given
    if given.lstrip().startswith("["):
        raise ValueError("is a list in JSON; give the keys as they are, with commas between them")
    keys = [part.strip() for part in given.split(",") if part.strip()]
    if not keys:
        raise ValueError("holds no key; give one, or do not set it at all to leave the server open to everybody")
    if not all(is_sendable(key) for key in keys):
        raise ValueError("a key holds a space or a character that is not plain ASCII; no header could carry it")
    return keys


def _parts(given: object) -> object:
    """The parts of a comma-separated list."""
    return [part.strip() for part in given.split(",")] if isinstance(given, str) else given


def _names(given: object) -> object:
    """The parts of a comma-separated list that may be empty."""
    return [part.strip() for part in given.split(",") if part.strip()] if isinstance(given, str) else given


def _named(given: object) -> object:
    """A path that is set to nothing is a mistake: it would be the folder the server was started in."""
    if given == "":
        raise ValueError("is empty; name a file, or do not set it at all")
    return given


def _rising(bounds: tuple[float, ...]) -> tuple[float, ...]:
    if not bounds or bounds[0] <= 0 or any(a >= b for a, b in pairwise(bounds)):
        raise ValueError("must be numbers over 0 that rise, such as 0.01,0.1,1,10")
    return bounds


DialectName = Literal["openrlhf", "vllm", "sglang", "tei", "slime", "llamafactory", "swift", "kserve", "nemogym"]
_OTHER_FILES = 192
"""Descriptors that are left for all but connections, and for those of probes when there are too many."""

_CLIENT_VARIABLES = {"ASSAY_URL", "ASSAY_DATA"}
"""Of the client and of the benchmarks, which may run in the same environment."""


_SERVICE_LINK = re.compile(
    r"ASSAY_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SERVICE_PORT = re.compile(r"ASSAY_(\w+_)?PORT=(tcp|udp|sctp)://.*")


def _of_kubernetes(name: str, value: str) -> bool:
    """Whether Kubernetes set the variable: it tells every container of each Service, also of one called assay."""
    name = name.upper()
    return bool(_SERVICE_LINK.fullmatch(name) or _SERVICE_PORT.fullmatch(f"{name}={value}"))


def refuse_unknown_variables(environment: Mapping[str, str]) -> None:
    """Refuse ASSAY_* variables that are no setting: a misspelt key or limit must not leave the server open.

    Raises:
        SettingsError: naming the variable.
    """
    known = {f"ASSAY_{name.upper()}" for name in Settings.model_fields} | _CLIENT_VARIABLES
    for name in sorted(environment):
        ours = name.upper().startswith("ASSAY_") and not _of_kubernetes(name, environment[name])
        if ours and name.upper() not in known:
            hint = "; the server's keys are in ASSAY_API_KEYS" if name.upper() == "ASSAY_API_KEY" else ""
            raise SettingsError(f"the environment variable {name} is no setting of the server{hint}")


class Settings(BaseSettings):
    """Serve a reward model over HTTP. Every setting is also an environment variable: --port is ASSAY_PORT."""

    model_config = SettingsConfigDict(
        env_prefix="ASSAY_", frozen=True, extra="ignore", use_attribute_docstrings=True, cli_prog_name="assay-serve",
        cli_kebab_case=True, cli_implicit_flags=True, cli_avoid_json=True, cli_hide_none_type=True,
    )  # fmt: skip

    bundle: Path = Path("bundles/default")
    """Folder of the bundle to serve."""
    bundle_digest: str = Field("", pattern="^[0-9a-fA-F]{0,64}$")
    """Digest that the bundle must have (the SHA-256 of its bundle.json), or how it begins; any other is an error at
    start. Default: any."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_keys)] = ()
    """Keys that callers may send as `Authorization: Bearer KEY`, comma-separated; none means open to all."""
    api_keys_file: Annotated[Path | None, BeforeValidator(_named)] = None
    """File of such keys, one a line, or a folder of such files, as Kubernetes mounts a Secret; read again when it
    changes, so that keys can be exchanged without a restart."""
    operations_port: int | None = Field(None, ge=0, le=65535)
    """Port of /live, /ready and /metrics alone, for probes and scrapes; /metrics is then on no other. Never TLS."""
    tls_certificate: Annotated[Path | None, BeforeValidator(_named)] = None
    """Certificate chain, PEM; with tls_key the port speaks TLS. Both are read again when they change."""
    tls_key: Annotated[Path | None, BeforeValidator(_named)] = None
    """Its private key, PEM, without a password."""
    provider: Literal["auto", "cuda", "tensorrt", "openvino", "cpu"] = "auto"
    """What runs the graph. One that is asked for by name and cannot run is an error at start."""
    precision: Literal["auto", "fp32", "fp16", "bf16", "int8"] = "auto"
    """What it computes in; auto: the fastest that orders the bundle's held-out pairs as fp32 does."""
    allow_fallback: bool = False
    """Serve on the CPU where the provider asked for cannot; otherwise the server does not start."""
    dialects: Annotated[tuple[DialectName, ...], NoDecode, BeforeValidator(_names)] = get_args(DialectName)
    """Wire formats of other systems that are spoken, each under its name, comma-separated; an empty list for none."""
    root_dialect: DialectName | None = None
    """The one whose paths are also at the root, for callers that take a host and a port only."""
    model_aliases: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)] = ()
    """Names beside the bundle's own that callers of dialects may ask for, comma-separated; * for any."""
    threads: int | None = Field(None, ge=1)
    """Threads of one operator. Default: the CPUs that affinity and cgroup allow."""
    gpu_memory_mb: int | None = Field(None, ge=64)
    """With CUDA: MiB of the GPU's memory for weights and batches, beside some hundred of its own. Default: all."""
    tokenizer_threads: int = Field(2, ge=1, le=64)
    """Threads that tokenize."""
    max_batch_tokens: int = Field(4096, ge=1)
    """Tokens computed in one batch: more is better throughput, less is better latency."""
    batch_seconds: FiniteFloat = Field(0.25, gt=0)
    """Seconds that one batch should take at most, as predicted: small requests wait for about two of them. One of many
    responses to a prompt may take 8 times that, since it is computed once for all."""
    max_items: int = Field(1024, ge=2)
    """Items (scored texts) of one request."""
    max_rank_items: int = Field(256, ge=2)
    """Responses of one ranking, if max_items is not less: its reply has a probability for each pair of them."""
    max_text_chars: int = Field(2**18, ge=1)
    """Characters of one prompt or response; a longer one is refused before it is tokenized."""
    max_body_bytes: int = Field(16 * 2**20, ge=1024)
    """Bytes of a request's body."""
    max_bodies_bytes: int = Field(256 * 2**20, ge=1024)
    """Bytes of request bodies held at once, over all connections; a request that would hold more gets a 503."""
    max_header_bytes: int = Field(32 * 2**10, ge=1024)
    """Bytes of a request's line and headers."""
    receive_timeout_s: FiniteFloat = Field(30, gt=0)
    """Seconds in which a request must have arrived whole, and after which a reply that nobody reads is given up."""
    max_connections: int | None = Field(None, ge=1)
    """Connections open at once; one more gets a 503, probes excepted. Default: 16384, or what open files allow."""
    keep_alive_s: int = Field(75, ge=1)
    """Seconds that an idle connection stays open; longer than the clients' own limit."""
    queue_items: int = Field(8192, ge=1)
    """Items that may wait; a request that does not fit whole is refused whole (429)."""
    queue_tokens: int | None = Field(None, ge=1)
    """Tokens that may wait, likewise. Default: 2 million, or what the largest request of the model has."""
    score_cache_items: int = Field(0, ge=0)
    """Scores kept in memory for items that come again, with 4 bytes for each of their tokens; 0 keeps none."""
    deterministic: bool = False
    """Give equal requests scores that are equal to the bit: each is batched alone, which costs throughput."""
    default_timeout_ms: FiniteFloat = Field(120_000, gt=0)
    """Time for a request that names none."""
    max_timeout_ms: FiniteFloat = Field(600_000, gt=0)
    """The longest time that a request may name; more is cut to this."""
    stuck_after_s: FiniteFloat = Field(120, gt=0)
    """Seconds in one batch after which /live says that the engine hangs."""
    stuck_exit_s: FiniteFloat = Field(30, gt=0)
    """Seconds after that in which the process may be restarted from outside; then it fails what it holds and exits."""
    drain_notice_s: FiniteFloat = Field(2, ge=0)
    """Seconds after SIGTERM in which /ready is 503 and requests are still served, for balancers to notice."""
    drain_timeout_s: FiniteFloat = Field(30, gt=0)
    """Seconds that requests in flight then have to finish."""
    duration_buckets_s: Annotated[
        tuple[FiniteFloat, ...], NoDecode, BeforeValidator(_parts), AfterValidator(_rising)
    ] = SECONDS
    """Upper bounds of the buckets of every duration in the metrics, in seconds, comma-separated."""
    tracing: bool = False
    """Send OpenTelemetry traces, by OTLP over HTTP, to where OTEL_EXPORTER_OTLP_ENDPOINT says (default
    http://localhost:4318). Sampler, headers and the rest are OpenTelemetry's own OTEL_* variables."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is logged."""
    log_json: bool | None = None
    """Log JSON lines (true) or text (false). Default: text if standard error is a terminal, else JSON."""

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource, dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:  # fmt: skip
        """Flags, then the environment without what Kubernetes put there: its ASSAY_PORT is an address."""
        assert isinstance(env_settings, EnvSettingsSource)
        given = env_settings.env_vars.items()
        env_settings.env_vars = {name: value for name, value in given if not _of_kubernetes(name, value or "")}
        return init_settings, env_settings

    @model_validator(mode="after")
    def _settings_go_together(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together: give both, or neither")
        if self.operations_port and self.operations_port == self.port:
            raise ValueError(f"operations_port and port are both {self.port}")
        if self.gpu_memory_mb and self.provider not in ("auto", "cuda"):
            raise ValueError(f"gpu_memory_mb is for the provider cuda, and {self.provider} would not keep to it")
        if self.queue_items < self.max_items:
            raise ValueError(
                f"queue_items ({self.queue_items}) is below max_items ({self.max_items}): "
                "a legal request could never fit"
            )
        if self.deterministic and self.score_cache_items:
            raise ValueError(
                "deterministic and score_cache_items exclude each other: a kept score was rounded in the company of "
                "another request"
            )
        if self.max_bodies_bytes < self.max_body_bytes:
            raise ValueError(
                f"max_bodies_bytes ({self.max_bodies_bytes}) is below max_body_bytes ({self.max_body_bytes}): "
                "a legal request could never fit"
            )
        if self.root_dialect is not None and self.root_dialect not in self.dialects:
            raise ValueError(f"root_dialect is {self.root_dialect}, which is not among the dialects")
        if self.default_timeout_ms > self.max_timeout_ms:
            raise ValueError(f"default_timeout_ms is above max_timeout_ms ({self.max_timeout_ms:g})")
        return self

    def check_against(self, max_tokens: int) -> None:
        """Refuse a configuration in which one legal input of the model could never fit.

        Args:
            max_tokens: the most tokens of an item of the bundle.

        Raises:
            ValueError: naming the setting to raise.
        """
        if self.max_batch_tokens < max_tokens:
            raise ValueError(
                f"max_batch_tokens is {self.max_batch_tokens}, but one item of this model may have {max_tokens} "
                f"tokens: it could never be scored; set max_batch_tokens to at least {max_tokens}"
            )
        request = self.max_items * max_tokens
        if self.queue_tokens is not None and self.queue_tokens < request:
            raise ValueError(
                f"queue_tokens is {self.queue_tokens}, but a request of {self.max_items} items of this model may have "
                f"{request} tokens: it could never be scored; raise queue_tokens or lower max_items"
            )

    @property
    def ranked_items(self) -> int:
        """Responses that one ranking may hold."""
        return min(self.max_items, self.max_rank_items)

    def connections_for(self, open_files: int) -> int:
        """Connections that may be open in a process that may have so many files open.

        Raises:
            ValueError: saying which limit to raise.
        """
        room = open_files - _OTHER_FILES
        wanted = min(16384, room) if self.max_connections is None else self.max_connections
        if not 0 < wanted <= room:
            raise ValueError(
                f"max_connections is {max(wanted, 1)}, but this process may have {open_files} files open and needs "
                f"{_OTHER_FILES} for others; raise that limit (ulimit -n) or lower max_connections"
            )
        return wanted

    def queue_tokens_for(self, max_tokens: int) -> int:
        """Tokens that may wait, for a model whose items have at most `max_tokens`."""
        return max(2**21, self.max_items * max_tokens) if self.queue_tokens is None else self.queue_tokens
