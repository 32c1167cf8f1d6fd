"""Help shows what a command reads, in words; a misspelt flag is answered with the one that was meant."""

import argparse

import pytest

from training.config import TrainingConfig
from training.flags import FlagParser
from training.settings import load_configuration


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        load_configuration(command, ["--help"], TrainingConfig)
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_fit_shows_every_setting_and_no_type_of_python(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of("fit", capsys)
    for flag in (
        "--config FILE.toml|RECIPE",
        "--data.train TEXT",
        "--data.mix NAME=NUMBER",
        "--optimiser.epochs NUMBER",
    ):
        assert flag in text
    assert not any(kind in text for kind in ("tuple[", "dict[", " Path\n", " int "))


@pytest.mark.parametrize(
    ("command", "shown", "hidden"),
    [
        ("evaluate", "--report.probe-responses", ("--data.", "--model.", "--export.", "--bundle", "loss options")),
        ("export", "--export.transformers", ("--data.", "--model.", "--report.", "--overwrite", "loss options")),
    ],
)
def test_of_a_trained_run_help_shows_what_can_still_be_set(
    command: str, shown: str, hidden: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_of(command, capsys).partition("options:")[2]
    assert shown in text
    assert "must be the run's" in " ".join(text.split())
    assert [part for part in hidden if part in text] == []


@pytest.mark.parametrize("flag", ["--optimizer.epochs", "--optimizer.epochs=3"])
def test_a_misspelt_flag_is_answered_with_the_one_that_was_meant(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        load_configuration("fit", [flag], TrainingConfig)
    assert stop.value.code == 2
    assert "did you mean --optimiser.epochs?" in capsys.readouterr().err


def test_of_a_flag_like_no_other_nothing_is_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load_configuration("fit", ["--xyzzy"], TrainingConfig)
    assert "did you mean" not in capsys.readouterr().err


def test_help_can_be_asked_for_twice() -> None:
    parser = FlagParser(prog="it", shown=("--a",))
    parser.add_argument("--a", metavar="int", help="shown")
    parser.add_argument("--b", metavar="int", help="hidden")
    assert parser.format_help() == parser.format_help()
    assert "--a N" in parser.format_help()
    assert "hidden" not in parser.format_help()
    assert parser.parse_args(["--b", "3"]) == argparse.Namespace(a=None, b="3")
