"""OpenRLHF's executor with our reward function file, loaded by OpenRLHF's own code."""

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.frameworks.drivers.openrlhf import executor

FILE = """
from assay_client import RewardClient
from assay_client.integrations.openrlhf import OpenRlhfReward

reward_func = OpenRlhfReward(RewardClient({url!r}), plain_prompts=True)
"""


async def scores(asked: dict[str, Any], file: Path) -> list[float]:
    """One call for each sample, as rollouts make them, all at once; prompts are plain text."""
    fetch = executor(str(file))._fetch_rewards_via_func
    calls = [fetch([prompt + response], [prompt], [None]) for prompt, response in asked["pairs"]]
    return [float(reply[0]["rewards"][0]) for reply in await asyncio.gather(*calls)]


def main() -> None:
    """Read what is asked, print the scores."""
    asked = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "reward.py")
        file.write_text(FILE.format(url=asked["url"]), encoding="utf-8")
        print(json.dumps(asyncio.run(scores(asked, file))))


if __name__ == "__main__":
    main()
