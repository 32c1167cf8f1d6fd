"""Fixtures of the server's tests."""

import pytest

from service.engine.providers import PROVIDERS
from service.engine.session import Resources, Session


@pytest.fixture(scope="session")
def onnx_session(pocket_bundle) -> Session:
    """ONNX Runtime over the causal pocket bundle."""
    return PROVIDERS["cpu"].open(pocket_bundle, "fp32", Resources())


@pytest.fixture(scope="session")
def onnx_encoder_session(pocket_encoder_bundle) -> Session:
    """ONNX Runtime over the bidirectional pocket bundle."""
    return PROVIDERS["cpu"].open(pocket_encoder_bundle, "fp32", Resources())
