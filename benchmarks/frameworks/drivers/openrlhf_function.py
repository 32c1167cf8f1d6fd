"""OpenRLHF's executor with our reward function file, loaded by OpenRLHF's own code."""

import asyncio
import json
import os
import sys
from typing import Any

from assay_client.integrations import openrlhf as function
from benchmarks.frameworks.drivers.openrlhf import executor


async def scores(asked: dict[str, Any]) -> list[float]:
    """One call for each sample, as rollouts make them, all at once; prompts are plain text."""
    fetch = executor(function.__file__)._fetch_rewards_via_func
    calls = [fetch([prompt + response], [prompt], [None]) for prompt, response in asked["pairs"]]
    return [float(reply[0]["rewards"][0]) for reply in await asyncio.gather(*calls)]


def main() -> None:
    """Read what is asked, print the scores."""
    asked = json.load(sys.stdin)
    os.environ["ASSAY_URL"] = asked["url"]
    print(json.dumps(asyncio.run(scores(asked))))


if __name__ == "__main__":
    main()
