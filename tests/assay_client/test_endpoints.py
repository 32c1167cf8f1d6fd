"""The choice among servers as a pure rule: balanced, away from what fails, and never stuck."""

import heapq
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay_client.endpoints import EJECTION_BASE_S, EJECTION_CAP_S, REFUSAL_CAP_S, Endpoint, Endpoints


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
    st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.floats(0, 5), st.floats(0, 3)), max_size=30),
    st.integers(0, 99),
)
def test_one_that_is_left_out_is_asked_only_if_all_are(count, events, seed):
    group = endpoints(count, seed)
    known, now = list(group), 0.0
    for place, works, pause, took in events:
        now += pause
        endpoint = known[place % count]
        if works:
            group.answered(endpoint, now - took)
        else:
            group.failed(endpoint, now - took, now)
        able = [each for each in known if each.ejected_until <= now]
        assert group.choose(now) in (able or known)
        if count > 1:
            back = min(each.ejected_until for each in known)
            assert group.able_in(now) == (0 if able else back - now)
        else:
            assert group.able_in(now) is None
        assert all(each.ejected_until <= now + EJECTION_CAP_S for each in known)


def test_where_all_are_left_out_each_is_asked_so_that_one_that_works_again_is_found():
    group = endpoints(2)
    for endpoint, wait in zip(group, (30.0, 20.0), strict=True):
        group.failed(endpoint, 0.0, 0.0, retry_after_s=wait)
    assert len({group.choose(1.0).url for _ in range(50)}) == 2


def test_pauses_double_up_to_a_cap_and_end_with_an_answer():
    group = endpoints(2)
    first = next(iter(group))
    pauses, now = [], 0.0
    for _ in range(12):
        group.failed(first, now, now)
        pauses.append(first.ejected_until - now)
        now = first.ejected_until
    assert pauses[:4] == [EJECTION_BASE_S * factor for factor in (1, 2, 4, 8)]
    assert pauses[-1] == EJECTION_CAP_S
    group.answered(first, now)
    assert first.failures == 0
    assert first.ejected_until < 0


def test_requests_that_were_in_flight_say_nothing_new():
    group = endpoints(2)
    first = next(iter(group))
    group.failed(first, began=5.0, now=6.0)
    assert (first.failures, first.ejected_until) == (1, 6.0 + EJECTION_BASE_S)
    group.failed(first, began=5.5, now=6.1)
    assert (first.failures, first.ejected_until) == (1, 6.0 + EJECTION_BASE_S)
    group.answered(first, began=5.5)
    assert first.ejected_until == 6.0 + EJECTION_BASE_S
    group.answered(first, began=6.2)  # all were left out, so that it was asked
    assert first.failures == 0


def test_what_a_server_asked_for_is_kept_but_not_for_ever():
    group = endpoints(2)
    first = next(iter(group))
    group.failed(first, 0.0, 0.0, retry_after_s=7.0)
    assert first.ejected_until == 7.0
    group.failed(first, 7.0, 7.0, retry_after_s=3600.0)
    assert first.ejected_until == 7.0 + EJECTION_CAP_S


@pytest.mark.parametrize(("wanted", "kept"), [(None, EJECTION_BASE_S), (1.0, 1.0), (60.0, REFUSAL_CAP_S)])
def test_a_refusal_is_of_one_request_and_no_failure(wanted, kept):
    """A large one may be told to come back in a minute, and the small ones of this client find room at once."""
    group = endpoints(2)
    first = next(iter(group))
    for _ in range(5):
        group.refused(first, 10.0, 10.0, wanted)
    assert first.failures == 0
    assert first.ejected_until == 10.0 + kept


def test_a_new_list_keeps_what_is_known():
    group = endpoints(3)
    kept = list(group)[1]
    kept.outstanding = 5
    group.replace([Endpoint("http://1"), Endpoint("http://9")])
    assert [endpoint.url for endpoint in group] == ["http://1", "http://9"]
    assert next(iter(group)) is kept


def test_loads_of_others_count_beside_ones_own():
    group = endpoints(2)
    busy, idle = group
    busy.outstanding = 1
    group.reported(busy, 4)  # beside the one it replied to
    assert busy.others == 4
    busy.outstanding, idle.outstanding = 0, 3
    assert group.choose(0.0) is idle
    busy.outstanding = 3
    group.reported(busy, 2)  # both are this client's own
    assert busy.others == 0


@given(st.integers(2, 6), st.integers(1, 10_000))
def test_one_that_was_busy_is_asked_again(count, load):
    """What it said may be long ago, and nobody else says that it is not so any more."""
    group = endpoints(count)
    busy = next(iter(group))
    busy.outstanding = 1
    group.reported(busy, load)
    busy.outstanding = 0
    for other in list(group)[1:]:
        other.outstanding = 1
    assert any(group.choose(0.0) is busy for _ in range(100 * count))


def test_one_that_fails_is_not_known_to_be_busy_when_it_is_back():
    group = endpoints(2)
    first = next(iter(group))
    first.outstanding = 1
    group.reported(first, 50)
    group.failed(first, 0.0, 0.0)
    assert first.others == 0


@pytest.mark.parametrize("servers", [2, 4, 16])
def test_workers_with_one_request_at_a_time_leave_no_server_idle(servers):
    """Two workers for each server, in turns of its own; by chance alone a fifth of the servers' time would be lost."""
    groups = [endpoints(servers, seed) for seed in range(2 * servers)]
    in_flight, free_at, done, horizon = [0] * servers, [0.0] * servers, 0, 300.0
    events = [(0.001 * worker, worker, -1) for worker in range(len(groups))]
    while events:
        now, worker, place = heapq.heappop(events)
        if now > horizon:
            break
        group = groups[worker]
        if place >= 0:
            in_flight[place] -= 1
            done += 1
            endpoint = list(group)[place]
            group.reported(endpoint, in_flight[place])
            endpoint.outstanding -= 1
            heapq.heappush(events, (now + 0.1, worker, -1))
            continue
        endpoint = group.choose(now)
        endpoint.outstanding += 1
        place = list(group).index(endpoint)
        in_flight[place] += 1
        free_at[place] = max(now, free_at[place]) + 1.0
        heapq.heappush(events, (free_at[place], worker, place))
    assert done / horizon / servers > 0.93
