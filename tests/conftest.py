"""Fixtures that several packages share."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parents[1]))

# No hub is asked for what is not there: that takes a minute of retries where none can be reached.
os.environ["HF_HUB_OFFLINE"] = "1"

from service.bundle.layout import Family
from service.bundle.reader import Bundle
from tests.pocket import write_pocket_bundle

# How long one example takes says more about the machine's other guests than about the code.
settings.register_profile("assay", deadline=None)
settings.load_profile("assay")


@pytest.fixture(scope="session")
def pocket_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A causal bundle with a chat template; shared, so copy its folder before you change it."""
    return write_pocket_bundle(tmp_path_factory.mktemp("causal") / "pocket")


@pytest.fixture(scope="session")
def pocket_encoder_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bidirectional bundle; shared, so copy its folder before you change it."""
    return write_pocket_bundle(tmp_path_factory.mktemp("encoder") / "pocket", Family.BIDIRECTIONAL)
