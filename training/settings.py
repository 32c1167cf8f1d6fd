"""The configuration of one command: defaults, then one TOML file, then flags."""

import argparse
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings.exceptions import SettingsError

from training.config import Section, TrainingConfig
from training.flags import FlagParser
from training.recipes import names, recipe_path

_Config = TypeVar("_Config", bound=Section)

_SHOWN = {
    "evaluate": ("--config", "--run", "--report.", "--progress"),
    "export": ("--config", "--run", "--bundle", "--export."),
}
"""What these commands read; a file of settings may hold those of the training too, if they are the run's."""


class ConfigurationError(ValueError):
    """A setting that is unknown, of the wrong type or out of range; the message names it."""


def load_configuration(command: str, arguments: Sequence[str], kind: type[_Config]) -> _Config:
    """Read the flags of `command`, and the file or recipe that --config names, as a configuration of `kind`.

    Only what was set explicitly counts as set in the result (`model_fields_set`).

    Raises:
        ConfigurationError: a setting that is unknown or out of range, or a file that is not there or not TOML.
        SystemExit: --help, or an unknown flag.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    known, rest = first.parse_known_args(list(arguments))
    flags = [_spelling(argument) for argument in rest]
    parser = FlagParser(
        prog=f"assay-train {command}",
        shown=_SHOWN.get(command, ("--",)),
        usage=f"assay-train {command}{' MODEL' * (command == 'import')} [--config FILE.toml|RECIPE] [flags]",
        description="Every setting is a flag, and a TOML key of the same name with _ for -. Flags win over the file. "
        "A list is given by repeating its flag (--data.train a.jsonl --data.train b.jsonl), a table by NAME=VALUE "
        "(--data.mix a=2)." + (f" Recipes: {', '.join(names())}." if kind is TrainingConfig else ""),
    )
    parser.add_argument(  # was read above; here it is for the help
        "--config",
        metavar="FILE.toml|RECIPE",
        default=argparse.SUPPRESS,
        help="Settings as a file or recipe." + " Those of the training must be the run's." * (command in _SHOWN),
    )
    from_file = {} if known.config is None else _read(known.config, kind)

    class Settings(BaseSettings, kind):  # type: ignore[valid-type, misc]
        """The configuration, read from flags and file."""

        model_config = SettingsConfigDict(
            extra="forbid",
            frozen=True,
            use_attribute_docstrings=True,
            cli_kebab_case=True,
            cli_implicit_flags=True,
            cli_avoid_json=True,
            cli_hide_none_type=True,
            cli_parse_none_str="none",
        )

        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *_: Any, **__: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            """Flags over the file, and no environment: a run is told by its configuration alone."""
            given: CliSettingsSource[Any] = CliSettingsSource(settings_cls, cli_parse_args=flags, root_parser=parser)
            return given, InitSettingsSource(settings_cls, init_kwargs=from_file)

    try:
        settings = Settings()
    except (ValidationError, SettingsError) as error:
        raise ConfigurationError(_explain(error, known.config)) from error
    return kind.model_validate(settings.model_dump(exclude_unset=True))


def _spelling(argument: str) -> str:
    """A flag as the parser knows it: --data.test_fraction is --data.test-fraction."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") + equals + value


def _read(path: Path, kind: type[Section]) -> dict[str, Any]:
    if not path.is_file():
        recipe = recipe_path(str(path))
        if recipe is None:
            raise ConfigurationError(f"--config {path}: no such file, and no recipe; they are {', '.join(names())}")
        path = recipe
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not TOML, or not UTF-8
        raise ConfigurationError(f"{path}: not TOML: {error}") from error
    for name, field in kind.model_fields.items():  # flags of a section would take the place of whatever else it is
        section = isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        if section and not isinstance(content.get(name, {}), dict):
            raise ConfigurationError(f"{path}: {name} must be a table, [{name}], and not {content[name]!r}")
    return content


def _explain(error: ValidationError | SettingsError, config: Path | None) -> str:
    if isinstance(error, SettingsError):
        table = re.match(r"Parsing error encountered for (\S+): not enough values to unpack", str(error))
        return str(error) if table is None else f"{table[1]}: a table is given by NAME=VALUE; again for the next"
    complaints = []
    for problem in error.errors(include_url=False):
        name = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            # Flags of unknown settings were refused before.
            complaints.append(f"{config}: {name}: there is no such setting; --help lists them")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            given = "" if problem["type"] == "value_error" else f" (given: {problem['input']!r})"
            complaints.append(f"{name}: {message}{given}" if name else message)
    return "; ".join(complaints)
