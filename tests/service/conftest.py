"""Fixtures of the server's tests."""

import pytest

from service.engine.providers import PROVIDERS
from service.engine.session import OnnxSession


@pytest.fixture(scope="session")
def onnx_session(pocket_bundle) -> OnnxSession:
    """ONNX Runtime over the causal pocket bundle."""
    return OnnxSession(pocket_bundle, PROVIDERS["cpu"], "fp32", 1)


@pytest.fixture(scope="session")
def onnx_encoder_session(pocket_encoder_bundle) -> OnnxSession:
    """ONNX Runtime over the bidirectional pocket bundle."""
    return OnnxSession(pocket_encoder_bundle, PROVIDERS["cpu"], "fp32", 1)
