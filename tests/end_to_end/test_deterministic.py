"""A deterministic server under traffic: a request's scores are its own, to the bit."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from assay_client import RewardClient
from tests.end_to_end.process import server_process

PROMPT = "Tell me about rivers."
RESPONSES = [f"answer {'long ' * (n % 7)}{n}" for n in range(40)]


@pytest.fixture(scope="module")
def client(pocket_bundle, tmp_path_factory):
    flags = ("--deterministic", "--max-batch-tokens", "64")
    with server_process(pocket_bundle, tmp_path_factory.mktemp("server"), *flags) as process:
        with RewardClient(process.url, max_concurrency=8) as client:
            client.wait_until_ready(30)
            yield client


def test_equal_requests_get_equal_bits_whatever_else_is_asked(client):
    alone = client.score(PROMPT, RESPONSES).scores

    def ask(number: int) -> tuple[float, ...]:
        if number % 2:
            return client.score(PROMPT, RESPONSES).scores
        client.score(PROMPT if number % 4 else "Another.", RESPONSES[number : number + 1 + number % 5])
        return alone

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(40))) == [alone] * 40
