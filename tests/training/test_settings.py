"""One table of settings: defaults, a file over them, flags over the file; nothing unknown, nothing forgotten."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from training.config import (
    DataConfig,
    ExportConfig,
    LossConfig,
    ModelConfig,
    OptimiserConfig,
    ReportConfig,
    TrainingConfig,
)
from training.recipes import names, read_recipe, recipe_path
from training.settings import ConfigurationError, load_configuration

FILE = """
name = "from-file"
[data]
train = ["a.jsonl", "b.jsonl"]
test_fraction = 0.3
[optimiser]
epochs = 9
patience = 0
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(FILE)
    return path


def test_defaults() -> None:
    assert load_configuration("fit", [], TrainingConfig) == TrainingConfig()


def test_flags_over_the_file_over_defaults(file: Path) -> None:
    config = load_configuration(
        "fit",
        ["--optimiser.epochs", "2", "--config", str(file), "--data.test_fraction=0.2", "--resume"],
        TrainingConfig,
    )
    assert config.optimiser == OptimiserConfig(epochs=2, patience=0)
    assert config.data == DataConfig(train=("a.jsonl", "b.jsonl"), test_fraction=0.2)
    assert (config.name, config.resume, config.run) == ("from-file", True, Path("runs/default"))


def test_one_source_needs_no_list(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[data]\ntrain = "my.jsonl"\ntest = "held-out.jsonl"\n')
    config = load_configuration("fit", ["--config", str(path)], TrainingConfig)
    assert config.data == DataConfig(train=("my.jsonl",), test=("held-out.jsonl",))
    given = load_configuration(
        "fit", ["--config", str(path), "--data.train", "a.jsonl", "--data.train", "b.jsonl"], TrainingConfig
    )
    assert given.data.train == ("a.jsonl", "b.jsonl")


@pytest.mark.parametrize("flag", ["--data.validation-fraction", "--data.validation_fraction"])
def test_a_flag_may_be_spelt_as_in_the_file(flag: str) -> None:
    assert load_configuration("fit", [flag, "0.3"], TrainingConfig).data.validation_fraction == 0.3


def test_lists_booleans_and_none() -> None:
    config = load_configuration(
        "fit",
        [
            "--data.train",
            "a b.jsonl",
            "--data.train",
            "c_d.jsonl",
            "--no-data.deduplicate",
            "--model.max-tokens",
            "none",
        ],
        TrainingConfig,
    )
    assert config.data.train == ("a b.jsonl", "c_d.jsonl")
    assert config.data.deduplicate is False
    assert config.model == ModelConfig()


def test_the_environment_sets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN", "elsewhere")
    monkeypatch.setenv("NAME", "other")
    assert load_configuration("fit", [], TrainingConfig) == TrainingConfig()


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--optimiser.epochs", "-1"], "optimiser.epochs: Input should be greater than or equal to 0"),
        (["--optimiser.epochs", "0"], "optimiser.epochs is 0, and model.head is new"),
        (
            ["--optimiser.epochs", "0", "--model.head", "pretrained", "--optimiser.bf16", "--loss.centring", "0"],
            "optimiser.epochs is 0: loss.centring, optimiser.bf16 would have no effect",
        ),
        (["--model.head", "pretrained", "--model.ensemble", "2"], "head is pretrained: that is one score"),
        (["--name", "a b"], "name: String should match pattern"),
        (["--model.pooling", "max"], "model.pooling"),
        (["--data.test_fraction", "0.5", "--data.validation_fraction", "0.5"], "nothing is left to train on"),
        (["--loss.label_smoothing", "nan"], "loss.label_smoothing"),
    ],
)
def test_out_of_range(flags: list[str], reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        load_configuration("fit", flags, TrainingConfig)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_are_finite(value: float) -> None:
    fields = ((OptimiserConfig, "learning_rate"), (OptimiserConfig, "epochs"), (DataConfig, "test_fraction"))
    for section, name in fields:
        with pytest.raises(ValidationError):
            section.model_validate({name: value})


def test_every_setting_is_documented() -> None:
    for model in (TrainingConfig, DataConfig, ModelConfig, LossConfig, OptimiserConfig, ReportConfig, ExportConfig):
        for name, field in model.model_fields.items():
            if name not in ("data", "model", "loss", "optimiser", "report", "export"):
                assert field.description, name


def test_what_was_set_is_known(file: Path) -> None:
    config = load_configuration("fit", ["--config", str(file), "--run", "x"], TrainingConfig)
    assert config.model_fields_set == {"name", "run", "data", "optimiser"}
    assert config.optimiser.model_fields_set == {"epochs", "patience"}
    trained = TrainingConfig(name="from-file", optimiser=OptimiserConfig(epochs=2, learning_rate=1.0, patience=0))
    assert config.differences(trained, of=("name", "optimiser")) == ["optimiser.epochs is 9.0, not 2.0"]


def test_a_recipe_is_found_by_name_and_hides_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = names()[0]
    assert load_configuration("fit", ["--config", recipe], TrainingConfig).model == read_recipe(recipe).model
    monkeypatch.chdir(tmp_path)
    (tmp_path / recipe).write_text("[model]\nmax_tokens = 77\n")
    assert load_configuration("fit", ["--config", recipe], TrainingConfig).model.max_tokens == 77
    with pytest.raises(ConfigurationError, match=f"no such file, and no recipe; they are .*{recipe}"):
        load_configuration("fit", ["--config", f"./no-{recipe}"], TrainingConfig)


@pytest.mark.parametrize("name", names())
def test_every_recipe_says_what_it_is_for_and_can_be_read(name: str) -> None:
    path = recipe_path(name)
    assert path is not None
    assert path.read_text().startswith("# ")
    assert read_recipe(name).model_fields_set <= {"model", "loss", "optimiser", "data"}


@pytest.mark.parametrize("line", ['model = "smollm2"', "data = 5", "optimiser = []"])
def test_a_section_that_is_no_table_is_not_passed_over_for_flags(line: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(line + "\n")
    name = line.partition(" ")[0]
    for flags in ([], ["--model.max-tokens", "32"], ["--data.train", "a.jsonl"], ["--optimiser.epochs", "1"]):
        with pytest.raises(ConfigurationError, match=rf"mine\.toml: {name} must be a table, \[{name}\]"):
            load_configuration("fit", ["--config", str(path), *flags], TrainingConfig)


@pytest.mark.parametrize("name", ["data.mix", "data.columns", "model.aspects"])
def test_a_table_is_given_by_name_and_value(name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{name}: a table is given by NAME=VALUE; again for the next$"):
        load_configuration("fit", [f"--{name}", "a"], TrainingConfig)
