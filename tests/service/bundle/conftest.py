"""A bundle to tamper with."""

import shutil
from pathlib import Path

import pytest

from service.bundle.reader import Bundle


@pytest.fixture
def folder(pocket_bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle of one's own to tamper with."""
    return Path(shutil.copytree(pocket_bundle.folder, tmp_path / "bundle"))
