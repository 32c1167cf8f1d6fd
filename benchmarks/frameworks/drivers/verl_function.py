"""verl's loader of custom reward functions, on ours."""

import asyncio
import json
import sys
from typing import Any

from omegaconf import OmegaConf
from verl.trainer.ppo.reward import get_custom_reward_fn


async def scores(asked: dict[str, Any]) -> list[float]:
    """All samples at once."""
    function = {
        "path": "pkg://assay_client.integrations.verl",
        "name": "compute_score",
        "reward_kwargs": {"url": asked["url"]},
    }
    compute: Any = get_custom_reward_fn(OmegaConf.create({"reward": {"custom_reward_function": function}}))
    calls = [compute("any", response, None, {"prompt": prompt}) for prompt, response in asked["pairs"]]
    return [float(reply["score"]) for reply in await asyncio.gather(*calls)]


if __name__ == "__main__":
    print(json.dumps(asyncio.run(scores(json.load(sys.stdin)))))
