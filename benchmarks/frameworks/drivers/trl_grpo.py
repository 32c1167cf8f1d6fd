"""TRL's GRPO on a policy of random weights: a few steps, whose rewards must be those of the texts it generated."""

import json
import sys
import tempfile
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from assay_client import RewardClient
from assay_client.integrations.trl import TrlReward

STEPS, GENERATIONS, NEW_TOKENS = 2, 4, 12


class Recorded(TrlReward):
    """Our function, which remembers what it was asked and what it said."""

    def __init__(self, client: RewardClient) -> None:
        super().__init__(client)
        self.calls: list[tuple[list[Any], list[Any], list[float]]] = []

    def __call__(self, prompts: Any, completions: Any, **columns: Any) -> list[float]:
        """See `TrlReward`."""
        rewards = super().__call__(prompts, completions, **columns)
        self.calls.append((list(prompts), list(completions), rewards))
        return rewards


def train(asked: dict[str, Any], reward: Any) -> None:
    """A few steps of GRPO on the asked prompts, as conversations."""
    tokenizer = AutoTokenizer.from_pretrained(asked["tokenizer"])
    tokenizer.chat_template = asked["chat_template"]
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    policy = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape))
    prompts = [[{"role": "user", "content": prompt}] for prompt, _ in asked["pairs"]]
    with tempfile.TemporaryDirectory() as folder:
        settings = GRPOConfig(
            output_dir=folder, max_steps=STEPS, num_generations=GENERATIONS, max_completion_length=NEW_TOKENS,
            per_device_train_batch_size=GENERATIONS, report_to=[], use_cpu=True, save_strategy="no", bf16=False,
        )  # fmt: skip
        GRPOTrainer(
            policy, reward_funcs=[reward], args=settings, train_dataset=Dataset.from_dict({"prompt": prompts}),
            processing_class=tokenizer,
        ).train()  # fmt: skip


def main() -> None:
    """Train, check the rewards, and score what was asked for through the same function."""
    asked = json.load(sys.stdin)
    with RewardClient(asked["url"], timeout=600) as client:
        reward = Recorded(client)
        train(asked, reward)
        assert len(reward.calls) == STEPS
        for prompts, completions, rewards in reward.calls:
            assert len(rewards) == GENERATIONS
            again = TrlReward(client)(prompts, completions)
            assert max(abs(a - b) for a, b in zip(rewards, again, strict=True)) < 1e-4
        print(json.dumps(reward(*zip(*asked["pairs"], strict=True))))


if __name__ == "__main__":
    main()
