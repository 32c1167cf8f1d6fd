"""Every claim is measured and reported by itself; what cannot be measured does not hold."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import verify_line
from benchmarks.result import RESULTS, Result, Target
from training.config import TrainingConfig


class Claim:
    """A benchmark that gives one target, or fails."""

    def __init__(self, held: bool | BaseException) -> None:
        self.held = held

    def __call__(self) -> Result:
        if isinstance(self.held, BaseException):
            raise self.held
        return Result("none", True, 0, [Target("fast", "1x", "2x", self.held)], {})


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs the command over made-up claims; returns its status."""
    written: list[str] = []
    monkeypatch.setattr(Result, "write", lambda self: written.append(self.benchmark))
    monkeypatch.setenv("ASSAY_DATA", str(tmp_path))

    def run(local: dict[str, Claim], public: dict[str, Claim]) -> tuple[int, list[str]]:
        monkeypatch.setattr(verify_line, "LOCAL", local)
        monkeypatch.setattr(verify_line, "PUBLIC", public)
        return verify_line.main(), written

    return run


def test_every_result_that_has_a_quick_form_is_measured() -> None:
    """But for the race, other systems' clients and training, which are make targets, a GPU's, and hours of learning."""
    commands = {path.stem: json.loads(path.read_text())["command"] for path in RESULTS.glob("*.json")}
    elsewhere = re.compile(
        r"benchmarks\.(serving|gpu|frameworks|feedback|training|accuracy|data_at_scale|operations|scale)"
    )
    claims = {name for name, command in commands.items() if not elsewhere.search(command)}
    parts = {name.replace(" ", "_") for name in (*verify_line.LOCAL, *verify_line.PUBLIC)}
    assert {name for name in claims if not name.endswith(".quick")} == parts


def test_all_held(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run({"a": Claim(True)}, {"b": Claim(True)}) == (0, ["none", "none"])
    assert "2 of 2 targets held" in capsys.readouterr().out


@pytest.mark.parametrize("failure", [OSError, SystemExit])
def test_what_fails_is_not_held_and_hinders_no_other(
    run: Any, capsys: pytest.CaptureFixture[str], failure: type[BaseException]
) -> None:
    """Also a benchmark that ends with a line for whoever called it by itself."""
    status, written = run({"a": Claim(failure("no\nport")), "b": Claim(False)}, {"c": Claim(True)})
    assert (status, written) == (1, ["none", "none"])
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"NOT HELD  a: {failure.__name__}: no port"
    assert out[1].startswith("NOT HELD  fast: 2x")
    assert out[2].startswith("held      fast: 2x")
    assert out[3].startswith("1 of 3 targets held")


def test_absent_public_data_are_named(
    run: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("ASSAY_DATA", str(tmp_path / "nowhere"))
    assert run({"a": Claim(True)}, {"b": Claim(True)}) == (1, ["none"])
    said = capsys.readouterr().out.splitlines()[1]
    assert said.startswith("NOT HELD  b: its public preference data (convarg.jsonl.gz, ")
    assert said.endswith(f"are not in {tmp_path / 'nowhere'}; set ASSAY_DATA to their folder")


def test_an_interrupted_training_of_the_default_model_is_begun_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[TrainingConfig] = []
    for step in ("run_fit", "run_evaluate", "run_export"):
        monkeypatch.setattr(verify_line, step, seen.append)
    monkeypatch.setattr(verify_line, "BUNDLE", tmp_path)
    verify_line.ensure_bundle()
    assert [config.overwrite for config in seen] == [True] * 3
    (tmp_path / "bundle.json").touch()
    verify_line.ensure_bundle()
    assert len(seen) == 3
