"""The load asks for different things, so that an exchanged score could be seen."""

import random

import pytest

from benchmarks.ppo_client import PER_PROMPT, RESPONSES, pool, rollout, within_prompts


def test_a_call_asks_for_different_pairs() -> None:
    prompts = pool()
    assert len(prompts) > 300
    for seed in range(20):
        batch = rollout(prompts, random.Random(seed))
        assert len(batch) == len(set(map(str, batch))) == RESPONSES
        assert len({str(prompt) for prompt, _ in batch}) == RESPONSES // PER_PROMPT


def test_the_spread_within_prompts_does_not_see_that_between_them() -> None:
    pairs = [("p", "a"), ("p", "b"), ("q", "a"), ("q", "b")]
    assert within_prompts(pairs, [1.0, 1.0, 5.0, 5.0]) == 0
    assert within_prompts(pairs, [0.0, 1.0, 5.0, 6.0]) == pytest.approx(0.5)
