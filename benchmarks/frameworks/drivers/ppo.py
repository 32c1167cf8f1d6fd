"""`assay-train ppo` in two workers: the rewards that it learnt from must be those of the texts it generated."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from assay_client import RewardClient
from training.feedback.config import PolicyConfig, PpoConfig, PromptsConfig, RewardConfig
from training.feedback.ppo import run_ppo
from training.feedback.prompts import Message
from training.feedback.rewards import Scorer, reach

UPDATES, RESPONSES, NEW_TOKENS, HELD_OUT = 2, 8, 8, 2
TOLERANCE = 1e-4


def learn(asked: dict[str, Any], folder: Path) -> None:
    """A few updates of SmolLM2 on the asked prompts."""
    prompts = folder / "prompts.jsonl"
    distinct = dict.fromkeys(prompt for prompt, _ in asked["pairs"])
    prompts.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in distinct), encoding="utf-8")
    run_ppo(
        PpoConfig(
            run=folder / "run", updates=UPDATES, responses=RESPONSES, progress=False,
            prompts=PromptsConfig(train=str(prompts), held_out_count=HELD_OUT),
            reward=RewardConfig(url=asked["url"], scale="raw"), policy=PolicyConfig(max_new_tokens=NEW_TOKENS),
        )
    )  # fmt: skip


def check(asked: dict[str, Any], folder: Path) -> None:
    """The recorded scores against those asked for now.

    Raises:
        SystemExit: one is another.
    """
    samples = [json.loads(line) for line in (folder / "run" / "samples.jsonl").read_text("utf-8").splitlines()]
    with RewardClient(asked["url"], timeout=600) as client:
        for sample in samples:
            for when in ("before", "after"):
                found = client.score(sample["prompt"], [sample[when]["response"]], allow_empty=True)[0]
                if abs(found - sample[when]["score"]) > TOLERANCE:
                    raise SystemExit(f"{sample[when]} was recorded, and the server says {found}")


def main() -> None:
    """Learn, check, and score what was asked for as the loop scores."""
    asked = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as folder:
        learn(asked, Path(folder))
        check(asked, Path(folder))
    with Scorer(reach(asked["url"], "raw", None, 600)) as scorer:
        prompts = [(Message(role="user", content=prompt),) for prompt, _ in asked["pairs"]]
        print(json.dumps(scorer.scores(prompts, [response for _, response in asked["pairs"]]).tolist()))


if __name__ == "__main__":
    main()
