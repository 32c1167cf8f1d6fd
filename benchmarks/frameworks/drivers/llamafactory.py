"""LLaMA-Factory's PPO, which asks for the rewards of a batch."""

import importlib
import json
import sys
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def get_rewards(url: str, texts: list[str]) -> Any:
    """Its own function, without the packages above it, which import its trainers."""
    spec = find_spec("llamafactory")
    assert spec is not None
    assert spec.submodule_search_locations
    root = Path(spec.submodule_search_locations[0])
    for name, folder in (("llamafactory.train", root / "train"), ("llamafactory.train.ppo", root / "train" / "ppo")):
        module = types.ModuleType(name)
        module.__path__ = [str(folder)]
        sys.modules[name] = module
    return importlib.import_module("llamafactory.train.ppo.ppo_utils").get_rewards_from_server(url, texts)


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    print(json.dumps(get_rewards(f"{asked['url']}/llamafactory/v1/score/evaluation", asked["rendered"]).tolist()))
