"""A run's model on data that the run does not know: the same figures as of its own test, and what they share."""

import json
from pathlib import Path

import pytest

from tests.training.tiny import causal_tokenizer, save_backbone, toy_records
from training.checkpoint_error import CheckpointError
from training.commands import COMMANDS
from training.config import DataConfig, ModelConfig, OptimiserConfig, TrainingConfig
from training.data import DataError, read_records, write_records
from training.evaluation.pair_table import read_test
from training.pipeline import run_evaluate, run_fit
from training.trained_runs import measure_on_new_data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluated run, whose own test data are named."""
    folder = tmp_path_factory.mktemp("run")
    save_backbone(folder / "backbone", "llama", causal_tokenizer())
    write_records(folder / "train.jsonl", toy_records(50, responses=3))
    write_records(folder / "own.jsonl", toy_records(20, seed=1, responses=3))
    config = TrainingConfig(
        run=folder / "run",
        progress=False,
        data=DataConfig(
            train=(str(folder / "train.jsonl"),), test=(str(folder / "own.jsonl"),), validation_fraction=0.2
        ),
        model=ModelConfig(backbone=str(folder / "backbone"), max_tokens=64, block_queries=16),
        optimiser=OptimiserConfig(epochs=2, learning_rate=1e-3, head_learning_rate=1e-2),
    )
    run_fit(config)
    run_evaluate(config)
    return config.run


def test_figures_are_those_of_the_run_s_own_test(run: Path, tmp_path: Path) -> None:
    own = DataConfig(test=(str(run.parent / "own.jsonl"),))
    found = measure_on_new_data(run, own, tmp_path, progress=False)
    assert found.as_json() == json.loads((run / "evaluation.json").read_text())
    assert read_test(tmp_path) == read_test(run)
    for name in ("report.html", "report.json", "summary.md"):
        assert (tmp_path / name).is_file()


def test_other_data_leave_the_run_alone_and_say_what_they_share(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    new = tmp_path / "new.jsonl"
    known = [r.model_copy(update={"id": f"k{r.id}"}) for r in read_records(run.parent / "train.jsonl").records]
    write_records(new, [*toy_records(30, seed=2, responses=3), *known])
    assert COMMANDS["test"]([str(run), str(new), "--no-progress"]) == 0
    folder = run / "tests" / "new"
    assert f"The whole report: {folder / 'report.html'}" in capsys.readouterr().out
    page = (folder / "report.html").read_text()
    assert "<td>test</td>" in page
    assert "shared with the test before anything was dropped: prompt</td><td>50" in page
    learnt = json.loads((run / "data.json").read_text())["parts"]["train"]["prompts"]  # the others chose among states
    assert 0 < learnt < 50
    said = f"the model has learnt from {learnt} of the 80 prompts, their dialogues or groups: the figures are too good"
    assert said in page
    assert said in (folder / "summary.md").read_text()
    assert {path: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
    assert COMMANDS["test"]([str(run), str(new), "--no-progress", "--out", str(tmp_path / "again")]) == 0
    assert COMMANDS["compare"]([str(folder), str(tmp_path / "again")]) == 0


def test_a_folder_that_holds_something_else_is_left_alone(run: Path, tmp_path: Path) -> None:
    own = DataConfig(test=(str(run.parent / "own.jsonl"),))
    other = tmp_path / "other.jsonl"
    write_records(other, toy_records(10, seed=3, responses=3))
    before = (run / "evaluation.json").read_bytes()
    with pytest.raises(ValueError, match="is there and holds no test; name another folder"):
        measure_on_new_data(run, own, run, progress=False)
    assert (run / "evaluation.json").read_bytes() == before
    for _ in range(2):
        measure_on_new_data(run, own, tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match=r"holds a test on .*own.jsonl; name another folder"):
        measure_on_new_data(run, DataConfig(test=(str(other),)), tmp_path / "out", progress=False)


def test_folders_are_named_after_all_data(run: Path, tmp_path: Path) -> None:
    names = [tmp_path / "new.v1.jsonl", tmp_path / "new.v2.jsonl"]
    for seed, name in enumerate(names):
        write_records(name, toy_records(10, seed=7 + seed, responses=3))
    assert COMMANDS["test"]([str(run), str(names[0]), "--no-progress"]) == 0
    assert COMMANDS["test"]([str(run), *map(str, names), "--no-progress"]) == 0
    assert {"new.v1", "new.v1-new.v2"} <= {path.name for path in (run / "tests").iterdir()}


def test_training_data_that_are_gone_are_no_obstacle(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train = run.parent / "train.jsonl"
    content = train.read_bytes()
    train.unlink()
    try:
        found = measure_on_new_data(run, DataConfig(test=(str(run.parent / "own.jsonl"),)), tmp_path, progress=False)
    finally:
        train.write_bytes(content)
    assert found.prompts == 20
    assert "what the test shares with the training data is not known: " in caplog.text
    said = "Whether the model has learnt from some of the prompts is not known"
    assert said in (tmp_path / "summary.md").read_text()
    assert said in (tmp_path / "report.html").read_text()
    assert json.loads((tmp_path / "report.json").read_text())["subject"]["provenance"]["data_sha256"]


def test_what_cannot_be_tested_is_one_line(run: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "p", "chosen": "a", "rejected": 3}\n')
    settings = DataConfig(test=(str(bad),))
    with pytest.raises(DataError, match=r"bad.jsonl:1: "):
        measure_on_new_data(run, settings, tmp_path / "out", progress=False)
    bad.write_text('{"prompt": "p", "response_a": "a", "response_b": "b", "votes_a": 1, "votes_b": 1}\n')
    with pytest.raises(DataError, match="no pair has a majority, so there is nothing to measure"):
        measure_on_new_data(run, settings, tmp_path / "out", progress=False)
    with pytest.raises(CheckpointError, match="no trained model here"):
        measure_on_new_data(tmp_path, settings, tmp_path / "out", progress=False)
    with pytest.raises(SystemExit):
        COMMANDS["test"]([str(run), str(bad), "--format", "nonsense"])
    assert not (tmp_path / "out").exists()


def test_columns_of_other_names(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"q": f"{k}+{k}?", "good": f"it is {2 * k}", "rejected": f"it is {2 * k + 1}"} for k in range(20)]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    call = [str(run), str(tmp_path / "new.jsonl"), "--no-progress", "--out", str(tmp_path / "found")]
    assert COMMANDS["test"]([*call, "--column", "prompt=q", "--column", "chosen=good"]) == 0
    assert read_test(tmp_path / "found")
    with pytest.raises(SystemExit):
        COMMANDS["test"]([*call, "--column", "q"])
    assert "--column: 'q' is not NAME=THEIRS" in capsys.readouterr().err
