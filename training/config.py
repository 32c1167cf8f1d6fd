"""The training configuration: every setting, its default and its meaning, in one typed table.

Read from one TOML file, with command-line flags over it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from service.bundle.layout import DEFAULT_BLOCK_QUERIES
from training.heads import Heads

SAMPLE = "sample"
"""Name of the preference data that come with the project."""

SAMPLE_DATA = Path(__file__).parent / "data" / "sample"
"""Where they are."""


class Section(BaseModel):
    """Unknown settings are errors: a misspelt one must not be ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    def with_changes_of(self, other: Self) -> Self:
        """These settings, and in their place those that `other` sets explicitly."""
        return self.model_copy(update={name: getattr(other, name) for name in other.model_fields_set})


def _one_or_more(value: Any) -> Any:
    """A single name stands for a list of one."""
    return (value,) if isinstance(value, str) else value


Sources = Annotated[tuple[str, ...], BeforeValidator(_one_or_more)]


_ALPHA = 32


class DataConfig(Section):
    """What to learn from."""

    train: Sources = Field((SAMPLE,), min_length=1)
    """Files or folders of preference data, hf:NAME[:SPLIT] for a Hugging Face data set (behind it
    ?name=CONFIGURATION&data_dir=FOLDER&revision=COMMIT where needed), or sample (built in)."""
    format: Literal["auto", "records", "trl", "hh", "ranking", "votes"] = "auto"
    """How rows are written; auto looks at the columns."""
    columns: dict[str, str] = {}
    """What the rows call a column, by the name that the format has for it: chosen=response_j,rejected=response_k."""
    test: Sources = ()
    """Data to test on; without it a part of the training prompts is held out."""
    test_fraction: float = Field(0.15, ge=0, le=1)
    """Share of prompts held out for the test, when no test data are named."""
    validation: Sources = ()
    """Data for early stopping and calibration; without it a part of the training prompts is held out."""
    validation_fraction: float = Field(0.1, gt=0, le=1)
    """Share of prompts held out for early stopping and calibration, when no validation data are named."""
    seed: int = 0
    """Of which prompts are held out, and of the order of a prompt's responses. Trainings that differ in optimiser.seed
    alone hold out the same, so that they can be compared and averaged."""
    store: Path | None = None
    """Folder for training data that are larger than memory: records and tokens are kept there, mapped into memory, and
    found again by the next run with the same sources. What needs all records at once is then left out: near duplicates,
    contradictions, and the merging of rows of one prompt that do not follow one another."""
    on_bad_row: Literal["error", "skip"] = "error"
    """Stop at a row that cannot be read, or count it, report it and go on."""
    merge_prompts: bool = True
    """Put a source's judgements of one prompt into one element; votes on a pair add up across sources."""
    deduplicate: bool = True
    """Drop true repeats: the rows of a file named twice; without merge_prompts, a pair with the same votes again."""
    on_leakage: Literal["error", "drop", "report"] = "drop"
    """When a training prompt is also in the named validation or test data, or contaminated by data.decontaminate: stop,
    drop it from training, or only say so."""
    decontaminate: Sources = ()
    """Evaluation files, in whatever columns: what is learnt must not share 13 words in a row with a text there, nor a
    whole text of 6 to 12 words, nor both prompt and response if they are shorter; on_leakage says what becomes of a
    training prompt that does."""
    mix: dict[str, Annotated[float, Field(gt=0, le=100)]] = {}
    """How often an epoch sees the records of a source, by its name: 2 for twice, 0.5 for half of them, drawn anew
    each epoch. Sources that are not named: once."""
    annotators: Literal["equal", "dawid-skene"] = "equal"
    """Take votes as they are cast; or replace those on each training pair by the probabilities of who is better, given
    how reliable the votes show each annotator to be. These are much surer than shares of votes."""
    aspects: dict[str, str] = {}
    """What the judgements of a source are on, where its rows do not say: the name of a file without its ending, or of
    a row's `source`, and an aspect of model.aspects."""

    @model_validator(mode="after")
    def _a_store_is_a_stream(self) -> Self:
        if self.store is not None and self.annotators != "equal":
            raise ValueError("store and annotators: the reliability of annotators is estimated from all votes at once")
        return self


class ModelConfig(Section):
    """What learns."""

    backbone: str = "minilm"
    """minilm (all-MiniLM-L6-v2, encoder), mpnet (all-mpnet-base-v2, a larger one), smollm2 (SmolLM2-135M-Instruct), a
    folder of transformers, the folder of an earlier run, or a Hugging Face name."""
    head: Literal["new", "pretrained"] = "new"
    """new: randomly initialised; pretrained: the backbone is a reward model, of an earlier run or trained elsewhere (a
    sequence classifier of transformers with one output, such as TRL leaves), and its head and text format are kept."""
    pooling: Literal["last", "first", "mean"] | None = None
    """Where the score is read: last (causal), mean or first (bidirectional). Default: last for causal backbones, mean
    for bidirectional ones."""
    max_tokens: int | None = Field(None, ge=4)
    """The most tokens of prompt and response together; longer ones lose the beginning of the prompt, then the end of
    the response. Default: the backbone's positions, at most 1024."""
    dropout: bool = False
    """Keep the backbone's dropout. Off by default: rewards of one text should not differ within a step."""
    attention: Literal["blocks", "flex"] = "blocks"
    """blocks: attention over blocks, as in the exported graph, on any device; flex: FlexAttention, on a GPU alone."""
    block_queries: int = Field(DEFAULT_BLOCK_QUERIES, ge=1, le=1024)
    """Queries in one attention block of the layout."""
    frozen_layers: int | None = Field(None, ge=0)
    """Leave the embeddings and so many of the lowest layers as they were pretrained: faster, and often no worse where
    preferences are few. Default: all learn; 0 for the embeddings alone."""
    gradient_checkpointing: bool = False
    """Keep less in memory and compute the inside of each layer twice."""
    lora_rank: int = Field(0, ge=0, le=1024)
    """Train low-rank adapters of this rank on all linear layers, and the head, instead of all weights; 0 for all. The
    adapters are merged when training ends, so that the bundle is like any other."""
    lora_alpha: int = Field(_ALPHA, ge=1)
    """Scale of the adapters: their product counts lora_alpha / lora_rank."""
    ensemble: int = Field(1, ge=1, le=64)
    """Heads on one backbone, each learning from prompts drawn anew: their mean is the reward, and their standard
    deviation is served as its uncertainty."""
    aspects: dict[str, float] = {}
    """Heads by name (helpful, harmless, ...) and what each counts in the reward, their sum; all are served."""

    @model_validator(mode="after")
    def _one_kind_of_heads(self) -> Self:
        if self.ensemble > 1 and self.aspects:
            raise ValueError("ensemble and aspects: a model has members or aspects, not both")
        _ = self.heads
        return self

    @model_validator(mode="after")
    def _a_pretrained_head_is_one(self) -> Self:
        if self.head == "pretrained" and (self.ensemble > 1 or self.aspects):
            raise ValueError("head is pretrained: that is one score, without ensemble and aspects")
        return self

    @model_validator(mode="after")
    def _one_way_to_learn_less(self) -> Self:
        if self.frozen_layers is not None and self.lora_rank:
            raise ValueError("frozen_layers and lora_rank: adapters leave all layers as they were; not both")
        if self.lora_alpha != _ALPHA and not self.lora_rank:
            raise ValueError("lora_alpha scales adapters, and lora_rank is 0, so that there are none")
        return self

    @property
    def heads(self) -> Heads:
        """The heads that these settings ask for."""
        if self.aspects:
            return Heads(kind="aspects", weights=self.aspects)
        return Heads.ensemble(self.ensemble) if self.ensemble > 1 else Heads()


class LossConfig(Section):
    """What is minimised."""

    kind: Literal["bradley-terry", "rao-kupper", "davidson", "plackett-luce"] = "bradley-terry"
    """bradley-terry: shares of votes, a tie being half; rao-kupper and davidson: ties as an outcome of their own;
    plackett-luce: the ranking of each prompt's responses by majority, which must be whole and without ties."""

    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Assumed probability that a judgement is noise."""
    centring: float = Field(0.01, ge=0)
    """Weight of the penalty that keeps scores near zero (Eisenstein et al. 2023; TRL's center_rewards_coefficient)."""
    margin_weight: float = Field(0.0, ge=0)
    """Factor on the data's margins, which then are required differences (Touvron et al. 2023); 0 ignores them."""
    weigh_by: Literal["equal", "votes"] = "equal"
    """Weight of a judgement in the loss: equal, or its number of votes; times the weight that its row may give."""
    length_residual: bool = False
    """Teach the score only what the lengths of two responses do not explain: a slope on the difference of their
    logarithms is fitted first, added in training and left out in serving."""

    @model_validator(mode="after")
    def _rankings_are_plain(self) -> Self:
        for name in ("label_smoothing", "margin_weight", "length_residual"):
            if self.kind == "plackett-luce" and getattr(self, name):
                raise ValueError(f"{name} is of losses on pairs, and plackett-luce is one on rankings; leave it out")
        return self


class OptimiserConfig(Section):
    """How it is minimised: AdamW, linear warm-up, cosine decay."""

    learning_rate: float = Field(5e-5, gt=0)
    """Peak learning rate of the backbone. The default is of encoders of 20 to 110 M parameters; larger ones and
    decoders take 1e-5 and an epoch or two, and adapters (model.lora_rank) 1e-4."""
    head_learning_rate: float | None = Field(None, gt=0)
    """Peak learning rate of the head. Default: 1e-3 for a new one, and that of the backbone for a pretrained one."""
    epochs: float = Field(3, ge=0)
    """Passes over the training prompts; 0 to leave a pretrained reward model as it came."""
    batch_elements: int = Field(8, ge=1)
    """Elements (prompts) in one step."""
    accumulation: int = Field(1, ge=1)
    """Steps whose gradients are averaged for an update."""
    max_responses: int = Field(8, ge=2)
    """The most responses in one element; a prompt with more is grouped anew each epoch."""
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of the updates in which the learning rate rises."""
    weight_decay: float = Field(0.01, ge=0)
    """AdamW's weight decay."""
    max_gradient_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""
    bf16: bool = False
    """Compute in bfloat16 where it is safe and the processor has arithmetic for it; head and loss stay in float32."""
    fsdp: bool = False
    """Divide weights, gradients and moments among the processes, each with a GPU of its own, layer by layer (FSDP): for
    a backbone that does not fit on one."""
    evaluations_per_epoch: int = Field(1, ge=1)
    """How often the validation prompts are scored."""
    patience: int = Field(3, ge=0)
    """Stop after this many evaluations without a lower validation loss; 0 to go on to the end."""
    seed: int = 0
    """Random seed of a new head, the order of the elements and their grouping; that of the split is data.seed."""


class ReportConfig(Section):
    """What the report of an evaluation holds beside its figures."""

    probe_responses: int = Field(200, ge=0)
    """Preferred responses to held-out prompts that are changed in eight ways and scored again; 0 for no probes."""


class ExportConfig(Section):
    """What goes into the bundle beside the model."""

    report: bool = True
    """Put report.html into the bundle; it shows up to 12 held-out prompts with two responses each."""
    reference: bool = True
    """Put up to 256 held-out pairs, as token ids, into the bundle: servers choose a lower precision only by them."""
    transformers: Path | None = None
    """Folder for the model as a sequence classifier of transformers too, for frameworks that hold the reward model in
    their own process; of decoders with one head. It must not be there yet, or be empty."""


class TrainingConfig(Section):
    """Everything about one run."""

    run: Path = Path("runs/default")
    """Folder of the run: weights, checkpoints, metrics, report."""
    bundle: Path = Path("bundles/default")
    """Folder that export writes the bundle to."""
    name: str = Field("default", max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the model, as replies carry it."""
    licence: str | None = None
    """Licence of the trained weights. Default: the base model's."""
    resume: bool = False
    """Go on from the newest checkpoint of the run."""
    overwrite: bool = False
    """Begin anew where the run's folder holds a run, which is then lost."""
    progress: bool = True
    """Show progress bars."""
    trackers: Sources = ()
    """Send the curves there too, beside TensorBoard: wandb, mlflow, comet_ml, clearml, ..., whatever transformers knows
    and is installed. Each is set up by its own environment variables."""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    report: ReportConfig = ReportConfig()
    export: ExportConfig = ExportConfig()

    @model_validator(mode="after")
    def _fractions_leave_something(self) -> Self:
        data = self.data
        held_out = (0 if data.validation else data.validation_fraction) + (0 if data.test else data.test_fraction)
        if held_out > 1 or (held_out == 1 and self.optimiser.epochs):
            raise ValueError(f"test and validation fractions sum to {held_out:g}: nothing is left to train on")
        return self

    @model_validator(mode="after")
    def _something_is_learnt(self) -> Self:
        if not self.optimiser.epochs and self.model.head == "new":
            raise ValueError("optimiser.epochs is 0, and model.head is new: its scores would be drawn at random")
        if not self.optimiser.epochs and (found := self._of_training()):
            raise ValueError(f"optimiser.epochs is 0: {', '.join(found)} would have no effect; leave that out")
        return self

    def _of_training(self) -> list[str]:
        """Settings that only training uses, where they are not at their defaults."""
        of_training = {
            "optimiser": set(OptimiserConfig.model_fields) - {"epochs", "seed"},
            "loss": set(LossConfig.model_fields),
            "model": {"lora_rank", "frozen_layers", "gradient_checkpointing", "dropout"},
            "data": {"mix", "annotators"},
        }
        mine, default = (config.model_dump(include=of_training) for config in (self, TrainingConfig()))
        return [
            f"{section}.{name}" for section in mine for name, value in mine[section].items()
            if value != default[section][name]
        ]  # fmt: skip

    @model_validator(mode="after")
    def _aspects_can_be_learnt(self) -> Self:
        if self.data.aspects and not self.model.aspects:
            raise ValueError("data.aspects names aspects, and model.aspects no heads for them")
        if self.model.aspects and self.loss.kind == "plackett-luce":
            raise ValueError("loss.kind plackett-luce ranks responses all in all, and cannot teach model.aspects")
        if self.model.aspects and self.loss.length_residual:
            raise ValueError("loss.length_residual fits one slope, and model.aspects may each have another; not both")
        return self

    def portable(self) -> dict[str, Any]:
        """The configuration as plain JSON values, for the record."""
        return self.model_dump(mode="json")

    def differences(self, other: "TrainingConfig", *, of: Sequence[str]) -> list[str]:
        """Settings set explicitly here that `other` has otherwise, in words; `of` names fields and sections."""
        found: list[str] = []
        for name in of:
            mine, theirs = getattr(self, name), getattr(other, name)
            if isinstance(mine, Section):
                found += [
                    f"{name}.{part} is {getattr(mine, part)!r}, not {getattr(theirs, part)!r}"
                    for part in sorted(mine.model_fields_set)
                    if getattr(mine, part) != getattr(theirs, part)
                ]
            elif name in self.model_fields_set and mine != theirs:
                found.append(f"{name} is {mine!r}, not {theirs!r}")
        return found
