"""Change a bundle behind its manifest's back, and see it refused."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import ModelProto

from service.bundle.reader import BundleError, read_bundle
from tests.pocket import reseal


def refuse(folder: Path, name: str, reason: str) -> None:
    """Reading must fail on file `name` (the folder itself if empty), and the message go on with `reason`."""
    with pytest.raises(BundleError) as caught:
        read_bundle(folder)
    assert str(caught.value).startswith(f"{folder / name}: ")
    assert re.match(reason, str(caught.value).removeprefix(f"{folder / name}: ")), caught.value


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((folder / "bundle.json").read_bytes())
    edit(document)
    (folder / "bundle.json").write_text(json.dumps(document))


def edit_model(folder: Path, edit: Callable[[ModelProto], object]) -> None:
    """Change the graph and list it as it then is."""
    model = onnx.load_model(folder / "model.onnx", load_external_data=False)
    edit(model)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    reseal(folder)
