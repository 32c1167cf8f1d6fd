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
            back = min(each.left_alone_until for each in known)
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
    assert first.refused_until == 10.0 + kept
    group.answered(first, 10.0 + kept / 2)  # another request, which found room
    assert group.choose(10.0 + 0.9 * kept) is not first
    assert group.able_in(10.0) == 0


def test_a_new_list_keeps_what_is_known():
    group = endpoints(3)
    kept = list(group)[1]
    kept.outstanding = 5
    group.replace([Endpoint("http://1"), Endpoint("http://9")])
    assert [endpoint.url for endpoint in group] == ["http://1", "http://9"]
    assert next(iter(group)) is kept


def told(group: Endpoints, endpoint: Endpoint, in_flight: int | None, now: float = 0.0, took: float = 1.0) -> None:
    """It replied to a request of this client's, which then is no longer outstanding."""
    endpoint.outstanding += 1
    group.replied(endpoint, in_flight, now - took, now)
    endpoint.outstanding -= 1


def test_loads_of_others_count_beside_ones_own():
    group = endpoints(2)
    busy, idle = group
    told(group, busy, 4)
    assert busy.others == 4
    idle.outstanding = 3
    assert group.choose(0.5) is idle
    idle.outstanding, busy.outstanding = 0, 2
    told(group, busy, 2)  # both are this client's own
    assert busy.others == 0


@given(st.integers(2, 6), st.integers(1, 10_000), st.integers(0, 99))
def test_one_that_was_busy_is_asked_again(count, load, seed):
    """What it told may be over, and while others reply nobody says so."""
    group = endpoints(count, seed)
    busy, *others = group
    for other in others:
        told(group, other, 1)
    told(group, busy, load)
    asked = 0
    for number in range(1, 200 * count):
        chosen = group.choose(0.1 * number)
        asked += chosen is busy
        if chosen is not busy:
            told(group, chosen, 1, now=0.1 * number)
    assert asked


def test_after_a_pause_what_was_told_counts_no_more():
    """A burst of a training step goes to new servers and old ones alike, whatever was told in the one before."""
    group = endpoints(3)
    first, second, _ = group
    told(group, first, 50, now=10.0, took=5.0)
    told(group, second, 30, now=11.0, took=5.0)
    assert {group.choose(16.0).url for _ in range(5)} <= {"http://1", "http://2"}
    assert {group.choose(16.1).url for _ in range(50)} == {"http://0", "http://1", "http://2"}


def test_a_short_reply_does_not_end_what_a_long_one_told():
    """Such as a refusal, or an answer of /v1/model."""
    group = endpoints(2)
    first, second = group
    told(group, first, 9, now=20.0, took=20.0)
    told(group, second, 0, now=21.0, took=0.004)
    assert {group.choose(30.0) for _ in range(20)} == {second}


def test_beside_one_that_tells_nothing_only_ones_own_requests_count():
    """During a rollout from a version that does not tell, or behind a proxy that takes the header out."""
    group = endpoints(2)
    first, second = group
    told(group, first, 8)
    told(group, second, None)
    assert {group.choose(0.0) for _ in range(50)} == {first, second}
    second.outstanding = 1
    assert group.choose(0.0) is first


def test_one_that_fails_is_not_known_to_be_busy_when_it_is_back():
    group = endpoints(2)
    first = next(iter(group))
    told(group, first, 50)
    group.failed(first, 0.0, 0.0)
    assert first.others == 0


@pytest.mark.parametrize(("servers", "grown"), [(2, 2), (4, 4), (16, 16), (2, 8)])
def test_workers_with_one_request_at_a_time_leave_no_server_idle(servers, grown):
    """Two workers for each server, some of which come later; by chance a fifth of the servers' time would be lost."""
    groups = [endpoints(servers, seed) for seed in range(2 * grown)]
    in_flight, free_at, done, start, horizon = [0] * grown, [0.0] * grown, [0] * grown, 100.0, 400.0
    events = [(0.001 * worker, worker, -1, 0.0) for worker in range(len(groups))]
    while events[0][0] < horizon:
        now, worker, place, began = heapq.heappop(events)
        group = groups[worker]
        if len(group) < grown and now > 50:
            group.replace([Endpoint(f"http://{number}") for number in range(grown)])
        if place >= 0:
            in_flight[place] -= 1
            done[place] += now > start
            endpoint = list(group)[place]
            group.replied(endpoint, in_flight[place], began, now)
            endpoint.outstanding -= 1
            heapq.heappush(events, (now + 0.1, worker, -1, 0.0))
            continue
        endpoint = group.choose(now)
        endpoint.outstanding += 1
        place = list(group).index(endpoint)
        in_flight[place] += 1
        free_at[place] = max(now, free_at[place]) + 1.0
        heapq.heappush(events, (free_at[place], worker, place, now))
    assert sum(done) / (horizon - start) / grown > 0.93
    assert min(done) / (horizon - start) > 0.85
