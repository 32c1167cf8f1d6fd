"""A backbone over blocks gives its own numbers, or is refused: tiny models of many architectures, from a folder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, BertModel, LlamaModel

from service.bundle.layout import Family, IntArray, Pooling, plan_layout
from tests.pocket import SPECIAL_IDS
from tests.training.tiny import DISENTANGLED, PAD_ID, causal_tokenizer, encoder_tokenizer, save_backbone
from training.attention import UnsupportedBackboneError
from training.backbone import load_backbone, resolve
from training.examples import layout_tensors
from training.model import RewardModel

HEADS = {"num_key_value_heads": 2, "head_dim": 8}
CAUSAL: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": HEADS,
    "qwen3 with a window in one layer": {
        **HEADS,
        "use_sliding_window": True,
        "sliding_window": 5,
        "max_window_layers": 1,
    },
    "mistral": {"sliding_window": 7},
    "mixtral": {"sliding_window": 7},
    "phi3": {"sliding_window": 7},
    "starcoder2": {"sliding_window": 7},
    "gemma": HEADS,
    "gemma3_text": {**HEADS, "sliding_window": 7},
    "gpt_neox": {},
    "gpt2": {},
    "opt": {},
    "olmo2": {},
    "smollm3": {},
    "modernbert-decoder": {"local_attention": 8},
}
BIDIRECTIONAL: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {},
    "xlm-roberta": {},
    "distilbert": {},
    "electra": {},
    "albert": {},
    "modernbert": {"local_attention": 8},
    "mpnet": {},
    "deberta-v2": DISENTANGLED,
    "deberta-v2 with its own projections of distances": {**DISENTANGLED, "share_att_key": False},
    "deberta-v2 without buckets": {**DISENTANGLED, "position_buckets": -1, "max_relative_positions": 30},
    "deberta-v2 without distances": {},
    "deberta-v2 with one product": {**DISENTANGLED, "pos_att_type": ["c2p"]},
    "deberta-v2 with positions and segments": {
        **DISENTANGLED,
        "pos_att_type": "p2c",
        "position_biased_input": True,
        "type_vocab_size": 2,
        "embedding_size": 16,
    },
}
REFUSED = {
    "gemma2": (HEADS, "soft-capping"),
    "gpt_oss": ({**HEADS, "num_local_experts": 2, "num_experts_per_tok": 1}, "attention sinks"),
    "deberta": ({}, "an attention of its own"),
    "deberta-v2": ({"conv_kernel_size": 3}, "a convolution"),
    "bloom": ({}, "an attention of its own"),
    "mamba": ({}, "layers of kind linear_attention"),
    "rwkv": ({}, "recurrent"),
    "qwen3_next": (HEADS, "layers of kind linear_attention"),
    "lfm2": ({"layer_types": ["conv", "full_attention"]}, "layers of kind conv"),
    "llama4_text": ({**HEADS, "intermediate_size_mlp": 64}, "layers of kind chunked_attention"),
    "t5": ({}, "an encoder with a decoder"),
    "fnet": ({}, "gives other numbers over blocks"),
    "mobilebert": ({}, "gives other numbers over blocks"),
}


def sequences(special: set[int]) -> list[IntArray]:
    """Siblings, cousins, a duplicate, a single token, one of several blocks and longer than every window above."""
    generator = np.random.default_rng(1)
    ordinary = np.setdiff1d(np.arange(256), [*special])

    def fresh(length: int) -> IntArray:
        return generator.choice(ordinary, length).astype(np.int64)

    stem = fresh(20)
    branch = np.concatenate([stem, fresh(9)])
    return [
        np.concatenate([stem, fresh(1)]),
        np.concatenate([branch, fresh(30)]),
        np.concatenate([branch, fresh(3)]),
        branch.copy(),
        branch,
        stem[:7],
        fresh(1),
        fresh(90),
        fresh(250),
    ]


def stock_states(folder: Path, sequence: IntArray, attention: str) -> torch.Tensor:
    stock = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention).eval()
    with torch.no_grad():
        states: torch.Tensor = stock(input_ids=torch.from_numpy(sequence)[None]).last_hidden_state
    return states[0]


def packed(model: RewardModel, items: list[IntArray], block_queries: int = 8) -> torch.Tensor:
    with torch.no_grad():
        scores: torch.Tensor = model(**layout_tensors(plan_layout(items, model.family, block_queries=block_queries)))
    return scores[:, 0]


def saved(folder: Path, name: str, settings: dict[str, Any], encoder: bool) -> Path:
    model_type = name.split(" ")[0]
    if "roberta" in model_type:
        settings = {**settings, "pad_token_id": 1}
    return save_backbone(folder, model_type, encoder_tokenizer() if encoder else causal_tokenizer(), **settings)


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_scores_equal_the_stock_model_one_by_one(tmp_path: Path, name: str) -> None:
    folder = saved(tmp_path, name, CAUSAL[name], encoder=False)
    backbone = load_backbone(str(folder))
    assert backbone.family is Family.CAUSAL
    model = RewardModel(backbone.model, backbone.family, Pooling.LAST).eval()
    items = sequences(set())
    scores = packed(model, items)
    for attention in ("sdpa", "eager"):
        expected = [model.head(stock_states(folder, item, attention)[-1])[0].detach() for item in items]
        torch.testing.assert_close(scores, torch.stack(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", [Pooling.FIRST, Pooling.MEAN])
@pytest.mark.parametrize("name", BIDIRECTIONAL)
def test_encoder_scores_equal_the_stock_model_one_by_one(tmp_path: Path, name: str, pooling: Pooling) -> None:
    folder = saved(tmp_path, name, BIDIRECTIONAL[name], encoder=True)
    backbone = load_backbone(str(folder))
    assert backbone.family is Family.BIDIRECTIONAL
    model = RewardModel(backbone.model, backbone.family, pooling).eval()
    items = sequences({1})  # RoBERTa's padding
    scores = packed(model, items)
    stock = ("eager",) if any(kind in name for kind in ("mpnet", "deberta")) else ("sdpa", "eager")
    for attention in stock:
        states = [stock_states(folder, item, attention) for item in items]
        pooled = [state[0] if pooling is Pooling.FIRST else state.mean(0) for state in states]
        expected = [model.head(state)[0].detach() for state in pooled]
        torch.testing.assert_close(scores, torch.stack(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, name: str) -> None:
    settings, reason = REFUSED[name]
    folder = save_backbone(tmp_path, name, **settings)
    with pytest.raises(UnsupportedBackboneError, match=reason):
        load_backbone(str(folder))


def test_a_window_hides_what_is_before_it(tmp_path: Path) -> None:
    """One layer that sees three positions: the fourth from the end does not matter, the third does."""
    folder = save_backbone(tmp_path, "mistral", sliding_window=3, num_hidden_layers=1)
    backbone = load_backbone(str(folder))
    model = RewardModel(backbone.model, Family.CAUSAL, Pooling.LAST).eval()
    item = np.arange(10, 30, dtype=np.int64)
    outside, inside = item.copy(), item.copy()
    outside[-4], inside[-3] = 99, 99
    scores = packed(model, [item, outside, inside])
    assert scores[0] == pytest.approx(float(scores[1]), abs=1e-6)
    assert abs(float(scores[0] - scores[2])) > 1e-4


def test_a_window_that_is_not_passed_on_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of thousands of tokens cannot be seen in a short comparison."""
    from transformers.models.mistral.modeling_mistral import MistralAttention

    folder = save_backbone(tmp_path, "mistral", sliding_window=4096)
    load_backbone(str(folder))
    original = MistralAttention.forward

    def without_window(self: Any, *arguments: Any, **named: Any) -> Any:
        monkeypatch.setattr(self, "config", _Without(self.config))
        return original(self, *arguments, **named)

    monkeypatch.setattr(MistralAttention, "forward", without_window)
    with pytest.raises(UnsupportedBackboneError, match="does not pass it on"):
        load_backbone(str(folder))


class _Without:
    """A configuration without its window."""

    sliding_window = None

    def __init__(self, config: Any) -> None:
        self._config = config

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config, name)


def test_other_numbers_over_blocks_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that mixes neighbours outside its attention would fail silently: siblings are neighbours here."""
    folder = save_backbone(tmp_path, "llama")
    original = LlamaModel.forward

    def mixing(self: Any, *arguments: Any, **named: Any) -> Any:
        result = original(self, *arguments, **named)
        result.last_hidden_state = result.last_hidden_state + 0.01 * result.last_hidden_state.roll(1, dims=1)
        return result

    monkeypatch.setattr(LlamaModel, "forward", mixing)
    with pytest.raises(UnsupportedBackboneError, match="gives other numbers over blocks than alone"):
        load_backbone(str(folder))


def test_positions_that_depend_on_the_batch(tmp_path: Path) -> None:
    rope: dict[str, Any] = {"rope_theta": 1e4, "factor": 2.0}
    dynamic = save_backbone(tmp_path / "dynamic", "llama", rope_parameters={**rope, "rope_type": "dynamic"})
    with pytest.raises(UnsupportedBackboneError, match="dynamic positions: scores depend on batch mates"):
        load_backbone(str(dynamic))
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 48}
    longrope = save_backbone(
        tmp_path / "long",
        "phi3",
        rope_parameters={**rope, **factors, "rope_type": "longrope"},
        original_max_position_embeddings=48,
    )
    assert load_backbone(str(longrope)).max_positions == 48


def test_positions(tmp_path: Path) -> None:
    bert = load_backbone(str(saved(tmp_path / "bert", "bert", {}, encoder=True)))
    roberta = load_backbone(str(saved(tmp_path / "roberta", "roberta", {}, encoder=True)))
    assert bert.max_positions == 256
    assert roberta.max_positions == 254  # rows 0 and 1 of its table are padding
    for backbone in (bert, roberta):
        model = RewardModel(backbone.model, Family.BIDIRECTIONAL, Pooling.MEAN).eval()
        longest = np.full(backbone.max_positions, 7, dtype=np.int64)
        assert torch.isfinite(packed(model, [longest])).all()


def test_a_decoder_made_of_an_encoder_is_causal(tmp_path: Path) -> None:
    """The family is what the model does, not what its type is called."""
    assert load_backbone(str(save_backbone(tmp_path, "bert", is_decoder=True))).family is Family.CAUSAL


def test_a_tokenizer_with_more_tokens_than_the_backbone(tmp_path: Path) -> None:
    folder = save_backbone(tmp_path, "llama", vocab_size=PAD_ID, pad_token_id=0)
    with pytest.raises(UnsupportedBackboneError, match=f"token id {PAD_ID}, but .* {PAD_ID} tokens only"):
        load_backbone(str(folder))


def test_names_of_sources(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    assert resolve(f"{folder}/").name == "mine"
    assert resolve("org/model").name == "org/model"
    assert resolve("minilm").licence == "Apache-2.0"


def test_pooling_must_suit_the_family(tmp_path: Path) -> None:
    backbone = load_backbone(str(save_backbone(tmp_path, "llama")))
    with pytest.raises(ValueError, match=r"model.pooling: a causal model cannot be pooled by mean; it takes last"):
        RewardModel(backbone.model, Family.CAUSAL, Pooling.MEAN)


def test_the_pooler_is_left_out(tmp_path: Path) -> None:
    backbone = load_backbone(str(saved(tmp_path, "bert", {}, encoder=True)))
    assert isinstance(backbone.model, BertModel)
    assert not [name for name, _ in backbone.model.named_parameters() if "pooler" in name]


def test_the_real_minilm() -> None:
    backbone = load_backbone("minilm")
    assert (backbone.family, backbone.max_positions) == (Family.BIDIRECTIONAL, 512)
    around = backbone.text_format
    assert (around.begin, around.middle, around.end) == ((101,), (102,), (102,))
    assert backbone.source.name == "sentence-transformers/all-MiniLM-L6-v2"


def test_the_real_mpnet() -> None:
    try:
        backbone = load_backbone("mpnet")
    except FileNotFoundError:
        pytest.skip("its packages are not installed: make mpnet")
    assert (backbone.family, backbone.max_positions) == (Family.BIDIRECTIONAL, 512)
    around = backbone.text_format
    assert (around.begin, around.middle, around.end) == ((0,), (2, 2), (2,))
    assert backbone.source.name == "sentence-transformers/all-mpnet-base-v2"


def test_dropout_is_off_unless_asked_for(tmp_path: Path) -> None:
    folder = save_backbone(tmp_path, "gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5)
    backbone = load_backbone(str(folder))
    items = [np.arange(30, dtype=np.int64)]
    still = RewardModel(backbone.model, Family.CAUSAL, Pooling.LAST).train()
    assert still.training
    assert torch.equal(packed(still, items), packed(still, items))
    moving = RewardModel(backbone.model, Family.CAUSAL, Pooling.LAST, dropout=True).train()
    assert not torch.equal(packed(moving, items), packed(moving, items))
    assert torch.equal(packed(moving.eval(), items), packed(moving, items))


def test_special_tokens_of_the_tiny_tokenizer_are_what_the_tests_think() -> None:
    assert causal_tokenizer().pad_token_id == PAD_ID
    assert encoder_tokenizer().sep_token_id == SPECIAL_IDS["[SEP]"]
