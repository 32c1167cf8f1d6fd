"""OpenRLHF's executor, which fetches the reward of every sample that it generated."""

import asyncio
import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any


def executor(url: str) -> Any:
    """The executor, without the package's `__init__`, which imports its trainers."""
    spec = importlib.util.find_spec("openrlhf")
    assert spec is not None
    assert spec.submodule_search_locations
    utils = types.ModuleType("openrlhf.utils")
    utils.__path__ = [str(Path(spec.submodule_search_locations[0], "utils"))]
    sys.modules["openrlhf.utils"] = utils
    from openrlhf.utils.agent import SingleTurnAgentExecutor

    return SingleTurnAgentExecutor(url)


async def scores(asked: dict[str, Any]) -> list[float]:
    """One call for each text, as rollouts make them, all at once."""
    fetch = executor(f"{asked['url']}/openrlhf/get_reward")._fetch_rewards_via_http
    prompts = [prompt for prompt, _ in asked["pairs"]]
    calls = [fetch([text], [prompt], [None]) for text, prompt in zip(asked["rendered"], prompts, strict=True)]
    replies = await asyncio.gather(*calls)
    assert all(len(reply) == 1 and 0 <= reply[0]["scores"][0] <= 1 for reply in replies)
    return [float(reply[0]["rewards"][0]) for reply in replies]


if __name__ == "__main__":
    print(json.dumps(asyncio.run(scores(json.load(sys.stdin)))))
