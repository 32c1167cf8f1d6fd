"""The settings with which a reward model that was trained elsewhere is brought into a bundle, as it came."""

from collections.abc import Sequence

from pydantic import ValidationError

from training.config import DataConfig, TrainingConfig
from training.error_text import first_complaint
from training.settings import ConfigurationError, load_configuration

_VALIDATION = 0.4
"""Share of the data that calibrates, where nothing else is said; all others are for the test."""
_KEPT = {
    "data": set(DataConfig.model_fields) - {"mix", "annotators", "store"},
    "model": {"backbone", "max_tokens", "block_queries"},
    "optimiser": set[str](),
    "loss": set[str](),
}
"""Settings of these sections that have an effect all the same."""


def import_configuration(arguments: Sequence[str]) -> TrainingConfig:
    """The configuration of `assay-train import MODEL [flags]`.

    Raises:
        ConfigurationError: no model is named, or a setting that is of training.
        FileNotFoundError: no such file of settings.
        SystemExit: --help, or an unknown flag.
    """
    named = [*arguments]
    if named and not named[0].startswith("-"):
        named[:1] = ["--model.backbone", named[0]]
    config = load_configuration("import", named, TrainingConfig)
    if "backbone" not in config.model.model_fields_set:
        raise ConfigurationError("name the model, a folder or a Hugging Face name: assay-train import MODEL [flags]")
    for section, kept in _KEPT.items():
        if others := getattr(config, section).model_fields_set - kept:
            raise ConfigurationError(
                f"{section}.{min(others)} is of training, and import leaves the model as it came; leave it out, or "
                "train on with `assay-train run --model.head pretrained`"
            )
    if config.resume:
        raise ConfigurationError("resume is of training, and import has nothing to go on with; leave it out")
    content = config.model_dump(exclude_unset=True)
    data = content.setdefault("data", {})
    if not data.get("validation"):
        data.setdefault("validation_fraction", 1.0 if data.get("test") else _VALIDATION)
    if not data.get("test"):
        data.setdefault("test_fraction", 1.0 if data.get("validation") else 1 - data["validation_fraction"])
    content["model"]["head"] = "pretrained"
    content["optimiser"] = content.get("optimiser", {}) | {"epochs": 0}
    try:
        return TrainingConfig.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError(first_complaint(error)) from error
