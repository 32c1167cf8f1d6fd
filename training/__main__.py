"""assay-train: fit, evaluate, export, run (all three), inspect."""

import argparse
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import BaseSettings, CliSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import TomlConfigSettingsSource
from pydantic_settings.exceptions import SettingsError

from training.config import TrainingConfig

_USAGE = """usage: assay-train COMMAND [--config FILE.toml] [flags]

Turn human preferences into a reward model that assay-serve can serve.

commands:
  fit        train on preference data; leaves weights and checkpoints in the run's folder
  evaluate   score the held-out prompts: accuracy with interval, calibration, length bias
  export     write the bundle: ONNX graph, proof that it matches the weights, report, manifest
  run        fit, evaluate and export
  inspect    say what a bundle is:  assay-train inspect bundles/default

Every setting is a flag and a TOML key of the same name; flags win over the file.
  assay-train run --data.train my.jsonl --run runs/mine --bundle bundles/mine
  assay-train fit --help    lists all settings with their defaults and meanings
"""


def load_configuration(command: str, arguments: Sequence[str]) -> TrainingConfig:
    """The configuration of one command: defaults, then the TOML file, then flags.

    Raises:
        ValidationError, SettingsError: a setting that is unknown or out of range.
        OSError, ValueError: the file cannot be read.
    """
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--config", type=Path)
    known, rest = first.parse_known_args(list(arguments))
    if known.config is not None and not known.config.is_file():
        raise FileNotFoundError(f"--config {known.config}: no such file")

    class Settings(BaseSettings, TrainingConfig):
        """Settings of one training run. --config FILE.toml reads them from a file; flags win over it."""

        model_config = SettingsConfigDict(
            extra="forbid", frozen=True, use_attribute_docstrings=True, toml_file=known.config,
            cli_prog_name=f"assay-train {command}", cli_kebab_case=True, cli_implicit_flags=True,
            cli_avoid_json=True, cli_hide_none_type=True, nested_model_default_partial_update=True,
        )

        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *sources: PydanticBaseSettingsSource, **named: PydanticBaseSettingsSource
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            """Flags over the file, and no environment: a run must be told by its configuration alone."""
            flags: CliSettingsSource[argparse.ArgumentParser] = CliSettingsSource(settings_cls, cli_parse_args=rest)
            return flags, TomlConfigSettingsSource(settings_cls)

    settings = Settings()
    return TrainingConfig.model_validate(settings.model_dump())


def _fit(config: TrainingConfig) -> None:
    from training.pipeline import run_fit

    run_fit(config)


def _evaluate(config: TrainingConfig) -> None:
    from training.pipeline import run_evaluate

    run_evaluate(config)
    print((config.run / "summary.md").read_text(encoding="utf-8"))


def _export(config: TrainingConfig) -> None:
    from training.pipeline import run_export

    run_export(config)


def _run(config: TrainingConfig) -> None:
    for step in (_fit, _evaluate, _export):
        step(config)


_COMMANDS: dict[str, Callable[[TrainingConfig], None]] = {
    "fit": _fit,
    "evaluate": _evaluate,
    "export": _export,
    "run": _run,
}


def _inspect(arguments: Sequence[str]) -> None:
    from service.bundle.reader import read_bundle
    from training.inspection import describe

    parser = argparse.ArgumentParser(prog="assay-train inspect", description="Check a bundle and say what it is.")
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    print(describe(read_bundle(parser.parse_args(arguments).bundle)))


def main() -> int:
    """Run one command; 0 on success, 2 on a wrong call, 1 with one clear line on anything expected to fail."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if arguments else 2
    command, rest = arguments[0], arguments[1:]
    if command not in (*_COMMANDS, "inspect"):
        print(f"assay-train: unknown command {command!r}; one of {', '.join((*_COMMANDS, 'inspect'))}", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        if command == "inspect":
            _inspect(rest)
        else:
            _COMMANDS[command](load_configuration(command, rest))
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            print(f"assay-train: {'.'.join(map(str, problem['loc']))}: {problem['msg']}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("assay-train: interrupted; go on with --resume", file=sys.stderr)
        return 130
    # What is expected to go wrong (data, checkpoints, bundles, files) is one of these and explains itself.
    except (SettingsError, ValueError, OSError, RuntimeError, FloatingPointError) as error:
        print(f"assay-train: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
