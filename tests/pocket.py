"""A pocket bundle: real in every file, made in milliseconds without torch.

The tokenizer is byte-level: a text has as many tokens as UTF-8 bytes, and the id of a byte is its value. The
graph takes the arrays of the layout and looks at what attention would see, through the same blocks:

    reward = mean of weight[id_k] * (1 + position_k / 7) over the keys k that the read token sees

It changes with every token of an item, with its place, and with nothing else; `pocket_reward` is the same in
numpy. Two texts break it on purpose: an item with `NAN_TEXT` scores NaN, one with `INFINITE_TEXT` infinity.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from service.bundle.calibration import Calibration
from service.bundle.layout import BLOCK_GROUPS, FLAT_INPUTS, GRAPH_INPUTS, GRAPH_OUTPUT, Family, Pooling
from service.bundle.manifest import (
    MANIFEST_NAME,
    MODEL_NAME,
    PARITY_NAME,
    REPORT_FOLDER,
    TEMPLATE_NAME,
    TOKENIZER_NAME,
    Manifest,
    Provenance,
)
from service.bundle.reader import Bundle
from service.bundle.text_format import PLAIN_TEMPLATE, Formatter, TextFormat
from service.bundle.tokenizer import TextTokenizer
from service.bundle.writer import list_files, write_bundle

SPECIAL_TOKENS = ("[CLS]", "[SEP]", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
SPECIAL_IDS = {token: 256 + place for place, token in enumerate(SPECIAL_TOKENS)}
VOCABULARY_SIZE = 256 + len(SPECIAL_TOKENS)

NAN_TEXT = "\x00"
INFINITE_TEXT = "\x01"

CHAT_TEMPLATE = """\
{%- for message in messages %}
{%- if message.role not in ['system', 'user', 'assistant'] %}
{{- raise_exception('no such role: ' + message.role) }}
{%- endif %}
{{- '<|' + message.role + '|>' + message.content + '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|assistant|>' }}
{%- endif %}
"""

OPSET = 18
IR_VERSION = 10
WEIGHTS_NAME = "model.onnx.data"


def pocket_tokenizer() -> str:
    """The `tokenizer.json`: one token a byte, and the special tokens after them."""
    alphabet = {character: byte for byte, character in enumerate(_byte_characters())}
    tokenizer = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    definition: str = tokenizer.to_str(pretty=False)
    return definition


def pocket_text_format(family: Family) -> tuple[TextFormat, str]:
    """Format and template: a chat for a causal model, [CLS] prompt [SEP] response [SEP] for an encoder."""
    ids = SPECIAL_IDS
    if family is Family.CAUSAL:
        return TextFormat(begin=(), middle=(), end=(ids["<|end|>"],)), CHAT_TEMPLATE
    around = TextFormat(begin=(ids["[CLS]"],), middle=(ids["[SEP]"],), end=(ids["[SEP]"],))
    return around, PLAIN_TEMPLATE


def pocket_formatter(family: Family = Family.CAUSAL, max_tokens: int = 64) -> Formatter:
    """The text format of the pocket bundle, without a bundle."""
    return Formatter(*pocket_text_format(family), TextTokenizer(pocket_tokenizer()), max_tokens)


def pocket_weights(family: Family) -> npt.NDArray[np.float32]:
    """(VOCABULARY_SIZE,) float32, other ones for each family."""
    weights = np.random.default_rng(list(Family).index(family)).normal(size=VOCABULARY_SIZE).astype(np.float32)
    weights[ord(NAN_TEXT)] = np.nan
    weights[ord(INFINITE_TEXT)] = np.inf
    return weights


def pocket_reward(ids: Sequence[int] | npt.NDArray[np.int64], family: Family) -> float:
    """What the graph scores one item, computed from its tokens alone; float32 rounding leaves about 1e-6."""
    tokens = np.asarray(ids, dtype=np.int64)
    terms = pocket_weights(family)[tokens].astype(np.float64) * (1 + np.arange(len(tokens)) / 7)
    return float(terms.mean())


def pocket_graph(family: Family, heads: int = 1) -> onnx.ModelProto:
    """The scoring graph; all dimensions of its inputs are free. Each head gives half of what the one before does."""
    node = helper.make_node
    groups = range(BLOCK_GROUPS)
    nodes = [
        *(n for group in groups for n in _block_means(str(group))),
        node("Concat", [f"means_{group}" for group in groups], ["rows"], axis=0),
        node("Gather", ["rows", "unblock_index"], ["by_token"]),
        node("Gather", ["by_token", "read_index"], ["by_score"]),
        node("Unsqueeze", ["by_score", "axis_1"], ["reward"]),
        node("Mul", ["reward", "halves"], [GRAPH_OUTPUT]),
    ]
    constants: dict[str, npt.ArrayLike] = {
        "weights": pocket_weights(family),
        "halves": np.array([[0.5**head for head in range(heads)]], dtype=np.float32),
        "zero": np.float32(0),
        "one": np.float32(1),
        "seven": np.float32(7),
        "axis_1": np.array([1], dtype=np.int64),
        "axis_2": np.array([2], dtype=np.int64),
        "flat": np.array([-1], dtype=np.int64),
    }
    graph = helper.make_graph(
        nodes,
        "pocket",
        [helper.make_tensor_value_info(name, *_INPUTS[name]) for name in GRAPH_INPUTS],
        [helper.make_tensor_value_info(GRAPH_OUTPUT, TensorProto.FLOAT, ["scores", heads])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def write_pocket_bundle(
    folder: Path,
    family: Family = Family.CAUSAL,
    max_tokens: int = 64,
    name: str = "pocket",
    *,
    block_queries: int = 8,
    external_data: bool = False,
    heads: tuple[str, ...] = ("reward",),
) -> Bundle:
    """Write the bundle to `folder`, which must not be there or be a bundle, and open it.

    Args:
        folder: where it goes; its parent is made if need be.
        family: causal (chat template) or bidirectional ([CLS] prompt [SEP] response [SEP]).
        max_tokens: the most tokens of an item.
        name: of the model.
        block_queries: Q; so small that items of a few words have several blocks.
        external_data: keep the weights in a file beside the graph.
        heads: names of the scores.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
        staging = Path(scratch, "staging")
        (staging / REPORT_FOLDER).mkdir(parents=True)
        formatter = pocket_formatter(family, max_tokens)
        onnx.save_model(
            pocket_graph(family, len(heads)),
            staging / MODEL_NAME,
            save_as_external_data=external_data,
            location=WEIGHTS_NAME,
            size_threshold=VOCABULARY_SIZE,  # the weights are 4 bytes each, the constants are fewer
        )
        (staging / TOKENIZER_NAME).write_text(formatter.tokenizer.definition, encoding="utf-8")
        (staging / TEMPLATE_NAME).write_text(formatter.template, encoding="utf-8")
        (staging / PARITY_NAME).write_text("{}\n", encoding="utf-8")
        (staging / REPORT_FOLDER / "summary.md").write_text(f"# {name}\n", encoding="utf-8")
        manifest = Manifest(
            name=name,
            base_model="none",
            licence="Apache-2.0",
            family=family,
            pooling=Pooling.LAST if family is Family.CAUSAL else Pooling.MEAN,
            max_tokens=max_tokens,
            text_format=formatter.text_format,
            text_format_sha256=formatter.sha256,
            block_queries=block_queries,
            heads=heads,
            calibration=Calibration(
                centre=0.25, scale=0.5, temperature=0.8, quantiles={"0.05": -0.6, "0.5": 0.2, "0.95": 1.1}
            ),
            evaluation={"accuracy": 0.75, "pairs": 400},
            provenance=Provenance(
                data_sha256="0" * 64,
                records=400,
                seed=0,
                commit=None,
                created="2026-01-01T00:00:00Z",
                versions={},
                configuration={},
            ),
            files=list_files(staging),
        )
        return write_bundle(staging, manifest, folder)


def reseal(folder: Path, **fields: Any) -> None:
    """Make `bundle.json` list a tampered folder as it is, so that only the tampering itself can be refused.

    `fields` replace or add top-level fields, unchecked.
    """
    path = folder / MANIFEST_NAME
    document = json.loads(path.read_bytes())
    document["files"] = {name: entry.model_dump() for name, entry in list_files(folder).items()}
    path.write_text(json.dumps(document | fields), encoding="utf-8")


_INPUTS: Mapping[str, tuple[int, list[str]]] = {
    **{name: (TensorProto.INT64, ["tokens"]) for name in FLAT_INPUTS},
    "read_index": (TensorProto.INT64, ["scores"]),
    **{
        name: value
        for group in range(BLOCK_GROUPS)
        for name, value in {
            f"query_index_{group}": (TensorProto.INT64, [f"blocks_{group}", f"queries_{group}"]),
            f"key_index_{group}": (TensorProto.INT64, [f"blocks_{group}", f"keys_{group}"]),
            f"key_valid_{group}": (TensorProto.BOOL, [f"blocks_{group}", f"keys_{group}"]),
        }.items()
    },
}


def _block_means(group: str) -> list[onnx.NodeProto]:
    """Nodes for (B * Q,) `means_GROUP`: for each query of a group of blocks, the mean over the keys that it sees."""

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
        shared = {*FLAT_INPUTS, "weights", "zero", "one", "seven", "axis_1", "axis_2", "flat"}
        own = [name if name in shared else f"{name}_{group}" for name in inputs]
        return helper.make_node(kind, own, [f"{output}_{group}"], **attributes)

    return [
        # (B, 1, K): what each key weighs.
        node("Unsqueeze", ["key_index", "axis_1"], "keys"),
        node("Gather", ["position_ids", "keys"], "key_position"),
        node("Gather", ["input_ids", "keys"], "key_id"),
        node("Gather", ["weights", "key_id"], "key_weight"),
        node("Cast", ["key_position"], "depth", to=TensorProto.FLOAT),
        node("Div", ["depth", "seven"], "sevenths"),
        node("Add", ["sevenths", "one"], "position_factor"),
        node("Mul", ["key_weight", "position_factor"], "term"),
        # (B, Q, K): whether each query sees it.
        node("Unsqueeze", ["query_index", "axis_2"], "queries"),
        node("Gather", ["seen_from", "keys"], "from"),
        node("Gather", ["seen_to", "keys"], "to"),
        node("LessOrEqual", ["from", "queries"], "begun"),
        node("Less", ["queries", "to"], "not_ended"),
        node("And", ["begun", "not_ended"], "inside"),
        node("Unsqueeze", ["key_valid", "axis_1"], "valid"),
        node("And", ["inside", "valid"], "visible"),
        # (B * Q,): the mean over the visible ones. Where keeps a hidden NaN hidden, as a product would not.
        node("Where", ["visible", "term", "zero"], "visible_term"),
        node("ReduceSum", ["visible_term", "axis_2"], "total", keepdims=0),
        node("Cast", ["visible"], "visible_one", to=TensorProto.FLOAT),
        node("ReduceSum", ["visible_one", "axis_2"], "count", keepdims=0),
        node("Div", ["total", "count"], "mean"),
        node("Reshape", ["mean", "flat"], "means"),
    ]


def _byte_characters() -> list[str]:
    """The character by which byte-level BPE writes each byte: itself, if that prints (GPT-2's table)."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
