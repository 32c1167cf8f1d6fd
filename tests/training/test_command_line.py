"""assay-train as a user meets it: a process, its exit code, and one clear line."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from service.bundle.layout import Family
from service.bundle.reader import read_bundle
from tests.pocket import write_pocket_bundle
from tests.training.feedback.tiny_policy import save_policy
from tests.training.tiny import encoder_tokenizer, save_backbone, tiny_checkpoint, toy_records
from training.__main__ import main
from training.checkpoint import save_checkpoint
from training.data import write_records

ROOT = Path(__file__).parents[2]


def call(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "training", *map(str, arguments)],
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def line(done: subprocess.CompletedProcess[str], status: int) -> str:
    """The one line that a failed call says."""
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("assay-train: ")
    return done.stderr


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "toy.jsonl"
    write_records(path, toy_records(60, responses=3))
    return path


def test_help_teaches() -> None:
    done = call("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for word in (
        "fit",
        "evaluate",
        "export",
        "run",
        "compare",
        "rewardbench",
        "inspect",
        "ppo",
        "grpo",
        "--config",
        "assay-train run --data.train",
    ):
        assert word in done.stdout
    assert call().returncode == 2


def test_help_of_a_command_lists_every_setting_with_its_meaning() -> None:
    done = call("fit", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    text = " ".join(done.stdout.split())
    assert "--optimiser.learning-rate" in text
    assert "adapters (model.lora_rank) 1e-4. (default: 5e-05)" in text
    assert "--data.on-leakage {error,drop,report}" in text


@pytest.mark.parametrize("arguments", [["--help"], ["fit", "--help"], ["fit", "--optimiser.seed", "x"]])
def test_help_and_wrong_settings_do_not_wait_for_torch(arguments: list[str]) -> None:
    code = (
        "import sys; sys.argv = ['assay-train', *sys.argv[1:]]\n"
        "from training.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'transformers', 'onnxruntime'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_unknown_command() -> None:
    commands = "fit, evaluate, export, run, import, average, test, compare, rewardbench, inspect, ppo, grpo"
    assert f"unknown command 'fitt'; one of {commands}" in line(call("fitt"), 2)


@pytest.mark.parametrize("flag", ["--data.trian", "--optimiser.learn", "--seed"])
def test_unknown_flag(flag: str) -> None:
    done = call("fit", flag, "1")
    assert done.returncode == 2
    assert f"unrecognized arguments: {flag} 1" in done.stderr
    assert done.stderr.count("\n") == 2


def test_unknown_toml_key_and_wrong_types(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[data]\ntrian = ["x"]\n[optimiser]\nepochs = "many"\nseed = 1.5\n')
    said = line(call("fit", "--config", path), 2)
    assert f"{path}: data.trian: there is no such setting" in said
    assert "optimiser.epochs: Input should be a valid number" in said
    assert "(given: 'many')" in said
    assert "optimiser.seed: Input should be a valid integer" in said


def test_a_file_that_is_not_toml(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("data: yaml\n")
    assert f"{path}: not TOML: " in line(call("fit", "--config", path), 2)
    path.write_bytes(b"\xff\xfe")
    assert f"{path}: not TOML: " in line(call("fit", "--config", path), 2)
    assert "no such file" in line(call("fit", "--config", tmp_path / "other.toml"), 2)


def test_broken_row_is_named_by_file_and_line(tmp_path: Path, data: Path) -> None:
    rows = data.read_text().splitlines()
    broken = json.loads(rows[3])
    broken["judgements"][0]["j"] = 7
    data.write_text("\n".join([*rows[:3], json.dumps(broken), *rows[4:]]))
    said = line(call("fit", "--data.train", data, "--run", tmp_path / "run"), 1)
    assert f"{data}:4: judgement 0 compares" in said
    assert not (tmp_path / "run").exists()


class Here:
    """The same entry point without a new process, which would import torch again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def fails(self, *arguments: str | Path) -> str:
        """The last line on standard error of a call that must exit with 1."""
        self._monkeypatch.setattr(sys, "argv", ["assay-train", *map(str, arguments)])
        assert main() == 1
        out, err = self._capsys.readouterr()
        assert out == ""
        assert "Traceback" not in err
        last: str = err.splitlines()[-1]
        assert last.startswith("assay-train: ")
        return last


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    return Here(monkeypatch, capsys)


def test_missing_data_file(here: Here, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere.jsonl"
    assert f"{missing}: no such file or folder" in here.fails("fit", "--data.train", missing, "--run", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_too_little_data(here: Here, tmp_path: Path, data: Path) -> None:
    data.write_text(data.read_text().splitlines()[0])
    said = here.fails("fit", "--data.train", data, "--run", tmp_path / "run")
    assert re.search("no (train|validation|test) prompts: 1 prompts in shares of .* use more data", said)


def test_backbone_that_is_not_there(here: Here, tmp_path: Path, data: Path) -> None:
    arguments = ["fit", "--data.train", data, "--run", tmp_path / "run", "--no-progress", "--model.backbone"]
    assert here.fails(*arguments, "./nothing") == "assay-train: model.backbone: no folder './nothing'"
    assert "model.backbone: 'nobody/nothing' cannot be loaded" in here.fails(*arguments, "nobody/nothing")
    assert not (tmp_path / "run").exists()


def test_backbone_that_cannot_share_prefixes(here: Here, tmp_path: Path, data: Path) -> None:
    folder = save_backbone(tmp_path / "mamba", "mamba")
    said = here.fails("fit", "--data.train", data, "--run", tmp_path / "run", "--model.backbone", folder)
    assert "MambaModel has layers of kind linear_attention" in said


def test_broken_checkpoint(here: Here, tmp_path: Path) -> None:
    assert "no trained model here" in here.fails("evaluate", "--run", tmp_path)
    save_checkpoint(tiny_checkpoint(Family.CAUSAL), tmp_path / "model")
    assert "calibration.json is missing; run `assay-train evaluate` first" in here.fails("export", "--run", tmp_path)
    (tmp_path / "model" / "model.safetensors").write_bytes(b"\x00" * 100)
    for command in ("evaluate", "export"):
        said = here.fails(command, "--run", tmp_path)
        assert f"{tmp_path / 'model'}: the checkpoint cannot be read" in said


def test_a_bundle_that_could_not_be_replaced_is_refused_before_training(here: Here, tmp_path: Path, data: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "thesis.tex").write_text("precious")
    arguments = ("run", "--data.train", data, "--run", tmp_path / "run", "--bundle", tmp_path / "bundle")
    assert f"--bundle {tmp_path / 'bundle'}: is there and is not a bundle; move it away" in here.fails(*arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("checkpoint", [False, True])
def test_an_interruption_advises_what_is_possible(
    tmp_path: Path, checkpoint: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: object) -> None:
        (tmp_path / "configuration.json").touch()
        if checkpoint:
            (tmp_path / "checkpoints" / "checkpoint-3").mkdir(parents=True)
            (tmp_path / "checkpoints" / "checkpoint-3" / "trainer_state.json").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("training.pipeline.run_fit", interrupted)
    monkeypatch.setattr(sys, "argv", ["assay-train", "fit", "--run", str(tmp_path)])
    assert main() == 130
    way_on = f"; `assay-train fit --run {tmp_path} --resume` goes on from the last checkpoint" if checkpoint else ""
    assert capsys.readouterr().err == f"assay-train: interrupted{way_on}\n"


def test_inspect(tmp_path: Path) -> None:
    bundle = write_pocket_bundle(tmp_path / "pocket")
    done = call("inspect", bundle.folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert bundle.digest in done.stdout
    (bundle.folder / "tokenizer.json").write_bytes(b"{}")
    assert f"{bundle.folder / 'tokenizer.json'}: has 2 bytes where bundle.json says" in line(
        call("inspect", bundle.folder), 1
    )
    assert "no such bundle folder" in line(call("inspect", tmp_path / "nothing"), 1)


def test_run_from_preferences_to_a_bundle(tmp_path: Path, data: Path) -> None:
    """TOML and flags, all three steps, and what the run leaves behind."""
    save_backbone(tmp_path / "backbone", "bert", encoder_tokenizer())
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\nrun = "runs/mine"\nbundle = "bundles/mine"\n'
        '[data]\ntrain = ["toy.jsonl"]\ntest_fraction = 0.2\nvalidation_fraction = 0.2\n'
        '[model]\nbackbone = "./backbone"\nmax_tokens = 64\n'
        "[optimiser]\nepochs = 1\nlearning_rate = 1e-3\nhead_learning_rate = 1e-2\nseed = 3\n"
    )
    done = call("run", "--config", "mine.toml", "--optimiser.epochs", "4", "--no-progress", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "# Evaluation of mine" in done.stdout
    run = tmp_path / "runs" / "mine"
    assert {path.name for path in run.iterdir()} == {
        "calibration.json",
        "checkpoints",
        "configuration.json",
        "evaluated.json",
        "data.json",
        "evaluation.json",
        "model",
        "pairs.jsonl",
        "reference.json",
        "report.html",
        "report.json",
        "summary.md",
        "tensorboard",
        "training.json",
    }
    bundle = read_bundle(tmp_path / "bundles" / "mine")
    assert bundle.digest in done.stdout
    assert bundle.manifest.name == "mine"
    configuration = bundle.manifest.provenance.configuration
    assert configuration["optimiser"]["epochs"] == 4  # the flag won
    assert configuration["optimiser"]["seed"] == 3
    assert bundle.manifest.evaluation["accuracy"] > 0.7
    account = json.loads((run / "data.json").read_text())
    assert sum(part["prompts"] for part in account["parts"].values()) == account["rows"]["read"] == 60
    assert f"The whole report: {Path('runs/mine/report.html')}" in done.stdout
    assert (bundle.folder / "report" / "report.html").read_text() == (run / "report.html").read_text()

    done = call("compare", "runs/mine", "runs/mine", "--json", "difference.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "# runs/mine (A) and runs/mine (B)" in done.stdout
    assert "No difference in accuracy is shown" in done.stdout
    assert json.loads((tmp_path / "difference.json").read_text())["every"]["p_value"] == 1.0

    row = {"prompt": "p", "chosen": "+++", "rejected": "abc", "subset": "alpacaeval-easy"}
    (tmp_path / "bench.jsonl").write_text(json.dumps(row) + "\n")
    done = call("rewardbench", "runs/mine", "bench.jsonl", "--no-progress", "--json", "bench.json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "# mine on RewardBench (1 tasks)" in done.stdout
    assert json.loads((tmp_path / "bench.json").read_text())["sections"]["Chat"] in (0.0, 1.0)


def test_comparing_what_was_not_evaluated(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"question": "q"}\n')
    assert "pairs.jsonl is missing; run `assay-train evaluate` first" in line(call("compare", tmp_path, tmp_path), 1)
    told = line(call("rewardbench", tmp_path, tmp_path / "rows.jsonl"), 1)
    assert "rows.jsonl:1: cannot tell the benchmark from the columns (question)" in told
    (tmp_path / "rows.jsonl").write_text(
        json.dumps({"prompt": "p", "chosen": "a", "rejected": "b", "subset": "donotanswer"}) + "\n"
    )
    assert "no trained model here" in line(call("rewardbench", tmp_path, tmp_path / "rows.jsonl"), 1)


def test_learning_from_a_server_lists_its_settings() -> None:
    for command, own in (("ppo", "--ppo.clip"), ("grpo", "--grpo.responses-per-prompt")):
        done = call(command, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        for flag in (own, "--reward.url", "--reward.judge-url", "--policy.bf16", "--kl-coefficient"):
            assert flag in done.stdout


def test_a_server_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"prompt {number}"}) + "\n" for number in range(9)))
    told = line(
        call(
            "ppo", "--prompts.train", prompts, "--prompts.held-out-count", "3", "--run", tmp_path / "run",
            "--policy.backbone", save_policy(tmp_path / "policy"), "--reward.url", "http://127.0.0.1:9",
            "--reward.timeout", "1",
        ),
        1,
    )  # fmt: skip
    assert "reward server http://127.0.0.1:9" in told
    assert not (tmp_path / "run").exists()
