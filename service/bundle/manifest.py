"""`bundle.json`: what a bundle is, in one versioned, closed schema."""

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from service.bundle.calibration import Calibration
from service.bundle.layout import DEFAULT_BLOCK_QUERIES, LAYOUT_VERSION, Family, Pooling
from service.bundle.text_format import TextFormat

MANIFEST_NAME = "bundle.json"
MODEL_NAME = "model.onnx"
TOKENIZER_NAME = "tokenizer.json"
TEMPLATE_NAME = "chat_template.jinja"
PARITY_NAME = "parity.json"
REFERENCE_NAME = "reference.json"
REPORT_FOLDER = "report"

REQUIRED_FILES = (MODEL_NAME, TOKENIZER_NAME, TEMPLATE_NAME, PARITY_NAME)

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _inside(path: str) -> str:
    """Refuse a path that leaves the folder or has more than one spelling."""
    pure = PurePosixPath(path)
    leaves = pure.is_absolute() or ".." in pure.parts
    if leaves or str(pure) != path or path == "." or "\\" in path or "\0" in path:
        raise ValueError(f"{path!r} is not a plain relative path inside the bundle")
    return path


class _Closed(BaseModel):
    """Immutable, and an unknown field is an error: a reader must not ignore what it does not understand."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Closed):
    """One file of the bundle."""

    sha256: Sha256
    bytes: int = Field(ge=0)


class Provenance(_Closed):
    """Where the weights come from: enough to train them again."""

    data_sha256: Sha256 = Field(description="Hash of the preference records used, in order of their ids.")
    records: int = Field(ge=1)
    seed: int
    commit: str | None = Field(description="Version-control commit of the trainer, if known.")
    created: str = Field(description="UTC time of export, ISO 8601.")
    versions: dict[str, str] = Field(description="Versions of the libraries that made the weights.")
    configuration: dict[str, Any] = Field(description="The training configuration, whole.")
    began_with: "Provenance | None" = Field(
        default=None,
        description="Of the earlier run whose weights training began with; null for a pretrained model.",
    )
    averaged: tuple["Provenance", ...] = Field(
        default=(), description="Of the trainings whose weights these are the mean of; empty for one training."
    )


REWARD = "reward"
UNCERTAINTY = "uncertainty"
"""Names of scores that a server knows: what is rewarded, and how far the members of an ensemble disagree on it."""


class Manifest(_Closed):
    """The contract between training and serving."""

    format_version: Literal[1] = 1
    name: str = Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    base_model: str = Field(min_length=1)
    licence: str = Field(min_length=1, description="Licence of the weights.")
    family: Family
    pooling: Pooling
    max_tokens: int = Field(ge=4, description="The most tokens of one item, special tokens included.")
    text_format: TextFormat
    text_format_sha256: Sha256
    layout_version: Literal[2] = LAYOUT_VERSION
    block_queries: int = Field(default=DEFAULT_BLOCK_QUERIES, ge=1, description="Q of the layout.")
    precision: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"
    heads: tuple[str, ...] = Field(min_length=1, description="Names of the graph's scores; the first is the reward.")
    calibration: Calibration
    evaluation: dict[str, FiniteFloat | int] = Field(description="The figures of the report in brief.")
    provenance: Provenance
    files: dict[Annotated[str, AfterValidator(_inside)], FileEntry]

    @model_validator(mode="after")
    def _heads_are_told_apart(self) -> Self:
        if len(set(self.heads)) != len(self.heads):
            raise ValueError(f"heads: two have one name ({', '.join(self.heads)})")
        if self.heads[0] == UNCERTAINTY:
            raise ValueError(f"heads: the first is the reward, and is called {UNCERTAINTY!r}")
        return self

    @model_validator(mode="after")
    def _pooling_of_the_family(self) -> Self:
        if (self.family is Family.CAUSAL) != (self.pooling is Pooling.LAST):
            raise ValueError(f"a {self.family} model is not pooled by {self.pooling}")
        return self
