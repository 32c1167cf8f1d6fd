"""The recipes of the service's README are those that were tried, and a shell can run them."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from assay_client.testing import FakeRewardServer
from service.api.dialects.registry import DIALECTS
from service.settings import Settings
from tests.contract.recipes import ADDRESS, README, RECIPES, request, with_recipes
from tests.service.serving import serving

ROOT = Path(__file__).parents[2]
REQUESTS = [recipe for recipe in RECIPES if recipe.golden is not None]


def test_the_readme_has_them_as_they_were_tried():
    text = README.read_text(encoding="utf-8")
    assert with_recipes(text) == text


def test_every_dialect_has_one_and_every_origin_is_there():
    assert {recipe.golden.partition("/")[0] for recipe in REQUESTS} == set(DIALECTS)
    for recipe in RECIPES:
        assert (ROOT / recipe.taken_from).exists(), recipe.taken_from


@pytest.mark.parametrize("recipe", REQUESTS, ids=lambda recipe: recipe.framework)
def test_curl_gets_an_answer(recipe, pocket_bundle):
    with serving(pocket_bundle) as served:
        command = request(recipe.golden, f"http://127.0.0.1:{served.port}")
        done = subprocess.run([*command, "--fail"], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout)


def test_drivers_use_what_the_recipes_say():
    """Each word of a recipe's settings but addresses and names of one's own is in the driver that it is taken from."""
    for recipe in RECIPES:
        origin = ROOT / recipe.taken_from
        if "drivers" not in recipe.taken_from or (recipe.language in ("yaml", "") and "=" not in recipe.settings):
            continue
        text = origin.read_text(encoding="utf-8")
        for word in re.findall(
            r"assay_client[\w.]*|compute_score|OpenRlhfReward|TrlReward|reward_funcs", recipe.settings
        ):
            assert word in text, (recipe.framework, word)


def test_addresses_in_the_settings_are_paths_that_are_served(pocket_bundle):
    with serving(pocket_bundle) as served:
        paths = served.get("/openapi.json").json["paths"]
    for recipe in REQUESTS:
        for word in recipe.settings.replace('"', " ").split():
            if word.startswith(ADDRESS):
                path = word.removeprefix(ADDRESS)
                assert any(known == path or known.startswith(f"{path}/") for known in paths), word


def test_flags_of_the_server_are_settings():
    for recipe in RECIPES:
        if recipe.settings.startswith("assay-serve"):
            flags = {word[2:].replace("-", "_") for word in recipe.settings.split() if word.startswith("--")}
            assert flags <= set(Settings.model_fields), flags


def test_python_recipes_run(monkeypatch):
    """Against the fake server; TRL's trainer is stood in for by what it does with the function."""
    rewarded = []

    class Trainer:
        def __init__(self, model, reward_funcs, args, train_dataset):
            self.work = reward_funcs[0], train_dataset

        def train(self):
            function, prompts = self.work
            rewarded.append(function(prompts=prompts, completions=["ab"] * len(prompts)))

    with FakeRewardServer(lambda prompt, response: float(len(response))) as server:
        monkeypatch.setenv("ASSAY_URL", server.url)
        for name in ("TRL", "A PPO loop of one's own", "OpenRLHF, with a function"):
            recipe = next(recipe for recipe in RECIPES if recipe.framework == name)
            given = {"GRPOTrainer": Trainer, "model": None, "args": None, "prompts": ["p", "q"], "responses": ["a", ""]}
            exec(recipe.settings.replace(ADDRESS, server.url), given)
            if "rewards" in given:
                rewarded.append(given["rewards"])
            if "reward_func" in given:
                turn = [{"role": "user", "content": "p"}]
                rewarded.append(given["reward_func"](["<|user|>pabc</s>"], ["<|user|>p"], [turn])["rewards"])
    assert rewarded == [[2.0, 2.0], [1.0, 0.0], [3.0]]
