"""Requests and replies as bytes, for tests of the HTTP parser."""

import json
import socket

from tests.service.serving import Reply

BODY = json.dumps({"prompt": "p", "responses": ["a"]}).encode()
CHUNKED = b"Transfer-Encoding: chunked"


def head(*fields: str, length: int = len(BODY), method: str = "POST", path: str = "/v1/score") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {length}"]
    return "\r\n".join([*lines, *fields, "", ""]).encode()


def parse(raw: bytes) -> Reply:
    """The one reply that a server gave before it closed."""
    first, _, rest = raw.partition(b"\r\n")
    fields, _, content = rest.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in fields.decode().split("\r\n"))
    return Reply(int(first.split()[1]), {name.lower(): value for name, value in headers.items()}, content)


def replies(connection: socket.socket, count: int) -> list[Reply]:
    """So many replies, one after the other, without what only says that the server still hears the client."""
    found = []
    stream = connection.makefile("rb")
    for _ in range(count):
        while (status := int(stream.readline().split()[1])) == 100:
            stream.readline()
        headers: dict[str, str] = {}
        while line := stream.readline().decode().strip():
            name, value = line.split(": ", 1)
            headers[name.lower()] = value
        found.append(Reply(status, headers, stream.read(int(headers["content-length"]))))
    return found
