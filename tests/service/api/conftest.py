"""Servers that the API's tests share."""

import pytest

from tests.service.serving import serving


@pytest.fixture(scope="module")
def served(pocket_bundle):
    """A server over the causal bundle, with limits that a test can reach."""
    with serving(pocket_bundle, max_items=50, max_body_bytes=2**20, max_header_bytes=4096) as served:
        yield served
