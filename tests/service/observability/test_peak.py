"""The most within a minute is what a list of everything says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.observability.peak import Peak
from tests.service.doubles import Clock


@given(st.lists(st.tuples(st.floats(0, 40), st.integers(0, 9)), max_size=60))
def test_it_is_the_maximum_of_the_window(events):
    """A value is remembered for a minute, and for a second more at most."""
    clock, seen = Clock(), []
    peak = Peak(clock)
    for pause, value in events:
        clock.now += pause
        peak.see(value)
        seen.append((clock.now, value))
        certain = [v for moment, v in seen if moment >= clock.now - 60]
        possible = [v for moment, v in seen if moment >= clock.now - 62]
        assert max(certain) <= peak.most() <= max(possible)
    clock.now += 62
    assert peak.most() == 0


@pytest.mark.parametrize("rising", [True, False])
def test_what_is_remembered_is_bounded(rising):
    clock = Clock()
    peak = Peak(clock)
    for number in range(100_000):
        clock.now += 0.001
        peak.see(number if rising else -number)
    assert len(peak._seen) <= 63
