"""Nothing is lost in the simulation, and it knows the trivial answers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scale.autoscaler import TICK_S, Scenario, desired, simulate, spread


@given(st.integers(1, 3000), st.sampled_from(["sdk", "pinned"]), st.booleans())
@settings(max_examples=20)
def test_every_item_is_served(workers: int, balancing: str, autoscaled: bool) -> None:
    scenario = Scenario(workers, steps=3, most=20, balancing=balancing, autoscaled=autoscaled)
    assert simulate(scenario).served == pytest.approx(workers * scenario.items * scenario.steps, abs=1e-3)


def test_a_fixed_number_of_replicas_takes_as_long_as_the_fullest() -> None:
    scenario = Scenario(1000, rate=100.0, most=4, autoscaled=False, steps=2)
    for drain in simulate(scenario).drains:
        assert drain == pytest.approx(8000 / 4 / 100, abs=1 + TICK_S)


def test_the_autoscaler_shortens_long_bursts_and_is_within_its_bounds() -> None:
    outcome = simulate(Scenario(5000, rate=100.0, most=30))
    assert outcome.drains[-1] < outcome.drains[0] / 3
    assert max(outcome.replicas) <= 30


def test_two_draws_are_more_even_than_one() -> None:
    generator = np.random.default_rng(0)
    most = {how: spread(8000.0, 1000, 50, how, generator).max() for how in ("sdk", "pinned")}
    assert 160 <= most["sdk"] <= 185 < most["pinned"]


@pytest.mark.parametrize(("items", "replicas"), [(0, 2), (1024, 2), (1025, 3), (10**9, 200)])
def test_what_the_scaler_wants(items: float, replicas: int) -> None:
    assert desired(items, Scenario(1)) == replicas
