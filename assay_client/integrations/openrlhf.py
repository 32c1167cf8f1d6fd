"""A reward function for OpenRLHF, whose `--reward.remote_url` may name a Python file; such a file is

from assay_client import RewardClient
from assay_client.integrations.openrlhf import OpenRlhfReward

reward_func = OpenRlhfReward(RewardClient("http://reward:8000"))

OpenRLHF can also call the server itself (`/openrlhf/get_reward`), which scores the text as the policy's chat template
rendered it. This function sends prompt and response apart, so that the reward model's own template is used, and models
that read something between the two, such as encoders, can serve; and it has the client's deadline, retries and key.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from typing import Any

from assay_client.integrations.conversations import pair
from assay_client.sync_client import RewardClient
from assay_client.types import Prompt, Truncate

END_TOKENS = ("</s>", "<eos>", "<end_of_turn>", "<｜end▁of▁sentence｜>")
_MARKED = re.compile(r"<\|[\w ]{1,40}\|>\Z")
_log = logging.getLogger("assay_client")


class OpenRlhfReward:
    """`reward_func(queries, prompts, labels)`: raw scores in order, or an exception that says why not.

    OpenRLHF logs such an exception as "Failed to fetch reward" at the level of information and goes on without that
    reward, so it is logged as an error here too. It calls from many threads.

    Args:
        client: by default one of ASSAY_URL.
        plain_prompts: the prompts are plain text, not rendered by a chat template, and are sent as they are. Otherwise
            each label (`--data.label_key`) must hold the prompt as chat messages: a list of them, the same in JSON, or
            an object with that under `prompt`.
        end_tokens: special tokens that are taken off the end of a response, beside those of the form <|name|>.
        truncate: as of `RewardClient.score_pairs`.
    """

    def __init__(
        self,
        client: RewardClient | None = None,
        *,
        plain_prompts: bool = False,
        end_tokens: Sequence[str] = END_TOKENS,
        truncate: Truncate | None = None,
    ) -> None:
        self._client = client or RewardClient()
        self._plain = plain_prompts
        self._ends = tuple(end_tokens)
        self._truncate = truncate

    def __call__(self, queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any]) -> dict[str, Any]:
        """Scores under `rewards`, which OpenRLHF takes as its `scores` too.

        Args:
            queries: prompt and response in one, special tokens spelled out.
            prompts: what each query begins with.
            labels: see the class.

        Raises:
            ValueError: the response or the prompt cannot be told; it says what to set.
            AssayError: no score.
        """
        try:
            asked = [
                pair(self._prompt(prompt, label), self._response(query, prompt))
                for query, prompt, label in zip(queries, prompts, labels, strict=True)
            ]
            if not asked:
                return {"rewards": [], "extra_logs": {"scored_tokens": []}}
            scores = self._client.score_pairs(asked, allow_empty=True, truncate=self._truncate)
        except Exception as error:
            _log.error("no reward for OpenRLHF: %s", error)
            raise
        return {"rewards": list(scores), "extra_logs": {"scored_tokens": [detail.tokens for detail in scores.details]}}

    def _response(self, query: str, prompt: str) -> str:
        if not query.startswith(prompt):
            raise ValueError(
                "the query does not begin with its prompt: OpenRLHF cut it, or its tokenizer put a BOS before it; "
                "raise the maximum length, or let OpenRLHF call /openrlhf/get_reward itself"
            )
        text = query[len(prompt) :]
        while True:
            bare = text.rstrip()
            marked = _MARKED.search(bare, max(0, len(bare) - 50))
            end = marked[0] if marked else next((end for end in self._ends if bare.endswith(end)), "")
            if not end:
                return text
            text = bare[: -len(end)]

    def _prompt(self, prompt: str, label: Any) -> Prompt:
        if self._plain:
            return prompt
        messages = _messages(label)
        if messages is None:
            raise ValueError(
                "the label holds no messages: put the prompt's messages into the data set's label (--data.label_key), "
                "or say plain_prompts=True if no chat template is applied"
            )
        return messages


def _messages(label: Any) -> list[dict[str, Any]] | None:
    """The messages of a label, if it holds some."""
    if isinstance(label, str):
        try:
            label = json.loads(label)
        except ValueError:
            return None
    if isinstance(label, dict):
        label = label.get("prompt")
    whole = isinstance(label, list) and all(
        isinstance(turn, dict) and {"role", "content"} <= turn.keys() for turn in label
    )
    return label if whole and label else None
