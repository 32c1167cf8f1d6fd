"""Every alert fires on a real server with a real fault, in a real Prometheus in whose rules time runs faster."""

import contextlib
import copy
import itertools
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.bundle.reader import Bundle
from service.engine.session import OutOfMemoryError
from tests.end_to_end.process import server_process
from tests.k8s.prometheus import Prometheus
from tests.k8s.test_alerts import ALERTS, RULES
from tests.service.doubles import ScriptedSession, fails, spoils
from tests.service.serving import Served, serving

FASTER = 60
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SLOW_SECONDS = 6.0
"""Of a batch: more than the service level of 5 s, and more than two minutes sixty times faster."""
_PATIENCE = 180.0
_DURATION = re.compile(r"\b(\d+)([smhd])\b")


def _faster(duration: re.Match[str]) -> str:
    return f"{int(duration[1]) * _UNITS[duration[2]] * 1000 // FASTER}ms"


def accelerated(rules: dict[str, Any]) -> dict[str, Any]:
    """The rules with every range, wait and age divided; thresholds of service levels stay."""
    rules = copy.deepcopy(rules)
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        rule["expr"] = re.sub(r"\[\w+\]", lambda found: _DURATION.sub(_faster, found[0]), rule["expr"])
        rule["expr"] = rule["expr"].replace("timestamp_seconds > 60", f"timestamp_seconds > {60 / FASTER}")
        if "for" in rule:
            rule["for"] = _DURATION.sub(_faster, rule["for"])
    return rules


def until_all_fired(prometheus: Prometheus, names: set[str]) -> None:
    """Wait until each has fired at some time."""
    deadline = time.monotonic() + _PATIENCE
    fired: set[str] = set()
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):  # it begins
            found = prometheus.query('count by (alertname) (count_over_time(ALERTS{alertstate="firing"}[1h]))')
            fired = {sample["metric"]["alertname"] for sample in found}
        if names <= fired:
            return
        time.sleep(0.2)
    raise AssertionError(f"never fired: {sorted(names - fired)}; fired: {sorted(fired)}")


@contextlib.contextmanager
def again_and_again(act: Callable[[], object]) -> Iterator[None]:
    """Do it in a thread until the end of the block; what it raises fails the test."""
    ended = threading.Event()

    def run() -> None:
        while not ended.is_set():
            act()

    with ThreadPoolExecutor(1) as executor:
        acting = executor.submit(run)
        try:
            yield
        finally:
            ended.set()
            acting.result(_PATIENCE)


def test_faults_of_engine_and_scores(pocket_bundle: Bundle, pocket_encoder_bundle: Bundle, tmp_path: Path) -> None:
    session = ScriptedSession()
    steps = itertools.cycle(
        [
            *[lambda rewards: rewards + 1000] * 5,
            spoils(0, np.nan),
            fails(RuntimeError("a fault of the engine")),
            fails(OutOfMemoryError("no memory")),
        ]
    )

    def one(served: Served) -> None:
        session.always(next(steps))
        # One that is longer than the model takes, so cut, beside two of a few tokens: what pads the most.
        pairs = [{"prompt": prompt, "response": response} for prompt, response in ("Ax", "Bx", ("p", "y" * 100))]
        reply = served.post("/v1/score", {"pairs": pairs, "truncate": "response_right"})
        assert reply.status in (200, 500, 503)
        time.sleep(0.02)

    keys = tmp_path / "keys"
    keys.write_text("a-key")

    def use_keys(served: Served) -> None:
        assert served.get("/v1/model", {"Authorization": "Bearer a-key"}).status == 200
        time.sleep(0.5)

    with (
        # Deterministic: a batch is one request, whatever the warm-up measured.
        serving(pocket_bundle, session, provider="cuda", allow_fallback=True, deterministic=True) as served,
        serving(pocket_encoder_bundle, api_keys_file=keys) as other,
        Prometheus(tmp_path, accelerated(RULES), [served.port, other.port]) as prometheus,
        again_and_again(lambda: one(served)),
        again_and_again(lambda: use_keys(other)),
    ):
        keys.write_text("not one")
        until_all_fired(
            prometheus,
            {
                "AssayNonFiniteScores", "AssayScoreDrift", "AssayTruncationHigh", "AssayModelMismatch",
                "AssayProviderFallback", "AssayOutOfMemory", "AssayEngineErrors", "AssayPaddingWaste",
                "AssayErrorBudgetFast", "AssayErrorBudgetSlow", "AssayReloadFailed",
            },
        )  # fmt: skip


def test_faults_of_load(pocket_bundle: Bundle, tmp_path: Path) -> None:
    """Two engines that hang for seconds by turns, with queues of two items."""
    sessions = ScriptedSession(), ScriptedSession()
    limits = {"max_items": 2, "queue_items": 2}
    with (
        serving(pocket_bundle, sessions[0], **limits) as first,
        serving(pocket_bundle, sessions[1], **limits) as second,
        Prometheus(tmp_path, accelerated(RULES), [first.port, second.port]) as prometheus,
        ThreadPoolExecutor(16) as callers,
        contextlib.ExitStack() as stack,
    ):

        def hang(served: Served, session: ScriptedSession) -> None:
            session.hold()
            calls = [callers.submit(served.score, "runs", "and this")]
            served.until("assay_inflight_samples", 2)
            calls += [callers.submit(served.score, f"waits {number}", "too") for number in range(3)]
            time.sleep(_SLOW_SECONDS)
            session.let_go()
            statuses = sorted(call.result(_PATIENCE).status for call in calls)
            assert statuses[0] == 200
            assert set(statuses) <= {200, 429}

        stack.enter_context(again_and_again(lambda: hang(first, sessions[0])))
        time.sleep(_SLOW_SECONDS / 2)  # so that slow requests end all the time
        stack.enter_context(again_and_again(lambda: hang(second, sessions[1])))
        until_all_fired(
            prometheus,
            {
                "AssayEngineWedged", "AssayAdmissionStalled", "AssayShedding", "AssayLatencyHigh",
                "AssayQueueTimeHigh",
            },
        )  # fmt: skip


def test_faults_of_processes(pocket_bundle: Bundle, tmp_path: Path) -> None:
    """A server that crashes again and again, then one that never gets ready, then none."""
    port = "0"

    @contextlib.contextmanager
    def server(**options: Any) -> Iterator[Any]:
        with server_process(pocket_bundle, tmp_path, "--port", port, **options) as process:
            yield process

    with server() as process:
        port = str(process.port)
        stack = contextlib.ExitStack()
        never = stack.enter_context(socket.socket())  # nobody listens there
        never.bind(("127.0.0.1", 0))
        ports = [process.port, never.getsockname()[1]]
        prometheus = stack.enter_context(Prometheus(tmp_path, accelerated(RULES), ports))
        prometheus.until("up == 1")
        process.signal(signal.SIGKILL)
        process.ended()

    def live_and_crash() -> None:
        with server() as process:
            started = process.metric("process_start_time_seconds")
            prometheus.until(f"process_start_time_seconds == {started:.2f}")

    with stack:
        with again_and_again(live_and_crash):
            until_all_fired(prometheus, {"AssayCrashLoop"})
        (tmp_path / "gate").touch()
        with server(module="tests.end_to_end.held_server", wait=False):
            until_all_fired(prometheus, {"AssayNoReadyReplica"})
        until_all_fired(prometheus, {"AssayDown", "AssayAbsent", "AssayNeverUp"})


def test_every_alert_is_fired_here() -> None:
    named = set(re.findall(r'"(Assay\w+)"', Path(__file__).read_text()))
    assert named == set(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_rules_are_accelerated_whole(alert: str) -> None:
    rules = {r["alert"]: r for g in accelerated(RULES)["groups"] for r in g["rules"] if "alert" in r}
    assert not re.search(r"\[\d+[smhd]\]", rules[alert]["expr"])
    assert str(rules[alert].get("for", "0ms")).endswith("ms")
