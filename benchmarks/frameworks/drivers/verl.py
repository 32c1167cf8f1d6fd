"""verl's reward loop in both of its modes: it renders the conversation, strips the BOS, and posts with its own retries.

Of verl only this worker is real; what it is given of a batch and of its configuration has the fields that it reads.
"""

import asyncio
import json
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer
from verl.experimental.reward_loop.reward_loop import RewardLoopWorker


class Sample(list[Any]):
    """A batch of one, as `DataProto` shows it."""

    def __init__(self, tokenizer: Any, prompt: str, response: str) -> None:
        ids = torch.tensor(tokenizer(response, add_special_tokens=False)["input_ids"])
        super().__init__(
            [
                SimpleNamespace(
                    non_tensor_batch={"raw_prompt": np.array([{"role": "user", "content": prompt}], dtype=object)},
                    batch={"responses": ids, "attention_mask": torch.ones(len(ids), dtype=torch.int64)},
                )
            ]
        )


async def scores(asked: dict[str, Any], engine: str) -> list[float]:
    """All samples at once."""
    tokenizer = AutoTokenizer.from_pretrained(asked["tokenizer"])
    tokenizer.chat_template = asked["chat_template"]
    worker = object.__new__(RewardLoopWorker)
    model = SimpleNamespace(rollout=SimpleNamespace(name=engine), model_path="any/path", enable=True)
    worker.config = SimpleNamespace(reward=SimpleNamespace(reward_model=model))
    worker.input_tokenizer = worker.reward_model_tokenizer = tokenizer
    # The address of a router: it is put behind http:// and before /classify.
    worker.reward_router_address = f"{asked['url'].removeprefix('http://')}/{engine}"
    samples = [Sample(tokenizer, *pair) for pair in asked["pairs"]]
    replies = await asyncio.gather(*map(worker.compute_score_disrm, samples))
    return [float(reply["reward_score"]) for reply in replies]


if __name__ == "__main__":
    given = json.load(sys.stdin)
    print(json.dumps(asyncio.run(scores(given, sys.argv[1]))))
