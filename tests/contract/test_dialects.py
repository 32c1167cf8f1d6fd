"""Golden requests and replies: what other systems' clients send, and the replies that they read.

Every file of this folder is one exchange with the causal pocket model: its path, the request, the status and the reply.
In a reply, "<text>" stands for any text and "<number>" for any number. Write the replies anew, and look at them, with
`python -m tests.contract.test_dialects`.
"""

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from service.api.dialects.registry import DIALECTS
from service.settings import DialectName
from tests.pocket import write_pocket_bundle
from tests.service.serving import serving

FOLDER = Path(__file__).parent
FILES = sorted(FOLDER.glob("*/*.json"))


def fits(found: Any, wanted: Any) -> bool:
    """Whether a reply is the golden one, but for rounding and for what changes with every request."""
    if wanted == "<text>":
        return isinstance(found, str) and bool(found)
    if wanted == "<number>":
        return isinstance(found, int | float) and not isinstance(found, bool)
    if isinstance(wanted, dict):
        same = isinstance(found, dict) and found.keys() == wanted.keys()
        return same and all(fits(found[name], value) for name, value in wanted.items())
    if isinstance(wanted, list):
        same = isinstance(found, list) and len(found) == len(wanted)
        return same and all(map(fits, found, wanted))
    if isinstance(wanted, float):
        return isinstance(found, float) and found == pytest.approx(wanted, abs=1e-5)
    return type(found) is type(wanted) and found == wanted


@pytest.fixture(scope="module")
def served(pocket_bundle):
    with serving(pocket_bundle, max_items=20) as served:
        yield served


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_exchange(served, file):
    golden = json.loads(file.read_bytes())
    reply = served.post(golden["path"], golden["request"])
    assert reply.status == golden["status"], reply.content
    assert fits(json.loads(reply.content), golden["reply"]), reply.content
    if reply.status == 200:
        assert reply.headers["x-assay-model-digest"] == served.context.scorer.bundle.digest


def test_every_dialect_has_exchanges_good_and_bad():
    found = {(file.parent.name, json.loads(file.read_bytes())["status"] == 200) for file in FILES}
    assert found == {(name, good) for name in DIALECTS for good in (True, False)}
    assert set(DIALECTS) == set(get_args(DialectName))


def write() -> None:
    """Fill in status and reply of every file."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder, serving(write_pocket_bundle(Path(folder) / "p"), max_items=20) as one:
        for file in FILES:
            golden = json.loads(file.read_bytes())
            reply = one.post(golden["path"], golden["request"])
            golden |= {"status": reply.status, "reply": _volatile(json.loads(reply.content))}
            file.write_text(json.dumps(golden, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _volatile(reply: Any, name: str = "") -> Any:
    if name in ("id", "message", "error") and isinstance(reply, str):
        return "<text>"
    if name in ("created", "e2e_latency"):
        return "<number>"
    if isinstance(reply, dict):
        return {key: _volatile(value, key) for key, value in reply.items()}
    return [_volatile(value, name) for value in reply] if isinstance(reply, list) else reply


if __name__ == "__main__":
    write()
