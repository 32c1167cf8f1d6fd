"""A reward model of TRL's own trainer is brought into a bundle by one command, and scores there as it did."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification

from service.bundle.layout import plan_layout
from service.bundle.reader import read_bundle
from tests.training.test_pretrained_head import save_classifier
from tests.training.tiny import causal_tokenizer, toy_records
from training.__main__ import main
from training.data import write_records
from training.importing import import_configuration
from training.prepare import prepare_data
from training.settings import ConfigurationError


def test_from_trl_to_a_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trl = pytest.importorskip("trl.trainer.reward_trainer")
    config = pytest.importorskip("trl.trainer.reward_config")
    start = save_classifier(tmp_path / "start")
    rows = [
        {
            "prompt": [{"role": "user", "content": record.prompt}],
            "chosen": [{"role": "assistant", "content": record.responses[int(record.judgements[0].j_wins)]}],
            "rejected": [{"role": "assistant", "content": record.responses[int(record.judgements[0].i_wins)]}],
        }
        for record in toy_records(16)
    ]
    trainer = trl.RewardTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(start),
        args=config.RewardConfig(
            output_dir=str(tmp_path / "trl"), max_steps=2, per_device_train_batch_size=4, learning_rate=1e-2,
            report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False, disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=causal_tokenizer(),
    )  # fmt: skip
    trainer.train()
    trained = tmp_path / "trained"
    trainer.save_model(str(trained))

    data = tmp_path / "held-out.jsonl"
    write_records(data, toy_records(60))
    arguments = ["import", str(trained), "--data.train", str(data), "--run", str(tmp_path / "run"), "--bundle",
                 str(tmp_path / "bundle"), "--name", "of-trl", "--no-progress"]  # fmt: skip
    monkeypatch.setattr("sys.argv", ["assay-train", *arguments])
    assert main() == 0
    bundle = read_bundle(tmp_path / "bundle")
    assert bundle.digest in capsys.readouterr().out
    assert bundle.manifest.name == "of-trl"
    assert "nothing: the reward model as it came" in (tmp_path / "run" / "report.html").read_text()
    assert (
        "Whether the model has learnt from some of the prompts is not known"
        in (bundle.folder / "report" / "summary.md").read_text()
    )

    theirs = AutoModelForSequenceClassification.from_pretrained(trained).eval()
    prompt, responses = "xyz 1", ["ab++", "abcd"]
    conversations = [[{"role": "user", "content": prompt}, {"role": "assistant", "content": r}] for r in responses]
    tokenizer = causal_tokenizer()
    with torch.no_grad():
        wanted = [
            theirs(
                input_ids=torch.tensor([tokenizer.apply_chat_template(c, tokenize=True, return_dict=False)])
            ).logits.item()
            for c in conversations
        ]
    items = [item.ids for item in bundle.formatter.encode(prompt, responses)]  # type: ignore[union-attr]
    session = onnxruntime.InferenceSession(bundle.folder / "model.onnx")
    layout = plan_layout(items, bundle.manifest.family, block_queries=bundle.manifest.block_queries)
    (scores,) = session.run(None, layout.arrays())
    np.testing.assert_allclose(np.array(scores).ravel(), wanted, rtol=1e-4, atol=1e-4)


def test_most_of_the_data_are_held_out_unless_said_otherwise() -> None:
    config = import_configuration(["some/model", "--data.validation-fraction", "0.2"])
    assert (config.model.backbone, config.model.head, config.optimiser.epochs) == ("some/model", "pretrained", 0)
    assert (config.data.validation_fraction, config.data.test_fraction) == (0.2, pytest.approx(0.8))


@pytest.mark.parametrize(
    ("named", "fractions"),
    [([], (0.4, 0.6)), (["validation"], (0.1, 1.0)), (["test"], (1.0, 0.15)), (["validation", "test"], (0.1, 0.15))],
)
def test_what_is_not_named_is_all_that_is_left(named: list[str], fractions: tuple[float, float]) -> None:
    flags = [flag for name in named for flag in (f"--data.{name}", "named.jsonl")]
    data = import_configuration(["some/model", *flags]).data
    assert (data.validation_fraction, data.test_fraction) == pytest.approx(fractions)


@pytest.mark.parametrize("share", ["0.3", "0.4", "0.45"])
def test_what_is_imported_needs_no_data_to_learn_from(share: str, tmp_path: Path) -> None:
    write_records(tmp_path / "toy.jsonl", toy_records(20, responses=2))
    asked = ["some/model", "--data.train", str(tmp_path / "toy.jsonl"), "--data.validation-fraction", share]
    for seed in range(8):
        data = prepare_data(import_configuration([*asked, "--data.seed", str(seed)]).data)
        assert not data.splits.train
        assert len(data.splits.validation) + len(data.splits.test) == 20


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--name", "x"], "name the model"),
        (["m", "--optimiser.learning-rate", "1"], r"optimiser\.learning_rate is of training"),
        (["m", "--loss.centring", "1"], r"loss\.centring is of training"),
        (["m", "--model.ensemble", "2"], r"model\.ensemble is of training"),
        (["m", "--resume"], "resume is of training"),
        (["m", "--data.mix", '{"a": 2}'], r"data\.mix is of training"),
        (["m", "--data.annotators", "dawid-skene"], r"data\.annotators is of training"),
        (["m", "--data.validation-fraction", "0.6", "--data.test-fraction", "0.6"], "sum to 1.2"),
    ],
)
def test_settings_without_effect_are_refused(arguments: list[str], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        import_configuration(arguments)
