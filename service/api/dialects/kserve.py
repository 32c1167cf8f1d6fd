"""KServe v2, the open inference protocol, in JSON: what Triton's callers speak, NeMo-Aligner's reward model among them.

Without the extension for binary tensors.
"""

import math
from typing import Annotated, Any, Literal

from fastapi import Request, Response
from pydantic import Field, StrictInt

from service.api.context import context_of
from service.api.dialects.dialect import Dialect, Open, Texts, TokenLists, answer, check_model, known_tokens, told
from service.api.errors import ApiError, Failure
from service.api.health import live, ready
from service.scoring.items import AnyItem, Item, WholeText, WholeTokens


def _error_shape(failure: Failure) -> object:
    return {"error": told(failure)}


DIALECT = Dialect("kserve", _error_shape, {413: 400, 415: 400, 422: 400, 429: 503}, untyped_bodies=True)
_FORMS = "sentences; tokens with sequence_lengths; or prompt with response"


class Tensor(Open):
    """A named array; its data are flat or nested."""

    name: str
    shape: list[Annotated[StrictInt, Field(ge=0, le=2**31)]] = Field(min_length=1, max_length=2)
    datatype: Literal["BYTES", "INT64"]
    data: (
        Texts
        | TokenLists
        | Annotated[list[StrictInt], Field(fail_fast=True)]
        | Annotated[list[Texts], Field(fail_fast=True)]
    )


class InferRequest(Open):
    """Texts of prompt and response in one (`sentences`, BYTES), or token ids, or both texts apart."""

    id: str | None = None
    inputs: list[Tensor]


@DIALECT.router.post("/v2/models/{name}/infer")
async def infer(request: Request, name: str, body: InferRequest) -> Response:
    """`rewards`, FP32 of shape (B, 1)."""
    check_model(request, name)
    tensors = {tensor.name: tensor for tensor in body.inputs}
    items = _items(request, tensors)
    scores = await DIALECT.score(request, items, lambda place: f"inputs.{place}")
    output = {"name": "rewards", "datatype": "FP32", "shape": [len(items), 1], "data": scores.raw}
    given = {} if body.id is None else {"id": body.id}
    return answer({"model_name": name, "model_version": "1", **given, "outputs": [output]}, request)


@DIALECT.router.get("/v2/models/{name}")
async def metadata(request: Request, name: str) -> Response:
    """The inputs and the output."""
    check_model(request, name)
    inputs = [
        {"name": "sentences", "datatype": "BYTES", "shape": [-1, 1]},
        {"name": "tokens", "datatype": "INT64", "shape": [-1, -1]},
        {"name": "sequence_lengths", "datatype": "INT64", "shape": [-1, 1]},
        {"name": "prompt", "datatype": "BYTES", "shape": [-1, 1]},
        {"name": "response", "datatype": "BYTES", "shape": [-1, 1]},
    ]
    outputs = [{"name": "rewards", "datatype": "FP32", "shape": [-1, 1]}]
    return answer({"name": name, "versions": ["1"], "platform": "onnx", "inputs": inputs, "outputs": outputs}, request)


@DIALECT.router.get("/v2/models/{name}/ready")
async def model_ready(request: Request, name: str) -> Response:
    """200 while requests are taken."""
    check_model(request, name)
    return await ready(request)


@DIALECT.router.get("/v2/health/ready")
async def server_ready(request: Request) -> Response:
    """200 while requests are taken."""
    return await ready(request)


@DIALECT.router.get("/v2/health/live")
async def server_live(request: Request) -> Response:
    """200 while the engine makes progress."""
    return await live(request)


@DIALECT.router.get("/v2")
async def server(request: Request) -> Response:
    """The server's name and version."""
    return answer({"name": "assay", "version": context_of(request).version, "extensions": []}, request)


def _items(request: Request, tensors: dict[str, Tensor]) -> list[AnyItem]:
    if set(tensors) == {"sentences"}:
        return [WholeText(text) for text in _texts(tensors["sentences"])]
    if set(tensors) == {"prompt", "response"}:
        prompts, responses = _texts(tensors["prompt"]), _texts(tensors["response"])
        if len(prompts) != len(responses):
            raise ApiError(422, "invalid", f"{len(prompts)} prompts for {len(responses)} responses", "inputs")
        return [Item(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
    if set(tensors) == {"tokens", "sequence_lengths"}:
        return _tokens(request, tensors["tokens"], tensors["sequence_lengths"])
    raise ApiError(422, "invalid", f"the inputs are {', '.join(sorted(tensors)) or 'none'}; send {_FORMS}", "inputs")


def _texts(tensor: Tensor) -> list[str]:
    values = _flat(tensor)
    if tensor.datatype != "BYTES" or not all(isinstance(value, str) for value in values):
        raise ApiError(422, "invalid", f"{tensor.name} must be BYTES, as texts", f"inputs.{tensor.name}")
    if tensor.shape[0] != len(values):
        raise ApiError(422, "invalid", f"{tensor.name} must have one text a row", f"inputs.{tensor.name}")
    return values


def _tokens(request: Request, tokens: Tensor, lengths: Tensor) -> list[AnyItem]:
    rows, width = (*tokens.shape, 1)[:2]
    ids, counts = _flat(tokens), _flat(lengths)
    if len(counts) != rows or not all(isinstance(value, int) for value in (*ids, *counts)):
        message = "tokens and sequence_lengths must be INT64, with a length for every row"
        raise ApiError(422, "invalid", message, "inputs")
    items: list[AnyItem] = []
    for row, count in enumerate(counts):
        if not 0 < count <= width:
            message = f"the length of row {row} is {count}, which is not from 1 to {width}"
            raise ApiError(422, "invalid", message, "inputs.sequence_lengths")
        items.append(WholeTokens(known_tokens(request, ids[row * width : row * width + count], "inputs.tokens")))
    return items


def _flat(tensor: Tensor) -> list[Any]:
    """Its values, as many as its shape says."""
    values = [value for part in tensor.data for value in (part if isinstance(part, list) else [part])]
    size = math.prod(tensor.shape)
    if len(values) != size:
        message = f"{tensor.name} has {len(values)} values, but its shape {tensor.shape} has {size}"
        raise ApiError(422, "invalid", message, f"inputs.{tensor.name}")
    return values
