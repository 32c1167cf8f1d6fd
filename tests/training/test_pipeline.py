"""The steps of a run over one folder: what each leaves, what a new one takes away, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.bundle.layout import plan_layout
from service.bundle.reference import Reference
from service.engine.providers import PROVIDERS
from service.engine.session import Resources
from tests.training.tiny import causal_tokenizer, save_backbone, toy_records
from training.checkpoint import load_checkpoint
from training.checkpoint_error import CheckpointError
from training.config import DataConfig, ExportConfig, LossConfig, ModelConfig, OptimiserConfig, TrainingConfig
from training.data import write_records
from training.fit import RewardTrainer
from training.pipeline import run_evaluate, run_export, run_fit

Configure = Callable[..., TrainingConfig]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("backbone"), "llama", causal_tokenizer())


@pytest.fixture
def configure(tmp_path: Path, backbone: Path) -> Configure:
    data = tmp_path / "toy.jsonl"
    write_records(data, toy_records(50, responses=3))

    def configuration(optimiser: dict[str, Any] | None = None, **changes: Any) -> TrainingConfig:
        quick = {"epochs": 2, "learning_rate": 1e-3, "head_learning_rate": 1e-2, "patience": 0}
        return TrainingConfig(
            **{
                "run": tmp_path / "run",
                "bundle": tmp_path / "bundle",
                "progress": False,
                "data": DataConfig(train=(str(data),), validation_fraction=0.2, test_fraction=0.2),
                "model": ModelConfig(backbone=str(backbone), max_tokens=64, block_queries=16),
                "optimiser": OptimiserConfig(**quick | (optimiser or {})),
                **changes,
            }
        )

    return configuration


def weights(config: TrainingConfig) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(config.run / "model").model.state_dict())


def test_fit_and_evaluate_leave_what_they_promise(configure: Configure) -> None:
    config = configure()
    result = run_fit(config)
    evaluation = run_evaluate(config)
    assert evaluation.accuracy.value > 0.6
    training = json.loads((config.run / "training.json").read_text())
    assert training["updates"] == result.updates
    assert training["best_validation_loss"] == result.best_validation_loss
    checkpoint = load_checkpoint(config.run / "model")
    assert checkpoint.description.base_model == Path(config.model.backbone).name
    assert checkpoint.description.max_tokens == 64
    assert "accuracy" in (config.run / "summary.md").read_text()
    reference = Reference.model_validate_json((config.run / "reference.json").read_text())
    bundle = run_export(config)
    assert bundle.reference == reference
    assert run_export(config.model_copy(update={"export": ExportConfig(reference=False)})).reference is None
    for path in config.run.glob("*.json"):
        json.loads(path.read_text(), parse_constant=pytest.fail)  # NaN and infinities are no JSON


@pytest.mark.parametrize(
    ("settings", "data", "heads"),
    [
        ({"ensemble": 3}, {}, ("reward", "uncertainty", "member_1", "member_2", "member_3")),
        ({"aspects": {"plus": 2.0}}, {"aspects": {"toy": "plus"}}, ("reward", "plus")),
    ],
    ids=["ensemble", "aspects"],
)
def test_all_heads_come_into_the_bundle(
    configure: Configure, settings: dict[str, Any], data: dict[str, Any], heads: tuple[str, ...]
) -> None:
    plain = configure()
    config = configure(
        model=plain.model.model_copy(update=settings), data=plain.data.model_copy(update=data),
        loss=LossConfig(kind="davidson", weigh_by="votes"),
    )  # fmt: skip
    run_fit(config)
    assert run_evaluate(config).accuracy.value > 0.6
    bundle = run_export(config)
    assert bundle.manifest.heads == heads
    session = PROVIDERS["cpu"].open(bundle, "fp32", Resources())
    layout = plan_layout([np.arange(9), np.arange(30)], bundle.manifest.family, block_queries=16)
    assert session.run(layout).shape == (2, len(heads))


def test_adapters_are_resumed_to_the_bit_and_merged_in_the_bundle(configure: Configure, tmp_path: Path) -> None:
    def adapted(name: str, **changes: Any) -> TrainingConfig:
        model = configure().model.model_copy(update={"lora_rank": 4, "gradient_checkpointing": True})
        optimiser = {"learning_rate": 1e-2, "evaluations_per_epoch": 2}
        return configure(optimiser, model=model, run=tmp_path / name, bundle=tmp_path / f"{name}-bundle", **changes)

    run_fit(adapted("whole"))
    with pytest.MonkeyPatch.context() as patch:
        training_step = RewardTrainer.training_step

        def stopping(trainer: RewardTrainer, *args: Any) -> torch.Tensor:
            if trainer.state.global_step == 5:
                raise KeyboardInterrupt
            return training_step(trainer, *args)

        patch.setattr(RewardTrainer, "training_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            run_fit(adapted("cut"))
    run_fit(adapted("cut", resume=True))
    whole, cut = weights(adapted("whole")), weights(adapted("cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert not any("lora" in name for name in whole)
    assert run_evaluate(adapted("whole")).accuracy.value > 0.6
    assert run_export(adapted("whole")).manifest.heads == ("reward",)


def test_an_aspect_that_nothing_teaches_ends_the_run_before_it_begins(configure: Configure) -> None:
    config = configure(model=configure().model.model_copy(update={"aspects": {"plus": 1.0}}))
    with pytest.raises(ValueError, match="no training judgement is on the aspect 'plus'"):
        run_fit(config)
    assert not config.run.exists()


def test_two_runs_are_equal_to_the_bit(configure: Configure, tmp_path: Path) -> None:
    one, other = configure(run=tmp_path / "one"), configure(run=tmp_path / "other")
    run_fit(one)
    run_fit(other)
    for name, tensor in weights(one).items():
        assert torch.equal(weights(other)[name], tensor)
    assert run_evaluate(one) == run_evaluate(other)


def test_an_interrupted_run_is_resumed_with_its_own_settings(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = configure(run=tmp_path / "whole", optimiser={"evaluations_per_epoch": 2})
    cut = configure(run=tmp_path / "cut", optimiser={"evaluations_per_epoch": 2})
    run_fit(whole)
    original = RewardTrainer.compute_loss

    def interrupted(self: RewardTrainer, *arguments: Any, **named: Any) -> Any:
        if self.state.global_step == 5:
            raise KeyboardInterrupt
        return original(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(RewardTrainer, "compute_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_fit(cut)
    with pytest.raises(CheckpointError, match="no trained model here"):
        run_evaluate(cut)
    run_fit(TrainingConfig(run=cut.run, resume=True, progress=False))
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(cut)[name], tensor)

    with pytest.raises(ValueError, match=r"trained with other settings: optimiser.epochs is 7.0, not 2.0\. Leave"):
        run_fit(TrainingConfig(run=cut.run, resume=True, optimiser=OptimiserConfig(epochs=7)))
    data = Path(cut.data.train[0])
    data.write_text("\n".join(data.read_text().splitlines()[:-1]))
    with pytest.raises(CheckpointError, match="the data have changed since the run began"):
        run_fit(TrainingConfig(run=cut.run, resume=True, progress=False))


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no run to resume"):
        run_fit(TrainingConfig(run=tmp_path, resume=True))


def test_a_new_fit_takes_away_what_belongs_to_the_old_one(configure: Configure) -> None:
    """A report of the old weights beside the new ones would be exported as theirs."""
    config = configure(optimiser={"epochs": 3})
    run_fit(config)
    run_evaluate(config)
    (config.run / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds a finished run; --overwrite replaces it"):
        run_fit(configure(optimiser={"epochs": 1}))
    run_fit(configure(optimiser={"epochs": 1}, overwrite=True))
    steps = {path.name for path in (config.run / "checkpoints").iterdir()}
    assert steps == {"checkpoint-3"}  # not those of the longer run before
    assert (config.run / "notes.txt").read_text() == "mine"
    with pytest.raises(CheckpointError, match=r"calibration.json is missing; run `assay-train evaluate` first"):
        run_export(configure(optimiser={"epochs": 1}))


def test_a_folder_that_is_no_run_is_left_alone(configure: Configure) -> None:
    config = configure()
    (config.run / "model").mkdir(parents=True)
    (config.run / "model" / "mine").write_text("precious")
    with pytest.raises(ValueError, match="the folder is not empty and holds no run; name another"):
        run_fit(config)
    assert (config.run / "model" / "mine").read_text() == "precious"


def test_an_unfinished_run_is_not_begun_anew_by_mistake(configure: Configure) -> None:
    config = configure()
    run_fit(config)
    (config.run / "training.json").unlink()
    with pytest.raises(ValueError, match="--resume goes on with it, --overwrite begins anew"):
        run_fit(config)
    run_fit(config.model_copy(update={"overwrite": True}))
    (config.run / "training.json").unlink()
    shutil.rmtree(config.run / "checkpoints")
    run_fit(config)  # nothing could be gone on with


def test_other_weights_than_those_evaluated_are_not_exported(configure: Configure) -> None:
    config = configure()
    run_fit(config)
    run_evaluate(config)
    file = config.run / "model" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="the weights are not those that were evaluated"):
        run_export(config)


def test_a_fit_that_cannot_begin_leaves_the_old_run_alone(configure: Configure) -> None:
    config = configure()
    run_fit(config)
    before = weights(config)
    rows = [
        record.model_copy(update={"judgements": [j.model_copy(update={"ties": 1.0}) for j in record.judgements[:2]]})
        for record in toy_records(50, responses=3)
    ]
    write_records(config.run.parent / "tied.jsonl", rows)
    tied = DataConfig(train=(str(config.run.parent / "tied.jsonl"),), validation_fraction=0.2, test_fraction=0.2)
    for broken in (
        configure(data=DataConfig(train=("nowhere.jsonl",))),
        configure(model=ModelConfig(backbone="./nothing")),
        configure(model=ModelConfig(backbone=config.model.backbone, max_tokens=9999)),
        configure(data=tied, loss=LossConfig(kind="plackett-luce")),
    ):
        with pytest.raises((ValueError, OSError)) as error:
            run_fit(broken.model_copy(update={"overwrite": True}))
        assert "--overwrite" not in str(error.value)
    assert all(torch.equal(weights(config)[name], tensor) for name, tensor in before.items())


def test_settings_that_could_have_no_effect_are_refused(configure: Configure, tmp_path: Path) -> None:
    config = configure()
    run_fit(config)
    run_evaluate(TrainingConfig(run=config.run, progress=False))
    run_evaluate(config)  # repeating what it was trained with is no contradiction
    for step in (run_evaluate, run_export):
        with pytest.raises(ValueError, match=r"data.test is \('other.jsonl',\), not \(\)"):
            step(TrainingConfig(run=config.run, data=DataConfig(test=("other.jsonl",))))
        with pytest.raises(ValueError, match="name is 'renamed', not 'default'"):
            step(TrainingConfig(run=config.run, name="renamed"))


def test_export_leaves_out_what_the_run_was_told_to(configure: Configure) -> None:
    """The report shows held-out texts: a later command must not put them in because it does not repeat the setting."""
    config = configure(export=ExportConfig(report=False, reference=False))
    run_fit(config)
    run_evaluate(config)
    assert not {"report/report.html", "reference.json"} & set(run_export(TrainingConfig(run=config.run)).manifest.files)
    asked = TrainingConfig(run=config.run, export=ExportConfig(reference=True))
    files = set(run_export(asked).manifest.files)
    assert "reference.json" in files
    assert "report/report.html" not in files


def test_changed_data_are_not_evaluated_on(configure: Configure) -> None:
    """A row more may move a training prompt into the test part."""
    config = configure()
    run_fit(config)
    run_evaluate(config)
    write_records(Path(config.data.train[0]), toy_records(51, responses=3))
    with pytest.raises(CheckpointError, match="the data have changed since the model was trained"):
        run_evaluate(config)
    assert (config.run / "report.html").is_file()  # the old one stays where there is no new one


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("calibration.json", "{", r"calibration.json: cannot be read"),
        ("calibration.json", "{}", r"calibration.json: .*Field required.* run `assay-train evaluate` again"),
        ("evaluation.json", "{}", r"evaluation.json: prompts: Field required; run `assay-train evaluate` again"),
        ("evaluation.json", '{"prompts": 1}', r"evaluation.json: .* run `assay-train evaluate` again"),
    ],
)
def test_broken_figures_are_named(configure: Configure, name: str, content: str, reason: str) -> None:
    config = configure(optimiser={"epochs": 1})
    run_fit(config)
    run_evaluate(config)
    (config.run / name).write_text(content)
    with pytest.raises(CheckpointError, match=reason) as error:
        run_export(config)
    assert "\n" not in str(error.value)


def test_a_short_limit_is_the_backbone_s(configure: Configure) -> None:
    config = configure()
    with pytest.raises(ValueError, match="model.max_tokens is 9999, but the backbone takes 256 tokens at most"):
        run_fit(configure(model=ModelConfig(backbone=config.model.backbone, max_tokens=9999)))
    with pytest.raises(ValueError, match="model.pooling: a causal model cannot be pooled by mean"):
        run_fit(configure(model=ModelConfig(backbone=config.model.backbone, pooling="mean")))


def test_data_on_disk_give_the_same_run(configure: Configure, tmp_path: Path) -> None:
    """From Arrow files, again from those that are there, and resumed: the weights are those of data in memory."""
    plain = configure(run=tmp_path / "plain")
    run_fit(plain)
    stored = configure(run=tmp_path / "stored", data=plain.data.model_copy(update={"store": tmp_path / "store"}))
    run_fit(stored)
    expected = weights(plain)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(stored).items())
    assert run_evaluate(stored).accuracy == run_evaluate(plain).accuracy
    (stored.run / "training.json").unlink()
    oldest = min((stored.run / "checkpoints").iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))
    for path in (stored.run / "checkpoints").iterdir():
        if path != oldest:
            shutil.rmtree(path)
    run_fit(stored.model_copy(update={"resume": True}))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(stored).items())


def test_data_on_disk_are_evaluated_on_a_named_test(configure: Configure, tmp_path: Path) -> None:
    test = tmp_path / "test.jsonl"
    write_records(test, toy_records(20, seed=3))
    usual = configure().data
    config = configure({"epochs": 1}, data=usual.model_copy(update={"store": tmp_path / "store", "test": (str(test),)}))
    run_fit(config)
    run_evaluate(config)
    assert "has learnt from" not in (config.run / "summary.md").read_text()


def test_a_disk_that_fills_while_the_bundle_is_written(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configure({"epochs": 1})
    run_fit(config)
    run_evaluate(config)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("training.export.bundle.export_graph", full)
        with pytest.raises(OSError, match=r"the bundle cannot be written \(.*No space left.*assay-train export"):
            run_export(config)
    assert not config.bundle.exists()
    assert not [path for path in config.bundle.parent.iterdir() if path.name.startswith(".bundle")]


def test_margins_that_nothing_looks_at_are_told(configure: Configure, caplog: pytest.LogCaptureFixture) -> None:
    config = configure({"epochs": 1})
    path = Path(config.data.train[0])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        row["judgements"][0]["margin"] = 1.5
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_fit(config)
    assert "training judgements are not used: loss.margin_weight is 0" in caplog.text
    caplog.clear()
    run_fit(config.model_copy(update={"overwrite": True, "loss": LossConfig(margin_weight=0.5)}))
    assert "are not used" not in caplog.text
