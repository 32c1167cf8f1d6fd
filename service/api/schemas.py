"""The native API's requests and replies, version 1. Unknown fields are refused."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    JsonValue,
    Tag,
    model_validator,
)

from service.bundle.text_format import Message


def _no_nul(text: str) -> str:
    """U+0000 has no token in most vocabularies and ends strings in others: it must not vanish silently."""
    if (place := text.find("\0")) >= 0:
        raise ValueError(f"contains the NUL character U+0000 at position {place}; remove it")
    return text


Text = Annotated[str, AfterValidator(_no_nul)]


class ChatMessage(Message):
    """One turn of a conversation."""

    role: Annotated[
        str,
        Field(min_length=1, max_length=64, description="user, assistant, system, or what the template knows."),
        AfterValidator(_no_nul),
    ]
    content: Text


PROMPT_FORMS = ("<text>", "<messages>")
"""Names of the two forms of a prompt in pydantic's error paths."""


def _form(prompt: object) -> str:
    return PROMPT_FORMS[isinstance(prompt, list)]


_TextPrompt = Annotated[Text, Tag(PROMPT_FORMS[0])]
_ChatPrompt = Annotated[list[ChatMessage], Field(min_length=1, max_length=1024, fail_fast=True), Tag(PROMPT_FORMS[1])]
PromptField = Annotated[
    _TextPrompt | _ChatPrompt,
    Discriminator(_form),
    Field(description="Text, or the conversation so far as chat messages. A text is one user message."),
]
PrecisionCheck = Literal["passed", "not_needed", "not_checked"]
ScaleName = Literal["raw", "centred", "standardised", "probability"]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Pair(_Closed):
    """A prompt with one response."""

    prompt: PromptField
    response: Text


class Comparison(_Closed):
    """A prompt with two responses."""

    prompt: PromptField
    response_a: Text
    response_b: Text


class Options(_Closed):
    """What every scoring request may ask for."""

    truncate: Literal["prompt_left", "response_right"] | None = Field(
        None, description="Side that may be cut from an over-long item; without it such an item is an error."
    )
    allow_empty: bool = Field(
        False, strict=True, description="Score empty prompts and responses instead of refusing them."
    )
    timeout_ms: Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)] | None = Field(
        None, description="Time for this request from its headers on, in milliseconds; after it the reply is 504."
    )
    model_digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = Field(
        None, description="Refuse (409) if another model is served than this one."
    )


_SCORE_EXAMPLE: dict[str, JsonValue] = {
    "prompt": "How do I boil an egg?",
    "responses": [
        "Lower it into boiling water: 7 minutes for a soft yolk, 10 for a hard one.",
        "Eggs come from hens, which were first kept in Asia.",
    ],
}


class ScoreRequest(Options):
    """Either `pairs`, or one `prompt` with `responses` (computed once for all of them)."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [_SCORE_EXAMPLE]})

    pairs: Annotated[list[Pair], Field(min_length=1, fail_fast=True)] | None = None
    prompt: PromptField | None = None
    responses: Annotated[list[Text], Field(min_length=1, fail_fast=True)] | None = None
    scale: ScaleName = Field("raw", description="Scale of the scores in the reply.")
    on_error: Literal["fail", "item"] = Field(
        "fail", description="Where one item has no finite score: fail the request, or put an error in its place."
    )

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.pairs is None) == (self.prompt is None and self.responses is None):
            raise ValueError('send either "pairs", or "prompt" together with "responses"')
        if self.pairs is None and (self.prompt is None or self.responses is None):
            raise ValueError('"prompt" and "responses" go together')
        return self


class CompareRequest(Options):
    """Pairs of responses to compare."""

    comparisons: list[Comparison] = Field(min_length=1, fail_fast=True)


class RankRequest(Options):
    """Responses to one prompt to put in order."""

    prompt: PromptField
    responses: list[Text] = Field(min_length=1, fail_fast=True)


class ModelName(_Closed):
    """Which model gave the scores."""

    name: str
    digest: str = Field(description="SHA-256 of the bundle's manifest: the identity of the model.")


class Detail(_Closed):
    """What was scored for one item."""

    tokens: int = Field(description="Tokens of the item as it was scored.")
    truncated: bool
    tokens_removed: int


class Usage(_Closed):
    """What a request cost."""

    items: int
    tokens: int = Field(description="Tokens of all items.")
    computed_tokens: int = Field(description="Tokens computed: a prefix shared within the request counts once.")


class Timing(_Closed):
    """Where the time went, in milliseconds."""

    total_ms: float
    tokenize_ms: float
    queue_ms: float
    infer_ms: float


class ItemFailure(_Closed):
    """In place of a score, where `on_error` is `item`."""

    error: "FailureBody"


class FailureBody(_Closed):
    """Why one item has no score."""

    code: str
    message: str


class _Reply(_Closed):
    model: ModelName
    details: list[Detail] = Field(description="One for each scored text, in order.")
    usage: Usage
    timing: Timing


class ScoreReply(_Reply):
    """Scores in the order of the items."""

    scale: ScaleName
    scores: list[FiniteFloat | ItemFailure]
    uncertainty: list[FiniteFloat | None] | None = Field(
        None,
        description="Of a model with an ensemble: standard deviation of its members' scores, on the scale of the "
        "scores (of probabilities to first order); null for an item without a score.",
    )
    heads: dict[str, list[FiniteFloat | None]] | None = Field(
        None,
        description="Of a model with several heads: raw scores by the name of the head, such as an aspect or a member "
        "of an ensemble; null for an item without a score.",
    )


class ComparisonResult(_Closed):
    """How two responses compare."""

    preferred: Literal["a", "b", "tie"]
    probability: FiniteFloat = Field(description="Calibrated probability that a is preferred.")
    margin: FiniteFloat = Field(description="score_a - score_b")
    score_a: FiniteFloat
    score_b: FiniteFloat


class CompareReply(_Reply):
    """One result for each comparison; `details` holds two for each, a before b."""

    comparisons: list[ComparisonResult]


class RankReply(_Reply):
    """The responses in order."""

    order: list[int] = Field(description="Indices of the responses, best first; equal scores keep their order.")
    scores: list[FiniteFloat] = Field(description="Raw scores, in the order of the request.")
    win_probabilities: list[list[FiniteFloat]] = Field(
        description="Row i, column j: calibrated probability that response i is preferred to response j."
    )


class LimitsReply(_Closed):
    """What one request may hold and what may wait."""

    body_bytes: int
    items_per_request: int
    responses_per_ranking: int
    tokens_per_item: int
    queue_items: int
    queue_tokens: int


class ModelReply(_Closed):
    """What is served, and on what."""

    model: ModelName
    family: str
    base_model: str
    licence: str
    max_tokens: int
    precision: str = Field(description="What the graph is computed in.")
    provider: str = Field(description="Execution provider that really runs the graph.")
    nodes: dict[str, int] = Field(description="Nodes of the graph that each provider ran when it was loaded.")
    precision_gate: dict[str, Any] | None = Field(
        description="How this precision ordered the bundle's held-out pairs, compared with fp32; null where that was "
        "not checked: see precision_check."
    )
    precision_check: PrecisionCheck = Field(
        description="passed: precision_gate has the figures; not_needed: fp32; not_checked: a lower precision that was "
        "asked for by name, of a bundle without held-out pairs, so that nobody knows what it does to the order."
    )
    deterministic: bool = Field(description="Whether equal requests get scores that are equal to the bit.")
    heads: list[str]
    text_format_sha256: str
    layout_version: int
    calibration: dict[str, Any]
    evaluation: dict[str, float | int]
    provenance: dict[str, Any]
    limits: LimitsReply
    server_version: str


class ErrorBody(_Closed):
    """Why there are no scores."""

    code: str = Field(description="Stable name of the reason.")
    message: str = Field(description="What was wrong and what to do.")
    field: str | None = Field(None, description="Where in the request, such as pairs.3.response.")
    request_id: str | None = None
    retry_after_s: float | None = Field(None, description="Seconds after which a retry should succeed.")


class ErrorReply(_Closed):
    """The body of every reply that is not 2xx."""

    error: ErrorBody
