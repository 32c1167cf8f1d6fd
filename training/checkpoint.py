"""A trained reward model on disk: safetensors, JSON and text; nothing pickled."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from transformers import PreTrainedModel

from service.bundle.layout import Family, Pooling
from service.bundle.manifest import TEMPLATE_NAME, TOKENIZER_NAME, Provenance
from service.bundle.reader import sha256_of
from service.bundle.text_format import Formatter, TextFormat
from service.bundle.tokenizer import TextTokenizer
from training.backbone import from_configuration
from training.checkpoint_error import CheckpointError, cannot_write
from training.error_text import first_complaint, first_line
from training.heads import Heads
from training.model import RewardModel

_DESCRIPTION = "reward_model.json"
_WEIGHTS = "model.safetensors"


class Description(BaseModel):
    """What a checkpoint is, beside weights, tokenizer and template; `transform` as of `RewardModel`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    base_model: str
    licence: str
    family: Family
    pooling: Pooling
    heads: Heads
    transform: str | None = None
    max_tokens: int
    block_queries: int
    text_format: TextFormat
    provenance: Provenance


@dataclass(frozen=True)
class Checkpoint:
    """A reward model with its text format, in memory."""

    model: RewardModel
    formatter: Formatter
    description: Description


def save_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the checkpoint; the description goes last, so that a folder with one is whole.

    Raises:
        CheckpointError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _DESCRIPTION).unlink(missing_ok=True)
    try:
        checkpoint.model.backbone.config.save_pretrained(folder)
        save_model(checkpoint.model, str(folder / _WEIGHTS))
        # As bytes: both are hashed, and a text file may come back with other line ends.
        (folder / TOKENIZER_NAME).write_bytes(checkpoint.formatter.tokenizer.definition.encode())
        (folder / TEMPLATE_NAME).write_bytes(checkpoint.formatter.template.encode())
        (folder / _DESCRIPTION).write_text(checkpoint.description.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        raise cannot_write(folder, error) from error


def weights_sha256(folder: Path) -> str:
    """Hash of a checkpoint's weights, to tell which ones an evaluation is of."""
    return sha256_of(folder / _WEIGHTS)


def checkpoint_in(folder: Path) -> Path | None:
    """The checkpoint that a folder is, or that a run's folder holds."""
    return next((place for place in (folder, folder / "model") if (place / _DESCRIPTION).is_file()), None)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint, in evaluation mode.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    path = folder / _DESCRIPTION
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: no trained model here ({_DESCRIPTION} is missing); run `assay-train fit` first"
        )
    try:
        description = Description.model_validate_json(path.read_bytes())
        backbone = _backbone(folder)
        model = RewardModel(
            backbone, description.family, description.pooling, description.heads, transform=description.transform
        )
        load_model(model, folder / _WEIGHTS)
        tokenizer = TextTokenizer.from_file(folder / TOKENIZER_NAME)
        template = (folder / TEMPLATE_NAME).read_bytes().decode()
        formatter = Formatter(description.text_format, template, tokenizer, description.max_tokens)
    except ValidationError as error:
        raise CheckpointError(f"{path}: {first_complaint(error)}") from error
    except CheckpointError:
        raise
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{folder}: the checkpoint cannot be read: {error}") from error
    return Checkpoint(model.eval(), formatter, description)


def _backbone(folder: Path) -> PreTrainedModel:
    """The untrained architecture; whatever a wrong value in its configuration leads to is one clear line."""
    try:
        backbone = from_configuration(folder)
        sizes = backbone.config.get_text_config()
        for name in ("hidden_size", "num_hidden_layers", "num_attention_heads"):
            if getattr(sizes, name, 1) <= 0:  # two negative sizes make a positive one
                raise ValueError(f"{name} is {getattr(sizes, name)}")
        return backbone
    except Exception as error:  # an architecture divides, looks up and allocates by these values
        raise CheckpointError(
            f"{folder / 'config.json'}: the checkpoint cannot be read: {first_line(error)}; train anew"
        ) from error
