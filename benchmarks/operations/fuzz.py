"""Coverage-guided fuzzing (atheris, libFuzzer) of what comes over the wire before any of it is trusted.

    python -m benchmarks.operations.fuzz [--seconds 600]

Three targets: the decoding of bodies, where nothing but a valid request or a typed refusal may come out, from bytes and
from documents that are nearly requests (bytes alone seldom get past the JSON parser); and the HTTP protocol with its
limits, which may raise nothing whatever bytes come in whatever pieces. Each runs in a process of its
own, from a few seeds; whoever finds a crash leaves the input in build/fuzz.
"""

import argparse
import asyncio
import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.result import Result, Row, Target, refuse_uncommitted

FOLDER = Path("build/fuzz")
SEED = 1
_BODIES = (
    b'{"prompt": "p", "responses": ["a", "b"]}',
    b'{"pairs": [{"prompt": [{"role": "user", "content": "q"}], "response": "r"}], "scale": "centred"}',
    b'{"prompt": "p", "responses": ["a"], "truncate": "response_right", "timeout_ms": 10, "allow_empty": true}',
    b'{"comparisons": [{"prompt": "p", "response_a": "a", "response_b": "b"}]}',
    b'{"prompt": "\\ud83d\\ude00", "responses": ["\\u0000", 1e999, null]}',
)
_REQUESTS = (
    b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n{}",
    b"POST /v1/score HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX: y\r\n\r\n",
    b"GET / HTTP/1.1\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nExpect: 100-continue\r\n\r\nGET /ready HTTP/1.0\r\n\r\n",
)


_FIELDS = (
    "prompt", "responses", "pairs", "comparisons", "response", "response_a", "response_b", "scale", "truncate",
    "timeout_ms", "allow_empty", "role", "content", "model_digest", "return_details", "x",
)  # fmt: skip
_WORDS = ("raw", "centred", "user", "assistant", "response_right", "p", "", "\ud800", "a" * 300)
_REPORTED_EVERY = 2**12


def decode_target(make_body: Callable[[bytes], bytes]) -> Callable[[bytes], None]:
    """Decode a body as a route does; now and then says how many were valid."""
    from service.api.decoding import _decode
    from service.api.errors import ApiError
    from service.api.schemas import CompareRequest, RankRequest, ScoreRequest
    from service.api.structure import refuse_too_many_values

    schemas = (ScoreRequest, CompareRequest, RankRequest)
    tried = valid = 0

    def target(data: bytes) -> None:
        nonlocal tried, valid
        tried += 1
        if tried % _REPORTED_EVERY == 0:
            print(f"VALID {valid} of {tried}", file=sys.stderr)
        schema = schemas[data[0] % len(schemas)] if data else ScoreRequest
        body = make_body(data[1:])
        try:
            refuse_too_many_values(body, 64)  # which a route asks of large bodies alone
            found = _decode(body, schema, 64)
        except ApiError as error:
            if not 400 <= error.status_code < 500 or not error.detail:
                raise AssertionError(f"not a refusal: {error!r}") from error
        else:
            assert found is None or isinstance(found, schema)
            valid += 1

    return target


def bytes_target() -> Callable[[bytes], None]:
    """The body is the data."""
    return decode_target(lambda data: data)


def document_target() -> Callable[[bytes], None]:
    """The body is a document that the data describe, of fields that requests have."""
    import atheris

    def value(data: Any, depth: int) -> Any:
        kind = data.ConsumeIntInRange(0, 9)
        if kind <= 3:
            return data.PickValueInList(list(_WORDS)) if kind else data.ConsumeUnicode(20)
        if kind == 4:
            return data.PickValueInList([0, -1, 1.5, 1e999, True, False, None, 2**70])
        if depth == 0:
            return data.ConsumeUnicodeNoSurrogates(5)
        if kind <= 6:
            return [value(data, depth - 1) for _ in range(data.ConsumeIntInRange(0, 4))]
        names = list(_FIELDS)
        return {data.PickValueInList(names): value(data, depth - 1) for _ in range(data.ConsumeIntInRange(0, 5))}

    def body(raw: bytes) -> bytes:
        data = atheris.FuzzedDataProvider(raw)
        responses = [data.ConsumeUnicodeNoSurrogates(8) for _ in range(data.ConsumeIntInRange(1, 5))]
        texts = {"prompt": data.ConsumeUnicodeNoSurrogates(8), "responses": responses}
        pair = {"prompt": "p", "response": "r", "response_a": "a", "response_b": "b"}
        shape = data.ConsumeIntInRange(0, 3)
        document: dict[str, Any] = texts if shape <= 1 else {("pairs", "comparisons")[shape - 2]: [pair]}
        for _ in range(data.ConsumeIntInRange(0, 2)):
            document[data.PickValueInList(list(_FIELDS))] = value(data, 3)
        written = bytearray(json.dumps(document, ensure_ascii=data.ConsumeBool()).encode("utf-8", "surrogatepass"))
        if data.ConsumeIntInRange(0, 9) == 0 and written:
            written[data.ConsumeIntInRange(0, len(written) - 1)] = data.ConsumeIntInRange(0, 255)
        return bytes(written)

    return decode_target(body)


_STATUSES = (b"100", b"200", b"400", b"408", b"413", b"431", b"503")


class _Transport:
    """As much of one as the protocol uses."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)}.get(name, default)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def set_protocol(self, _: Any) -> None:
        pass


def protocol_target() -> Callable[[bytes], None]:
    """Feed the bytes in two pieces, cut where the first byte says, to an application that answers at once."""
    import uvicorn
    from uvicorn.server import ServerState

    from service.api.protocol import limited_protocol

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    logging.disable()  # of every request that is none
    loop = asyncio.new_event_loop()
    kind = limited_protocol(2048, 30.0, 100, lambda code: None)
    config = uvicorn.Config(app, http=kind, ws="none", lifespan="off", log_config=None, access_log=False)
    config.load()
    failures: list[Any] = []
    loop.set_exception_handler(lambda _, context: failures.append(context))

    async def one(data: bytes) -> None:
        protocol = kind(config=config, server_state=ServerState(), app_state={}, _loop=loop)
        transport = _Transport()
        protocol.connection_made(transport)  # type: ignore[arg-type]
        cut = 1 + data[0] % max(1, len(data)) if data else 0
        for piece in (data[1:cut], data[cut:]):
            if piece and not transport.closed:
                protocol.data_received(piece)
            await asyncio.sleep(0)
        if not transport.closed:
            protocol.eof_received()
        for _ in range(3):
            await asyncio.sleep(0)
        protocol.connection_lost(None)
        await asyncio.sleep(0)
        for reply in b"".join(transport.written).split(b"HTTP/1.1 ")[1:]:
            assert reply[:3] in _STATUSES, reply[:40]

    def target(data: bytes) -> None:
        loop.run_until_complete(one(data))
        assert not failures, failures

    return target


TARGETS: dict[str, tuple[Callable[[], Callable[[bytes], None]], tuple[bytes, ...]]] = {
    "bodies": (bytes_target, tuple(bytes([kind]) + body for body in _BODIES for kind in range(3))),
    "documents": (document_target, tuple(bytes([kind]) + bytes(range(7 * kind, 60 + 7 * kind)) for kind in range(12))),
    "protocol": (protocol_target, tuple(bytes([cut]) + request for request in _REQUESTS for cut in (0, 20, 60))),
}


def fuzz(name: str, arguments: list[str]) -> None:
    """Run one target in this process, which ends with it."""
    import atheris

    make, seeds = TARGETS[name]
    corpus = FOLDER / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    with atheris.instrument_imports(include=["service"]):
        target = make()
    prefix = f"-artifact_prefix={FOLDER}/{name}-"
    atheris.Setup([sys.argv[0], str(corpus), prefix, f"-seed={SEED}", "-max_len=4096", *arguments], target)
    atheris.Fuzz()


def in_process(name: str, *arguments: str) -> tuple[int, str]:
    """Exit status of a target, and what it said."""
    command = [sys.executable, "-m", "benchmarks.operations.fuzz", "--target", name, "--", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stderr


def run(quick: bool, seconds: int | None = None) -> Result:
    """Each target for so long."""
    seconds = seconds or (20 if quick else 600)
    targets, rows, figures = [], [], {}
    for name in TARGETS:
        status, said = in_process(name, f"-max_total_time={seconds}")
        executions = int((re.findall(r"^#(\d+)\s", said, re.MULTILINE) or ["0"])[-1])
        coverage = int((re.findall(r"cov: (\d+)", said) or ["0"])[-1])
        valid, tried = (re.findall(r"^VALID (\d+) of (\d+)$", said, re.MULTILINE) or [("0", "0")])[-1]
        figures[name] = {"executions": executions, "coverage": coverage, "status": status, "valid": int(valid)}
        last = "none" if status == 0 else (said.strip().splitlines() or ["no output"])[-1]
        targets.append(
            Target(f"fuzzing of {name}, {seconds} s: crashes and refusals without a type", "none", last, status == 0)
        )
        share = f", {int(valid) / int(tried):.1%} of them valid requests" if int(tried) else ""
        rows.append(Row(f"fuzzing of {name}", f"{executions:,} executions{share}, {coverage} edges covered"))
    return Result("fuzz", quick, SEED, targets, figures, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 seconds each")
    parser.add_argument("--seconds", type=int, help="for each target")
    parser.add_argument("--target", choices=TARGETS, help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.target:
        fuzz(flags.target, flags.arguments)
        sys.exit(0)
    refuse_uncommitted(flags.quick)
    run(flags.quick, flags.seconds).publish()
