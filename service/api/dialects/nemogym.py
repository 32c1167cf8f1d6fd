"""NeMo Gym's resource servers: /verify for one response, /compare for those to one prompt.

Its rule is ours: a failure is never an ordinary reward. So there is none in a reply that is not a 200.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Annotated, Any

from fastapi import Request, Response
from pydantic import ConfigDict, Field

from service.api.context import context_of
from service.api.dialects.chat import MAX_TURNS, ChatTurn, TextPart, Turns
from service.api.dialects.dialect import Dialect, Open, answer, message_only, probability
from service.api.errors import ApiError
from service.api.items import measured
from service.api.schemas import Text
from service.bundle.text_format import Message
from service.scoring.items import Item

DIALECT = Dialect("nemogym", message_only, {429: 503})
_SCORES, _RANKS = 4, 6
"""Scores run from 1 to 5; ranks from 1, the first is much better, to 6, the second is."""


class Echoed(Open):
    """What comes back as it was, with the fields that we do not know."""

    model_config = ConfigDict(extra="allow", frozen=True)


class OutputPart(Echoed):
    """A piece of a message."""

    type: str
    text: Text = ""


class Output(Echoed):
    """A message, or something that is not scored, such as a call of a tool."""

    type: str = "message"
    content: tuple[OutputPart, ...] | None = None


class ResponseObject(Echoed):
    """A response as OpenAI's Responses API writes it."""

    output: Annotated[list[Output], Field(min_length=1)]

    @property
    def text(self) -> str:
        """Of all its messages."""
        parts = [part for output in self.output if output.type == "message" for part in output.content or ()]
        return "".join(part.text for part in parts if part.type == "output_text")


class InputPart(Echoed, TextPart):
    """A piece of a turn."""


class InputTurn(Echoed, ChatTurn):
    """A turn of the conversation."""

    content: Text | list[InputPart]


class CreateParams(Echoed):
    """What the response was asked for with."""

    input: Text | Annotated[list[InputTurn], Field(min_length=1, max_length=MAX_TURNS, fail_fast=True)]


class VerifyRequest(Echoed):
    """A prompt and its response; whatever else is given comes back."""

    responses_create_params: CreateParams
    response: ResponseObject


@DIALECT.router.post("/verify")
async def verify(request: Request, body: VerifyRequest) -> Response:
    """The request with its raw score as `reward`."""
    asked = body.responses_create_params.input
    prompt = asked if isinstance(asked, str) else _messages(asked)
    scores = await DIALECT.score(request, [Item(prompt, body.response.text)], lambda _: "response.output")
    (reward,) = scores.raw
    verdict = {"reward": reward, "mask_sample": False, "failure_kind": None, "failure_reason": None}
    return answer({**body.model_dump(mode="json", exclude_unset=True), **verdict}, request)


class CompareResponsesRequest(Open):
    """A conversation and the responses to it."""

    conversation_history: Turns
    response_objs: Annotated[list[ResponseObject], Field(fail_fast=True)]
    principle: Any = Field(None, description="Not looked at: the model was trained for one.")


@DIALECT.router.post("/compare")
async def compare(request: Request, body: CompareResponsesRequest) -> Response:
    """Raw scores in order, and all pairs on the scales of a judge, from the calibrated probabilities."""
    context = context_of(request)
    most = context.settings.ranked_items
    if len(body.response_objs) > most:
        message = f"{len(body.response_objs)} responses, more than the {most} of one ranking; send fewer"
        raise ApiError(413, "too_many_items", message, "response_objs")
    prompt = _messages(body.conversation_history)
    items = measured(prompt, [response.text for response in body.response_objs])
    scores = await DIALECT.score(request, items, lambda place: f"response_objs.{place}.output")
    raw = scores.raw
    judged = [1 + _SCORES * probability(request, score) for score in raw]
    calibration = context.scorer.bundle.manifest.calibration
    results = [
        {
            "response_i": i,
            "response_j": j,
            "judge_idx": 0,
            "score_1": judged[i],
            "score_2": judged[j],
            "ranking": 1 + min(_RANKS - 1, int(_RANKS * calibration.preference(raw[j], raw[i]))),
        }
        for i, j in combinations(range(len(raw)), 2)
    ]
    return answer({"rewards": raw, "comparison_results": results, "metrics": {}}, request)


def _messages(turns: Sequence[ChatTurn]) -> list[Message]:
    return [turn.message for turn in turns]
