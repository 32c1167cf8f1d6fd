"""The layers that transformers' classifiers have on top of a backbone, taken off them."""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from training.attention import UnsupportedBackboneError

State = dict[str, torch.Tensor]


def take_head(classifier: PreTrainedModel) -> tuple[State, str | None]:
    """What turns a pooled state into the score, as `training.model.RewardModel` names its weights.

    On a decoder a linear layer without bias; on an encoder a dense layer, an activation and a linear layer with bias.

    Returns:
        The weights, float32, and the name of the activation; none without a dense layer.

    Raises:
        UnsupportedBackboneError: there are other layers, or more outputs than one.
    """
    dense, activation, last = _layers(classifier)
    if not isinstance(last, nn.Linear) or not isinstance(dense, nn.Linear | None) or (dense and last.bias is None):
        raise UnsupportedBackboneError(
            f"model.head is pretrained, and that of {type(classifier).__name__} is neither one linear layer without "
            "bias on the last token nor a dense layer, an activation and a linear layer on the first"
        )
    if last.out_features != 1:
        raise UnsupportedBackboneError(
            f"model.head is pretrained, and that of {classifier.name_or_path!r} has {last.out_features} outputs; a "
            "reward is one"
        )
    if dense is not None and dense.weight.shape != (last.in_features, last.in_features):
        raise UnsupportedBackboneError(
            f"model.head is pretrained, and the dense layer of {type(classifier).__name__} is of shape "
            f"{tuple(dense.weight.shape)}; it must be square"
        )
    named = {"head": last} if dense is None else {"head": last, "transform.0": dense}
    weights = {f"{name}.{key}": value for name, layer in named.items() for key, value in layer.state_dict().items()}
    return {name: weight.detach().clone() for name, weight in weights.items()}, activation


def _layers(classifier: Any) -> tuple[nn.Module | None, str | None, nn.Module | None]:
    """By the names that transformers gives them; whether they are computed so, scores will show."""
    score = getattr(classifier, "score", None)
    if isinstance(score, nn.Linear) and score.bias is None:
        return None, None, score
    last: Any = getattr(classifier, "classifier", None)
    if hasattr(last, "dense") and hasattr(last, "out_proj"):  # RoBERTa, XLM-R, MPNet; ELECTRA
        return last.dense, "gelu" if classifier.config.model_type == "electra" else "tanh", last.out_proj
    if hasattr(classifier, "pre_classifier"):  # DistilBERT
        return classifier.pre_classifier, "relu", last
    if hasattr(getattr(classifier, "pooler", None), "dense"):  # DeBERTa
        return classifier.pooler.dense, classifier.config.pooler_hidden_act, last
    pooler: Any = getattr(getattr(classifier, classifier.base_model_prefix, None), "pooler", None)
    if hasattr(pooler, "dense"):  # BERT
        return pooler.dense, "tanh", last
    return None, None, None
