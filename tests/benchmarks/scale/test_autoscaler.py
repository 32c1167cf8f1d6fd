"""Nothing is lost in the simulation, and it knows the trivial answers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scale.autoscaler import Balancing, Fleet, Scenario, allowed, desired, of_manifest, simulate


@given(st.integers(1, 3000), st.sampled_from(["sdk", "pinned"]), st.sampled_from([None, 3]), st.floats(100, 1e4))
@settings(max_examples=20, deadline=None)
def test_every_item_is_served(workers: int, balancing: str, fixed: int | None, queue: float) -> None:
    scenario = Scenario(workers, steps=3, balancing=balancing, fixed=fixed, queue=queue)
    assert simulate(scenario).served == pytest.approx(workers * scenario.items * scenario.steps, abs=1e-3)


@pytest.mark.parametrize("queue", [100.0, 1e9])
def test_a_fixed_number_of_replicas_takes_as_long_as_the_fullest(queue: float) -> None:
    """However much of it is refused at first, as what is refused comes back at once."""
    for drain in simulate(Scenario(1000, rate=100.0, fixed=4, steps=2, queue=queue)).drains:
        assert drain == pytest.approx(8000 / 4 / 100, abs=3)


def test_the_autoscaler_shortens_long_bursts_and_is_within_the_bounds_of_the_manifest() -> None:
    outcome = simulate(Scenario(5000, rate=100.0))
    assert outcome.drains[-1] < outcome.drains[0] / 2
    assert max(outcome.replicas) == of_manifest().most == 20
    assert max(simulate(Scenario(5000, rate=100.0, most=30)).replicas) == 30


def test_when_it_looks_makes_a_difference_and_the_seed_says_when() -> None:
    drains = {simulate(Scenario(2000, seed=seed)).drains[1] for seed in range(5)}
    assert len(drains) > 1


@pytest.mark.parametrize("seed", range(8))
def test_replicas_do_not_go_between_bursts_of_seconds(seed: int) -> None:
    """However scrapes and polls lie against them: what waits at a scrape is most often nothing."""
    outcome = simulate(Scenario(2000, seed=seed))
    assert max(outcome.drains[-5:]) < 10
    assert outcome.replicas[2:] == sorted(outcome.replicas[2:])


def test_a_peak_is_of_each_replica_and_forgotten_after_a_minute() -> None:
    fleet = Fleet(Scenario(1, rate=100.0), 2)
    fleet.admit(np.array([500.0, 0.0]))
    fleet.remember(0.0)
    fleet.serve(10.0)
    fleet.admit(np.array([0.0, 300.0]))
    for now in (10.0, 59.0):
        fleet.remember(now)
        assert fleet.peak(now) == 800
    fleet.serve(10.0)
    fleet.remember(75.0)
    assert fleet.peak(75.0) == 300
    assert fleet.peak(136.0) == 0


def test_a_step_longer_than_the_window_finds_the_fewest_replicas_and_one_within_it_does_not() -> None:
    short, long = (simulate(Scenario(2000, step_s=600.0, steps=6, down_s=window)) for window in (None, 900.0))
    assert min(short.drains[-3:]) > 30
    assert max(long.drains[-3:]) < 10


def test_what_was_refused_is_seen_by_no_metric() -> None:
    """Two replicas show at most what their queues hold, so the first wish is for no more."""
    seen = simulate(Scenario(20_000, most=200, queue=2048.0, steps=1))
    all_of_it = simulate(Scenario(20_000, most=200, queue=1e9, steps=1))
    assert seen.replicas[0] < all_of_it.replicas[0]


@pytest.mark.parametrize(
    ("items", "have", "replicas"),
    [(0, 2, 2), (1024, 2, 2), (1100, 2, 2), (1130, 2, 3), (5120, 10, 10), (5633, 10, 12), (10**9, 2, 200)],
)
def test_what_the_scaler_wants(items: float, have: int, replicas: int) -> None:
    assert desired(items, have, of_manifest(), 200) == replicas


@pytest.mark.parametrize(("have", "before", "most"), [(2, 2, 6), (6, 2, 6), (10, 10, 20), (20, 3, 20)])
def test_how_fast_it_may_grow(have: int, before: int, most: int) -> None:
    assert allowed(have, before) == most


def test_pinned_connections_stay_until_their_replica_goes_or_they_were_idle_for_long() -> None:
    pinned = Balancing(Scenario(100, balancing="pinned"), np.random.default_rng(0))
    first = pinned.spread(100.0, 4)
    assert pinned.spread(100.0, 8).tolist() == [*first.tolist(), 0, 0, 0, 0]
    fewer = pinned.spread(100.0, 2)
    assert fewer.sum() == 100
    assert (fewer >= first[:2]).all()
    assert pinned.spread(100.0, 8, idle_s=76.0)[4:].sum() > 0


def test_a_burst_by_the_choice_of_the_sdk_goes_to_replicas_that_came_later_too() -> None:
    sdk = Balancing(Scenario(1000), np.random.default_rng(0))
    sdk.spread(8000.0, 2)
    assert sdk.spread(8000.0, 50).min() > 0
