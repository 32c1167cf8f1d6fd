"""The loop learns, repeats itself exactly, resumes exactly, keeps the best weights, and stops where it should."""

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from service.bundle.layout import Family
from tests.training.tiny import tiny_checkpoint, toy_records
from training import precision, trainer
from training.config import LossConfig, ModelConfig, OptimiserConfig, TrainingConfig
from training.data import Judgement, PreferenceRecord
from training.encoding import Example, encode_records
from training.evaluation import metrics
from training.evaluation.evaluate import judged_pairs
from training.examples import ElementDataset
from training.fit import CHECKPOINTS, TENSORBOARD, FitResult, fit, training_arguments
from training.heads import Heads
from training.judgement_weights import WeightTable
from training.model import RewardModel
from training.scoring import score_examples, score_heads

Weights = dict[str, torch.Tensor]


def configuration(run: Path, **optimiser: Any) -> TrainingConfig:
    quick = {"epochs": 3, "batch_elements": 4, "learning_rate": 1e-3, "head_learning_rate": 1e-2, "patience": 0}
    return TrainingConfig(
        run=run,
        progress=False,
        model=ModelConfig(block_queries=16),
        optimiser=OptimiserConfig(**quick | optimiser),
    )


def examples(count: int, seed: int, family: Family = Family.CAUSAL, responses: int = 2) -> list[Example]:
    return encode_records(toy_records(count, seed, responses), tiny_checkpoint(family).formatter, progress=False)


def train(
    config: TrainingConfig,
    callbacks: Sequence[TrainerCallback] = (),
    data: Sequence[Example] | None = None,
    validation: Sequence[Example] | None = None,
    family: Family = Family.CAUSAL,
    dropout: bool = False,
) -> tuple[FitResult, Weights, RewardModel]:
    model = tiny_checkpoint(family, dropout=dropout).model
    result = fit(
        model,
        examples(24, 1, family) if data is None else data,
        examples(8, 2, family) if validation is None else validation,
        config,
        callbacks,
    )
    return result, {name: tensor.clone() for name, tensor in model.state_dict().items()}, model


def with_heads(heads: Heads) -> RewardModel:
    base = tiny_checkpoint(Family.CAUSAL).model
    return RewardModel(base.backbone, base.family, base.pooling, heads)


def same(one: Weights, other: Weights) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one) and one.keys() == other.keys()


def turned_round(example: Example) -> Example:
    """The same responses with every judgement for the other side."""
    judgements = [
        judgement.model_copy(update={"i_wins": judgement.j_wins, "j_wins": judgement.i_wins})
        for judgement in example.record.judgements
    ]
    return Example(example.record.model_copy(update={"judgements": judgements}), example.items)


def accuracy(model: RewardModel, held_out: Sequence[Example]) -> float:
    pairs = judged_pairs(held_out, score_examples(model, held_out, 16))
    return metrics.accuracy(pairs.margin, pairs.preference)


class StopAt(TrainerCallback):
    """An interruption right after an update, such as a full disk or a Ctrl-C."""

    def __init__(self, update: int) -> None:
        self.update = update

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.update:
            raise KeyboardInterrupt


class LossesOfUpdates(TrainerCallback):
    """Keeps what the loop logs."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" in logs:
            self.seen.append(logs["loss"])


@pytest.mark.parametrize("family", list(Family))
def test_learns_what_can_be_learnt(tmp_path: Path, family: Family) -> None:
    result, _, model = train(
        configuration(tmp_path, epochs=6),
        data=examples(48, 1, family, responses=3),
        validation=examples(8, 2, family, responses=3),
        family=family,
    )
    losses = [row["loss"] for row in result.history if "loss" in row]
    assert losses[-1] < 0.6 * losses[0]
    assert accuracy(model, examples(60, 3, family, responses=3)) > 0.85


@pytest.mark.parametrize("kind", ["rao-kupper", "davidson", "plackett-luce"])
def test_every_loss_learns_what_can_be_learnt(tmp_path: Path, kind: str) -> None:
    config = configuration(tmp_path, epochs=4).model_copy(update={"loss": LossConfig(kind=kind)})
    result, _, model = train(config, data=examples(48, 1, responses=3))
    assert accuracy(model, examples(60, 3, responses=3)) > 0.85
    # Nothing ties in these data, so the share of ties begins low. The loss of rankings knows no ties.
    assert (result.tie_threshold < -3) == (kind != "plackett-luce")


def test_a_loss_of_rankings_needs_rankings(tmp_path: Path) -> None:
    config = configuration(tmp_path).model_copy(update={"loss": LossConfig(kind="plackett-luce")})
    whole = examples(2, 1, responses=3)
    tied = Judgement(i=0, j=1, i_wins=1, j_wins=1)
    record = whole[0].record.model_copy(update={"judgements": [tied, *whole[0].record.judgements[1:]]})
    with pytest.raises(ValueError, match=f"plackett-luce, and record '{record.id}' does not do: .* is missing, tied"):
        train(config, data=[Example(record, whole[0].items), whole[1]])


def test_an_ensemble_learns_and_its_members_differ(tmp_path: Path) -> None:
    model = with_heads(Heads.ensemble(4))
    fit(model, examples(48, 1), examples(8, 2), configuration(tmp_path, epochs=4))
    held_out = examples(60, 3)
    assert accuracy(model, held_out) > 0.85
    outputs = np.concatenate(score_heads(model, held_out, 16))
    members = np.corrcoef(outputs[:, 2:].T)
    assert members.min() > 0.5
    assert members[np.triu_indices(4, 1)].max() < 1 - 1e-6
    assert (outputs[:, 1] > 0).all()


def test_a_member_learns_from_what_was_drawn_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the draws leave everything to one member, the others stay as they began."""

    def all_to_the_second(records: Sequence[PreferenceRecord], *_: Any) -> WeightTable:
        judgements = np.array([len(record.judgements) for record in records])
        return WeightTable(np.tile(np.array([0, 1, 0], dtype=np.float32), (judgements.sum(), 1)), judgements)

    monkeypatch.setattr("training.fit.judgement_weights", all_to_the_second)
    model = with_heads(Heads.ensemble(3))
    before = model.head.weight.detach().clone()
    fit(model, examples(24, 1), examples(8, 2), configuration(tmp_path, epochs=1))
    moved = (model.head.weight.detach() - before).abs().amax(1)
    assert moved[1] > 1e-4
    assert moved[[0, 2]].max() < 1e-6


def test_aspects_learn_what_they_were_judged_on(tmp_path: Path) -> None:
    """On one aspect more `+` are better, on the other fewer; each head follows its own."""

    def on(aspect: str, example: Example) -> Example:
        judgements = [judgement.model_copy(update={"aspect": aspect}) for judgement in example.record.judgements]
        return Example(example.record.model_copy(update={"judgements": judgements}), example.items)

    def both(count: int, seed: int) -> list[Example]:
        plain = examples(count, seed)
        return [*(on("more", example) for example in plain), *(on("fewer", turned_round(example)) for example in plain)]

    heads = Heads(kind="aspects", weights={"more": 1.0, "fewer": 0.25})
    model = with_heads(heads)
    result = fit(model, both(48, 1), both(8, 2), configuration(tmp_path, epochs=4))
    assert result.best_validation_loss < 0.5  # each judgement is put to its own head
    held_out = examples(60, 3)
    outputs = score_heads(model, held_out, 16)
    for column, expected in ((0, 1.0), (1, 1.0), (2, 0.0)):
        pairs = judged_pairs(held_out, [part[:, column] for part in outputs])
        assert metrics.accuracy(pairs.margin, pairs.preference) == pytest.approx(expected, abs=0.15)


def test_what_length_explains_is_left_out_of_the_score(tmp_path: Path) -> None:
    """The longer answer always wins: the score learns it, or with `length_residual` nothing."""

    def longer_wins(count: int, seed: int) -> list[Example]:
        generator = random.Random(seed)
        records = []
        for number in range(count):
            lengths = generator.sample(range(2, 40), 2)
            won = lengths[0] > lengths[1]
            records.append(
                PreferenceRecord(
                    id=f"{seed}-{number}", prompt="p", responses=["a" * length for length in lengths], source="s",
                    judgements=[Judgement(i=0, j=1, i_wins=int(won), j_wins=int(not won))],
                )
            )  # fmt: skip
        return encode_records(records, tiny_checkpoint(Family.CAUSAL).formatter, progress=False)

    spread: dict[bool, float] = {}
    for residual in (False, True):
        config = configuration(tmp_path / str(residual), epochs=4)
        config = config.model_copy(update={"loss": LossConfig(length_residual=residual)})
        result, _, model = train(config, data=longer_wins(48, 1), validation=longer_wins(8, 2))
        assert (result.length_slope > 3) == residual
        spread[residual] = float(np.std(np.concatenate(score_examples(model, longer_wins(60, 3), 16))))
        assert result.best_validation_loss < 0.5
    assert spread[True] < 0.1 * spread[False]


def test_first_loss_is_ln_2(tmp_path: Path) -> None:
    seen = LossesOfUpdates()
    config = configuration(tmp_path, epochs=1, batch_elements=24)
    train(config.model_copy(update={"loss": LossConfig(centring=0)}), [seen])
    assert seen.seen[0] == pytest.approx(math.log(2), abs=0.02)


def test_two_runs_of_one_seed_are_equal_to_the_bit(tmp_path: Path) -> None:
    _, one, _ = train(configuration(tmp_path / "one"))
    _, other, _ = train(configuration(tmp_path / "other"))
    _, third, _ = train(configuration(tmp_path / "third", seed=5))
    assert same(one, other)
    assert not same(one, third)


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("stop", [3, 4, 6, 9])
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(tmp_path: Path, stop: int, dropout: bool) -> None:
    """Epochs of three updates: the stops lie within them, on their edge and at the end."""
    data = examples(6, 1, responses=5)  # 18 elements: groups of at most 2 responses, drawn anew each epoch
    settings = {"batch_elements": 6, "max_responses": 2, "evaluations_per_epoch": 3}

    def config(name: str, **changes: Any) -> TrainingConfig:
        return configuration(tmp_path / name, **settings).model_copy(update=changes)

    whole, weights, _ = train(config("whole"), data=data, dropout=dropout)
    assert whole.updates == 9
    if stop < 9:
        with pytest.raises(KeyboardInterrupt):
            train(config("cut"), [StopAt(stop)], data=data, dropout=dropout)
    else:
        train(config("cut"), data=data, dropout=dropout)
    resumed, again, _ = train(config("cut", resume=True), data=data, dropout=dropout)
    assert resumed.updates == 9
    assert resumed.best_validation_loss == whole.best_validation_loss
    assert same(weights, again)


def test_new_groups_in_each_epoch_of_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs: list[int] = []
    original = ElementDataset.__getitem__

    def watched(self: ElementDataset, slot: int) -> Any:
        epochs.append(self._epoch)
        return original(self, slot)

    monkeypatch.setattr(ElementDataset, "__getitem__", watched)
    train(configuration(tmp_path, epochs=3), data=examples(4, 1, responses=5))
    assert epochs == [0] * 4 + [1] * 4 + [2] * 4


def test_what_an_epoch_does_not_see_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    result, _, _ = train(configuration(tmp_path, epochs=1, max_responses=2), data=examples(4, 1, responses=5))
    assert (result.judgements, result.judgements_in_first_epoch) == (40, 12)
    assert "an epoch sees about 12 of 40 training judgements" in caplog.text
    caplog.clear()
    result, _, _ = train(configuration(tmp_path / "whole", epochs=1), data=examples(4, 1, responses=5))
    assert (result.judgements, result.judgements_in_first_epoch) == (40, 40)
    assert "an epoch sees" not in caplog.text


def test_the_weights_of_least_validation_loss_are_kept(tmp_path: Path) -> None:
    """Validation judgements are the training ones turned round, so each step of learning makes them worse."""
    turned = [turned_round(example) for example in examples(8, 2)]
    result, weights, model = train(configuration(tmp_path, epochs=5), validation=turned)
    validation = [row["eval_loss"] for row in result.history if "eval_loss" in row]
    assert result.best_validation_loss == min(validation) < validation[-1]
    pairs = judged_pairs(turned, score_examples(model, turned, 16))
    assert metrics.log_loss(pairs.margin, pairs.preference) == pytest.approx(min(validation), abs=1e-9)
    resumed, again, _ = train(configuration(tmp_path, epochs=5).model_copy(update={"resume": True}), validation=turned)
    assert resumed.best_validation_loss == result.best_validation_loss
    assert same(weights, again)

    moved = tmp_path.rename(tmp_path.with_name(tmp_path.name + "-moved"))
    _, once_more, _ = train(configuration(moved, epochs=5).model_copy(update={"resume": True}), validation=turned)
    assert same(weights, once_more)

    stopped, best, _ = train(configuration(moved / "early", epochs=5, patience=2), validation=turned)
    assert stopped.updates == 6 * (1 + validation.index(min(validation)) + 2)
    resumed, again, _ = train(
        configuration(moved / "early", epochs=5, patience=2).model_copy(update={"resume": True}),
        validation=turned,
    )
    assert resumed.updates == stopped.updates
    assert same(best, again)


def test_accumulation_equals_a_larger_batch(tmp_path: Path) -> None:
    once = {"epochs": 1, "max_gradient_norm": 1e9}
    _, large, _ = train(configuration(tmp_path / "large", batch_elements=8, accumulation=1, **once))
    _, parts, _ = train(configuration(tmp_path / "parts", batch_elements=2, accumulation=4, **once))
    for name, tensor in large.items():
        torch.testing.assert_close(parts[name], tensor, rtol=0, atol=2e-5)


def test_the_last_updates_are_validated_too(tmp_path: Path) -> None:
    result, _, _ = train(configuration(tmp_path, epochs=0.5))
    assert result.updates == 3
    assert math.isfinite(result.best_validation_loss)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) at update \d+; lower the learning rate"):
        train(configuration(tmp_path, learning_rate=1e30, max_gradient_norm=1e30, warmup=0.0))


def test_tensorboard_and_checkpoints_are_written(tmp_path: Path) -> None:
    train(configuration(tmp_path, epochs=1))
    assert [path.name[:6] for path in (tmp_path / TENSORBOARD).iterdir()] == ["events"]
    assert (tmp_path / CHECKPOINTS / "checkpoint-6" / "model.safetensors").is_file()
    assert not list(tmp_path.rglob("runs"))


def test_bf16_keeps_head_and_loss_in_fp32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "computes_bf16", lambda: True)
    dtypes: set[tuple[torch.dtype, ...]] = set()
    model = tiny_checkpoint(Family.CAUSAL).model
    model.head.register_forward_hook(
        lambda module, inputs, output: dtypes.add((inputs[0].dtype, module.weight.dtype, output.dtype))
    )
    inside: set[torch.dtype] = set()
    model.backbone.layers[0].mlp.up_proj.register_forward_hook(lambda module, inputs, output: inside.add(output.dtype))
    result = fit(model, examples(24, 1), examples(8, 2), configuration(tmp_path, bf16=True, epochs=6))
    assert dtypes == {(torch.float32,) * 3}
    assert torch.bfloat16 in inside
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    losses = [row["loss"] for row in result.history if "loss" in row]
    assert losses[-1] < losses[0]
    assert result.bf16


def test_float32_where_bf16_would_be_emulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A product of bf16 took 36 times as long as one of float32 on a processor with AVX2 alone."""
    monkeypatch.setattr(precision, "computes_bf16", lambda: False)
    model = tiny_checkpoint(Family.CAUSAL).model
    inside: set[torch.dtype] = set()
    model.backbone.layers[0].mlp.up_proj.register_forward_hook(lambda module, inputs, output: inside.add(output.dtype))
    result = fit(model, examples(8, 1), examples(8, 2), configuration(tmp_path, bf16=True, epochs=1))
    assert inside == {torch.float32}
    assert not result.bf16
    assert "optimiser.bf16: this processor has no arithmetic in bfloat16" in caplog.text


def test_nothing_to_train_or_to_validate_on(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 prompts to train on"):
        train(configuration(tmp_path), data=[])
    with pytest.raises(ValueError, match="0 to validate on"):
        train(configuration(tmp_path), validation=[])


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint to resume from"):
        train(configuration(tmp_path).model_copy(update={"resume": True}))


def test_evaluations_fit_into_short_epochs(tmp_path: Path) -> None:
    arguments = training_arguments(configuration(tmp_path, evaluations_per_epoch=50, batch_elements=4), 9)
    assert arguments.eval_steps == arguments.save_steps == 1


def test_an_only_update_learns(tmp_path: Path) -> None:
    """The first update of a warm-up has the rate 0."""
    assert training_arguments(configuration(tmp_path, epochs=1, batch_elements=16), 9).warmup_steps == 0
    assert training_arguments(configuration(tmp_path, epochs=0.01, batch_elements=16), 900).warmup_steps == 0
    assert training_arguments(configuration(tmp_path, epochs=2, batch_elements=1), 90).warmup_steps == 9


def test_a_pretrained_head_is_measured_once_before_it_learns(tmp_path: Path) -> None:
    """Measured again on resuming, it would count against the patience."""
    config = configuration(tmp_path)
    config = config.model_copy(update={"model": ModelConfig(head="pretrained")})
    assert training_arguments(config, 9).eval_on_start
    assert not training_arguments(config.model_copy(update={"resume": True}), 9).eval_on_start


class Recorder(TrainerCallback):
    """In the place of a tracker's callback."""

    logged: ClassVar[list[dict[str, float]]] = []
    name: ClassVar[str] = ""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.logged.append(logs)
        Recorder.name = args.run_name


def test_curves_go_to_trackers_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "wandb", Recorder)
    monkeypatch.setattr(trainer, "get_available_reporting_integrations", lambda: ["tensorboard", "wandb"])
    config = configuration(tmp_path, epochs=1).model_copy(update={"trackers": ("wandb", "tensorboard"), "name": "mine"})
    train(config)
    assert any("eval_loss" in row for row in Recorder.logged)
    assert Recorder.name == "mine"
    assert list((tmp_path / TENSORBOARD).iterdir())


@pytest.mark.parametrize(("tracker", "reason"), [("wandbb", "'wandbb' is none"), ("mlflow", "mlflow is not installed")])
def test_a_tracker_that_is_not_there(tmp_path: Path, tracker: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"trackers: {reason}"):
        train(configuration(tmp_path).model_copy(update={"trackers": (tracker,)}))


def test_one_device_where_there_are_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With more, the Trainer would wrap the model in nn.DataParallel and give it as many times the batch."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    arguments = training_arguments(configuration(tmp_path, batch_elements=4), 24)
    assert arguments.n_gpu == 1
    assert arguments.train_batch_size == 4
