"""A full result is of a commit; what is beside the targets is shown beside them."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import result, tables
from benchmarks.result import CommitMovedError, Result, Row, Target, UncommittedError, refuse_uncommitted, uncommitted


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a committed file, and results that go into it."""

    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "code.py").write_text("one\n")
    git("add", ".")
    git("commit", "-m", "one")
    monkeypatch.setattr(result, "RESULTS", tmp_path / "benchmarks" / "results")
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "benchmarks" / "results")
    (tmp_path / "benchmarks").mkdir()
    monkeypatch.setattr(result, "_STARTED_AT", result.commit())
    return tmp_path


def made(quick: bool) -> Result:
    target = Target("fast", "1x", "2x", True)
    return Result("speed", quick, 0, [target], {}, [Row("part | one", "3x")], ["Mind the gap."])


def test_results_of_a_commit_are_written_one_after_the_other(tree: Path) -> None:
    """The result that was written before is itself a change of the tree."""
    made(quick=False).write()
    made(quick=False).write()
    assert uncommitted() == []
    written = json.loads((tree / "benchmarks" / "results" / "speed.json").read_text())
    assert "uncommitted" not in written["commit"]
    assert len(written["commit"]) == 40


@pytest.mark.parametrize("name", ["code.py", "new.py"])
def test_a_full_result_of_uncommitted_code_is_refused(tree: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / name).write_text("two\n")
    monkeypatch.setattr(result, "_STARTED_AT", result.commit())
    with pytest.raises(UncommittedError, match=rf"{name} is not committed: commit it, or measure with --quick"):
        made(quick=False).write()
    with pytest.raises(SystemExit, match=name):
        refuse_uncommitted(quick=False)
    refuse_uncommitted(quick=True)
    path = made(quick=True).write()
    assert path.name == "speed.quick.json"
    assert json.loads(path.read_text())["commit"].endswith(" with uncommitted changes")


def test_a_commit_that_moved_during_the_measurement_is_refused(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result, "_STARTED_AT", "0" * 40)
    with pytest.raises(CommitMovedError, match="moved from 0000"):
        made(quick=False).write()
    assert json.loads(made(quick=True).write().read_text())["commit"] == "0" * 40


def test_a_full_result_outside_a_repository_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result, "uncommitted", list)
    monkeypatch.setattr(result, "_STARTED_AT", "unknown")
    with pytest.raises(SystemExit, match="no git repository"):
        refuse_uncommitted(quick=False)


def test_quick_results_are_ignored_by_version_control() -> None:
    path = Path(__file__).parents[2] / "benchmarks" / "results" / "speed.quick.json"
    done = subprocess.run(["git", "-C", str(path.parents[2]), "check-ignore", "-q", "--no-index", str(path)])
    assert done.returncode == 0


def test_tables_show_claims_details_rows_and_notes(tree: Path) -> None:
    shown = made(quick=False)
    replace(shown, targets=[*shown.targets, Target("alike", "1e-4", "1e-6", False, detail=True)]).write()
    assert [line.split(" | ")[:4] for line in tables.claims(detail=False)[2:]] == [["| fast", "1x", "2x", "yes"]]
    assert [line.split(" | ")[:4] for line in tables.claims(detail=True)[2:]] == [["| alike", "1e-4", "1e-6", "**no**"]]
    assert tables.parts()[2].startswith(r"| part \| one | 3x | ")
    assert tables.notes() == ["- Mind the gap."]


def test_a_report_says_all(capsys: pytest.CaptureFixture[str]) -> None:
    made(quick=True).report()
    assert capsys.readouterr().out.split("\n") == [
        "held      fast: 2x  (target: 1x)",
        "          part | one: 3x",
        "          Mind the gap.",
        "",
    ]
