"""The choice among servers as a pure rule: balanced, away from what fails, and never stuck."""

import random

from hypothesis import given
from hypothesis import strategies as st

from assay_client.endpoints import EJECTION_BASE_S, EJECTION_CAP_S, Endpoint, Endpoints


def endpoints(count: int, seed: int = 0) -> Endpoints:
    return Endpoints([Endpoint(f"http://{number}") for number in range(count)], random.Random(seed))


@given(st.integers(2, 6), st.integers(0, 99))
def test_requests_that_stay_in_flight_are_spread(count, seed):
    """Least outstanding of two: with n servers and k requests each none has more than k and a little."""
    group = endpoints(count, seed)
    for _ in range(40 * count):
        group.choose(0.0).outstanding += 1
    assert max(endpoint.outstanding for endpoint in group) <= 40 + 6


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.floats(0, 5)), max_size=30),
    st.integers(0, 99),
)
def test_one_that_is_left_out_is_asked_only_if_all_are(count, events, seed):
    group = endpoints(count, seed)
    known, now = list(group), 0.0
    for place, works, pause in events:
        now += pause
        endpoint = known[place % count]
        if works:
            group.answered(endpoint)
        else:
            group.failed(endpoint, now)
        chosen = group.choose(now)
        able = [each for each in known if each.ejected_until <= now]
        if able:
            assert chosen in able
        else:
            assert chosen.ejected_until == min(each.ejected_until for each in known)
        assert group.another(now) == (count > 1 and bool(able))


def test_pauses_double_up_to_a_cap_and_end_with_an_answer():
    group = endpoints(2)
    first = next(iter(group))
    pauses, now = [], 0.0
    for _ in range(12):
        for _ in range(3):  # all that were in flight count as one
            group.failed(first, now)
        pauses.append(first.ejected_until - now)
        now = first.ejected_until
    assert pauses[:4] == [EJECTION_BASE_S * factor for factor in (1, 2, 4, 8)]
    assert pauses[-1] == EJECTION_CAP_S
    group.answered(first)
    assert (first.failures, first.ejected_until) == (0, 0.0)


def test_what_a_server_asked_for_is_kept_but_not_for_ever():
    group = endpoints(2)
    first = next(iter(group))
    group.failed(first, 0.0, retry_after_s=7.0)
    assert first.ejected_until == 7.0
    group.failed(first, 7.0, retry_after_s=3600.0)
    assert first.ejected_until == 7.0 + EJECTION_CAP_S


def test_a_new_list_keeps_what_is_known():
    group = endpoints(3)
    kept = list(group)[1]
    kept.outstanding = 5
    group.replace([Endpoint("http://1"), Endpoint("http://9")])
    assert [endpoint.url for endpoint in group] == ["http://1", "http://9"]
    assert next(iter(group)) is kept
