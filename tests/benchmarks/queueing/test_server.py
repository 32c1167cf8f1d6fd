"""The simulated server loses no request, keeps the stated bound, and is never idle with work."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.queueing.loads import LIMITS, TRUTH, Mix, closed_loop, figures, open_loop
from benchmarks.queueing.server import Server
from benchmarks.queueing.traffic import Traffic
from service.scoring.cost import CostModel

kinds = st.sampled_from(["pair", "bulk", "single"])
arrivals = st.lists(st.tuples(kinds, st.floats(0, 2)), min_size=1, max_size=25)


@settings(max_examples=40)
@given(arrivals, st.integers(0, 5), st.floats(0, 0.5))
def test_every_request_ends_within_its_bound(history, seed, noise):
    traffic, server = Traffic(seed), Server(TRUTH, LIMITS, noise=noise, seed=seed)
    when = 0.0
    for kind, gap in history:
        when += gap
        server.at(when, lambda kind=kind: server.post(kind, getattr(traffic, kind)()))
    server.run(until=1e6)
    assert len(server.fates) == len(history)
    for fate in server.fates:
        assert fate.ended is not None and fate.ended > fate.arrived
        assert fate.picked_after is not None and fate.picked_after <= fate.bound
    assert sum(fate.items for fate in server.fates) == sum(map(len, server.batches))
    assert server.idle_with_work == 0
    assert server.line.places == server.line.running == len(server.line.index) == 0


def test_one_pair_alone_takes_what_the_model_says():
    server = Server(CostModel(0.5, 0.0, 0.0), LIMITS, noise=0.0)
    fate = server.post("pair", Traffic(0).pair())
    server.run(until=10)
    assert fate.latency == 0.5


def test_the_same_seed_gives_the_same_run():
    runs = [figures(open_loop(Mix(0.2, 0.8), 2.0, 10.0, seed=3)) for _ in range(2)]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("workers", [1, 40])
def test_closed_loop_workers_always_wait_for_one_item_each(workers):
    server = closed_loop(workers, 5.0, seed=1)
    server.run(until=1e6)
    assert all(fate.ended is not None for fate in server.fates)
    last = [fate for fate in server.fates if fate.ended is not None and fate.ended >= 5.0]
    assert len(last) == workers
