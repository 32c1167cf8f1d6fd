"""Proof, at loading, that a backbone over blocks gives the numbers that it gives on its own.

Most of what block attention cannot compute (places in a padded row, states, convolutions, routing by batch) would
not fail: it would give other numbers. So a few short sequences are run through the backbone as it comes, one
by one, and again packed as a forest.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from service.bundle.layout import Family, IntArray, Pooling, plan_layout
from training.attention import BlockPlan, UnsupportedBackboneError
from training.model import RewardModel, block_tensors, token_table

TOLERANCE = 1e-3
"""Largest allowed difference of a hidden state, in root mean squares of the hidden states; rounding gives 1e-5."""

_LONGEST = 160
_BLOCK_QUERIES = 16


@dataclass(frozen=True)
class Reference:
    """Token sequences, and the hidden states (L, hidden) that the untouched backbone gives each of them."""

    sequences: list[IntArray]
    states: list[torch.Tensor]
    family: Family


def take_reference(backbone: PreTrainedModel, max_positions: int, special_ids: Collection[int]) -> Reference:
    """Run the backbone with the attention that it comes with; to be called before `training.backbone.prepare`.

    The family is measured: in a causal model the last token changes no state before it.

    Raises:
        UnsupportedBackboneError: the backbone does not take token ids alone.
    """
    table = token_table(backbone)
    padding = {backbone.config.get_text_config().pad_token_id, table.padding_idx} - {None}
    sequences = _sequences(table.num_embeddings, max_positions, padding.union(special_ids))
    one, other = sequences[0], sequences[0].copy()
    other[-1] = sequences[1][-1]
    try:
        states = [_alone(backbone, sequence) for sequence in sequences]
        moved = _alone(backbone, other)
    except Exception as error:
        raise UnsupportedBackboneError(f"{type(backbone).__name__} cannot be run on token ids: {error}") from error
    # Not bit by bit: mixtures of experts group their tokens, and so round by what is beside them.
    causal = _distance(moved[: len(one) - 1], states[0][: len(one) - 1]) <= TOLERANCE
    return Reference(sequences, states, Family.CAUSAL if causal else Family.BIDIRECTIONAL)


def check_fidelity(backbone: PreTrainedModel, reference: Reference) -> None:
    """Compare the prepared backbone with the reference.

    Raises:
        UnsupportedBackboneError: a hidden state differs by more than `TOLERANCE`.
    """
    causal = reference.family is Family.CAUSAL
    model = RewardModel(backbone, reference.family, Pooling.LAST if causal else Pooling.FIRST).eval()
    layout = plan_layout(reference.sequences, reference.family, block_queries=_BLOCK_QUERIES)
    tensors = {name: torch.from_numpy(array) for name, array in layout.arrays().items()}
    input_ids, read_index = tensors["input_ids"], tensors["read_index"]
    plan = BlockPlan(
        tensors["position_ids"],
        tensors["seen_from"],
        tensors["seen_to"],
        tensors["unblock_index"],
        block_tensors(tensors),
    )
    try:
        with torch.no_grad():
            packed = model.hidden_states(input_ids, plan)
    except UnsupportedBackboneError:
        raise
    except Exception as error:
        raise UnsupportedBackboneError(f"{type(backbone).__name__} fails over blocks: {error}") from error
    if _slides(backbone) and plan.windows <= {None}:
        raise UnsupportedBackboneError(
            f"{type(backbone).__name__} has a sliding window and does not pass it on to its attention"
        )
    distances = []
    for read, expected in zip(read_index.tolist(), reference.states, strict=True):
        # A causal sequence is read at its last token; a bidirectional one lies whole behind its first.
        states = packed[read][None] if causal else packed[read : read + len(expected)]
        wanted = expected[-1:] if causal else expected
        distances.append(_distance(states, wanted))
    worst = float(np.max(distances))  # keeps NaN, as max() does not
    if not worst <= TOLERANCE:
        raise UnsupportedBackboneError(
            f"{type(backbone).__name__} gives other numbers over blocks than alone (by {worst:.1e} of their size): "
            "it computes something that depends on more than the tokens of a sequence and their positions"
        )


def _distance(states: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference in root mean squares of `expected`."""
    return float((states - expected).abs().max() / expected.square().mean().sqrt())


def _slides(backbone: PreTrainedModel) -> bool:
    """Whether some layers see a window only; it may be longer than what is compared here."""
    config = backbone.config.get_text_config()
    layer_types = getattr(config, "layer_types", None)
    if layer_types:
        return "sliding_attention" in layer_types
    return getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)


def _alone(backbone: PreTrainedModel, sequence: IntArray) -> torch.Tensor:
    with torch.no_grad():
        states: torch.Tensor = backbone(input_ids=torch.from_numpy(sequence)[None]).last_hidden_state
    return states[0]


def _sequences(vocabulary: int, max_positions: int, special_ids: Collection[int]) -> list[IntArray]:
    """A small forest: siblings on a stem, one on a sibling, a stranger, a long one. No special tokens.

    Padding ids would be special to the reference only: some backbones mask them by themselves.
    """
    generator = np.random.default_rng(0)
    ordinary = np.setdiff1d(np.arange(vocabulary, dtype=np.int64), np.array([*special_ids], dtype=np.int64))
    stem, *rest = (generator.choice(ordinary, length) for length in (12, 3, 9, 20, 1, _LONGEST))
    first, second, third, single, long = rest
    forest = [
        np.concatenate([stem, first]),
        np.concatenate([stem, second]),
        np.concatenate([stem, second, third]),
        stem,
        single,
        long,
    ]
    return [sequence[:max_positions] for sequence in forest]
