"""The mean of trainings: of their weights, to the rounding, and of nothing that has no mean."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from service.bundle.layout import Family
from tests.training.tiny import causal_tokenizer, save_backbone, tiny_checkpoint, toy_records
from training.averaging import average_checkpoints
from training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from training.checkpoint_error import CheckpointError
from training.config import DataConfig, ModelConfig, OptimiserConfig, TrainingConfig
from training.data import write_records
from training.evaluation.pair_table import read_test
from training.heads import Heads
from training.model import RewardModel
from training.pipeline import run_evaluate, run_export, run_fit
from training.trained_runs import average_runs

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Saves a training of some seed, with other words in its description or its provenance."""

    def saved(
        seed: int, family: Family = Family.CAUSAL, provenance: dict[str, Any] | None = None, **changes: Any
    ) -> Path:
        checkpoint = tiny_checkpoint(family, seed)
        of = checkpoint.description.provenance.model_copy(update=provenance or {})
        description = checkpoint.description.model_copy(update={"provenance": of, **changes})
        if len(description.heads.weights) > 1:
            model = RewardModel(checkpoint.model.backbone, family, description.pooling, description.heads)
            checkpoint = replace(checkpoint, model=model)
        folder = tmp_path / f"{seed}-{len(list(tmp_path.iterdir()))}"
        save_checkpoint(replace(checkpoint, description=description), folder)
        return folder

    return saved


def weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return {name: tensor.double() for name, tensor in checkpoint.model.state_dict().items()}


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize("count", [2, 3, 5])
def test_each_weight_is_the_mean(save: Save, count: int, family: Family) -> None:
    folders = [save(seed, family) for seed in range(count)]
    mean = average_checkpoints(folders)
    each = [weights(load_checkpoint(folder)) for folder in folders]
    for name, tensor in weights(mean).items():
        torch.testing.assert_close(tensor, sum(part[name] for part in each) / count, rtol=1e-6, atol=1e-7)
    provenance = mean.description.provenance
    assert [one.seed for one in provenance.averaged] == [*range(count)]
    assert not any(one.averaged for one in provenance.averaged)
    assert not mean.model.training


def test_the_mean_of_equal_weights_is_equal_to_the_bit(save: Save) -> None:
    same = [save(0), save(0, provenance={"seed": 1}), save(0, provenance={"seed": 2})]
    found, wanted = weights(average_checkpoints(same)), weights(load_checkpoint(same[0]))
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_what_has_no_mean_is_refused(save: Save, tmp_path: Path) -> None:
    one = save(0)
    other_split = TrainingConfig(data=DataConfig(seed=1)).portable()
    for other, reason in (
        (save(1, Family.BIDIRECTIONAL), "not the architecture of"),
        (save(1, base_model="another"), "not the backbone of"),
        (save(1, max_tokens=64), "not the max_tokens of"),
        (save(1, provenance={"began_with": load_checkpoint(one).description.provenance}), "not the beginning of"),
        (save(1, provenance={"data_sha256": "1" * 64}), "not the data of"),
        (save(1, provenance={"configuration": other_split}), r"not the settings of data \(data\.seed"),
        (save(0), "the same training is named twice"),
        (one, "the same training is named twice"),
    ):
        with pytest.raises(ValueError, match=reason):
            average_checkpoints([one, other])
    with pytest.raises(ValueError, match="two trainings or more"):
        average_checkpoints([one])
    with pytest.raises(CheckpointError, match="no trained model here"):
        average_checkpoints([one, tmp_path / "nothing"])


def test_runs_of_before_data_seed_were_split_by_their_seed(save: Save) -> None:
    """Two of them held out different prompts, though nothing in their settings of data says so."""
    old = [TrainingConfig(optimiser=OptimiserConfig(seed=seed)).portable() for seed in (0, 1)]
    for configuration in old:
        del configuration["data"]["seed"]
    folders = [save(seed, provenance={"configuration": old[seed]}) for seed in range(2)]
    with pytest.raises(ValueError, match=r"not the settings of data \(data\.seed"):
        average_checkpoints(folders)
    same = save(2, provenance={"configuration": old[0]})
    assert len(average_checkpoints([folders[0], same]).description.provenance.averaged) == 2


def test_heads_of_one_kind_alone_have_a_mean(save: Save) -> None:
    with pytest.raises(ValueError, match="not the heads of"):
        average_checkpoints([save(0), save(1, heads=Heads(weights={"reward": 2.0}))])


def test_rows_of_heads_that_were_named_in_another_order_are_not_mixed(save: Save) -> None:
    one, other = (
        Heads(kind="aspects", weights=dict.fromkeys(names, 1.0)) for names in (("help", "harm"), ("harm", "help"))
    )
    assert one == other
    with pytest.raises(ValueError, match="not the heads of"):
        average_checkpoints([save(0, heads=one), save(1, heads=other)])


def test_runs_that_differ_in_their_seed_are_averaged_evaluated_and_exported(tmp_path: Path) -> None:
    backbone = save_backbone(tmp_path / "backbone", "llama", causal_tokenizer())
    write_records(tmp_path / "toy.jsonl", toy_records(50, responses=3))

    def config(seed: int) -> TrainingConfig:
        return TrainingConfig(
            run=tmp_path / f"run-{seed}",
            bundle=tmp_path / f"bundle-{seed}",
            progress=False,
            data=DataConfig(train=(str(tmp_path / "toy.jsonl"),), validation_fraction=0.2, test_fraction=0.2),
            model=ModelConfig(backbone=str(backbone), max_tokens=64, block_queries=16),
            optimiser=OptimiserConfig(epochs=2, learning_rate=1e-3, head_learning_rate=1e-2, seed=seed),
        )

    runs = [config(seed).run for seed in range(2)]
    for seed in range(2):
        run_fit(config(seed))
        run_evaluate(config(seed))
    with pytest.raises(ValueError, match="is one of those to be averaged"):
        average_runs(runs, runs[1], tmp_path / "bundle")
    run = tmp_path / "mean"
    average_runs(runs, run, tmp_path / "bundle", "mean")
    again = TrainingConfig(run=run, progress=False)
    run_evaluate(again)
    tested = [[row.record for row in read_test(folder)[0]] for folder in (*runs, run)]
    assert tested[0] == tested[1] == tested[2]  # another seed holds out the same
    page = (run / "report.html").read_text()
    assert "0, 1 (mean of the weights of these trainings)" in page
    bundle = run_export(again)
    assert (bundle.folder, bundle.manifest.name) == (tmp_path / "bundle", "mean")
    assert [part.configuration["name"] for part in bundle.manifest.provenance.averaged] == ["default", "default"]
    with pytest.raises(FileNotFoundError):
        run_fit(TrainingConfig(run=run, resume=True, progress=False))
    with pytest.raises(ValueError, match="holds a finished run; --overwrite replaces it"):
        average_runs(runs, run, tmp_path / "bundle")
    average_runs(runs, run, tmp_path / "bundle", overwrite=True)  # with what was measured of it
    assert not (run / "report.html").exists()
