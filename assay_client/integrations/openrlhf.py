"""A reward function file for OpenRLHF: `--reward.remote_url PATH/openrlhf.py`, the server's address in ASSAY_URL.

OpenRLHF can also call the server itself (`/openrlhf/get_reward`), which scores the text as the policy's chat template
rendered it. This function sends prompt and response apart, so that the reward model's own template is used, and models
that read something between the two, such as encoders, can serve; and it has the client's deadline, retries and key.

    python -c "import assay_client.integrations.openrlhf as file; print(file.__file__)"    # tells PATH
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Sequence
from typing import Any

from assay_client.integrations.conversations import pair
from assay_client.sync_client import RewardClient
from assay_client.types import Prompt

_END = re.compile(r"(?:<\|[\w ]+\|>|</s>|<eos>|<end_of_turn>|<｜end▁of▁sentence｜>|\s)+\Z")
"""Special tokens that OpenRLHF leaves at the end of a response."""
_MARKUP = re.compile(r"<\|[\w ]+\|>|\[INST\]|<start_of_turn>|<｜User｜>")
"""What shows that a chat template has been at work on a prompt."""

_making = threading.Lock()
_client: RewardClient | None = None


def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any]) -> dict[str, Any]:
    """Raw scores, in order, under `rewards`; OpenRLHF takes them as `scores` too.

    Args:
        queries: prompt and response in one, special tokens spelled out.
        prompts: what each query begins with.
        labels: the data set's `--data.label_key`: the prompt as chat messages, in a list, in JSON, or in an object
            under `prompt`. Anything else is not looked at, and the prompt itself is sent, which must be plain text.

    Raises:
        ValueError: the response or the prompt cannot be told from the query; it says what to set.
        AssayError: no score.
    """
    asked = [
        pair(_prompt(prompt, label), _response(query, prompt))
        for query, prompt, label in zip(queries, prompts, labels, strict=True)
    ]
    if not asked:
        return {"rewards": [], "extra_logs": {}}
    scores = _shared_client().score_pairs(asked, allow_empty=True)
    return {"rewards": list(scores), "extra_logs": {"scored_tokens": [detail.tokens for detail in scores.details]}}


def _shared_client() -> RewardClient:
    """One for the process: OpenRLHF calls from many threads."""
    global _client
    with _making:
        if _client is None:
            _client = RewardClient()
        return _client


def _response(query: str, prompt: str) -> str:
    if not query.startswith(prompt):
        raise ValueError("the query does not begin with its prompt: it was cut, or a BOS was put before it")
    return _END.sub("", query[len(prompt) :])


def _prompt(prompt: str, label: Any) -> Prompt:
    if (messages := _messages(label)) is not None:
        return messages
    if _MARKUP.search(prompt):
        raise ValueError(
            "the prompt is already in the policy's chat template; put its messages into the data set's label "
            "(--data.label_key), or let OpenRLHF call /openrlhf/get_reward itself"
        )
    return prompt


def _messages(label: Any) -> list[dict[str, Any]] | None:
    """The messages of a label, if it holds some."""
    if isinstance(label, str) and label.lstrip().startswith(("[", "{")):
        try:
            label = json.loads(label)
        except ValueError:
            return None
    if isinstance(label, dict):
        label = label.get("prompt")
    if isinstance(label, list) and label and all(isinstance(turn, dict) and "role" in turn for turn in label):
        return label
    return None
