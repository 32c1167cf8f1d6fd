import numpy as np
import pytest

from benchmarks.serving import latency, race, soak
from benchmarks.serving.engine_alone import batches
from benchmarks.serving.open_loop import OpenLoop, parse_summary
from benchmarks.serving.spreads import percentiles, ratios, slope, spread, written


def test_spread_and_its_text():
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "least": 1.0, "most": 3.0}
    assert written(spread([3.0, 1.0, 2.0]), "x") == "2.00x (1.00 to 3.00)"


def test_ratios_are_taken_round_by_round():
    assert ratios([2.0, 20.0], [1.0, 10.0]) == {"median": 2.0, "least": 2.0, "most": 2.0}
    with pytest.raises(ValueError, match="longer"):
        ratios([1.0], [1.0, 2.0])


def test_percentiles_are_milliseconds():
    assert percentiles([n / 1000 for n in range(101)]) == pytest.approx({"p50": 50, "p95": 95, "p99": 99, "most": 100})


def test_slope():
    assert slope([0, 1, 2], [5, 7, 9]) == pytest.approx(2)


def test_agreement_is_none_for_constant_scores():
    assert race.agreement([1.0, 2.0, 3.0], [10.0, 20.0, 30.0]) == pytest.approx(1)
    assert race.agreement([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == pytest.approx(-1)
    assert race.agreement([1.0, 2.0, 3.0], [1.0, 1.0, 1.0]) == 0


def test_summary_of_k6():
    times = {"count": 50, "min": 1, "med": 2.5, "p(90)": 3, "p(95)": 4, "p(99)": 5, "max": 6}
    metrics = {
        "http_req_duration": {"type": "trend", "values": times},
        "checks": {"type": "rate", "values": {"rate": 0.98, "passes": 49, "fails": 1}},
    }
    found = parse_summary(2.0, {"metrics": metrics})
    assert (found.requests, found.failed, found.dropped) == (50, 1, 0)
    assert (found.p50, found.p99, found.most) == (2.5, 5, 6)
    metrics["dropped_iterations"] = {"type": "counter", "values": {"count": 7, "rate": 0.1}}
    assert parse_summary(2.0, {"metrics": metrics}).dropped == 7


def loop(p99: float, failed: int = 0, dropped: int = 0) -> OpenLoop:
    return OpenLoop(1.0, 100, failed, dropped, 1.0, 2.0, 3.0, p99, p99)


def test_latency_is_compared_round_by_round_with_every_peer():
    found = {"ours": [loop(10), loop(100)], "slow": [loop(20), loop(300)], "quick": [loop(5), loop(60)]}
    quick, slow = latency.compared("minilm, pairs", found, ["ours"])
    assert (slow.figure, slow.held) == ("2.50x (2.00 to 3.00), 0 failed", True)
    assert (quick.figure, quick.held) == ("0.55x (0.50 to 0.60), 0 failed", False)


@pytest.mark.parametrize("lost", [{"failed": 1}, {"dropped": 1}])
def test_a_server_that_loses_requests_is_not_the_quicker_one(lost):
    (target,) = latency.compared("", {"ours": [loop(10, **lost)], "slow": [loop(20)]}, ["ours"])
    assert not target.held
    (target,) = latency.compared("", {"ours": [loop(10)], "slow": [loop(20, **lost)]}, ["ours"])
    assert target.held


def samples(growth: float, threads: int) -> list[soak.Sample]:
    return [soak.Sample(20.0 * n, 1000 + growth * n, 20, 10 + (threads if n > 50 else 0)) for n in range(60)]


def test_a_flat_server_holds_and_a_growing_one_does_not():
    assert [target.held for target in soak.judged(samples(0, 0), 20)[0]] == [True, True]
    assert [target.held for target in soak.judged(samples(1, 3), 20)[0]] == [False, False]


def test_batches_count_a_shared_beginning_once(pocket_bundle):
    stem = np.arange(10, dtype=np.int64)
    items = [np.append(stem, tail) for tail in (11, 12, 13, 14)]
    assert [len(batch) for batch in batches(items, 13, pocket_bundle)] == [3, 1]
    assert [len(batch) for batch in batches(items, 1, pocket_bundle)] == [1, 1, 1, 1]
