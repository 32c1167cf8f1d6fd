"""One recipe for each framework: how it is pointed at the server, and a request that it sends, from the golden files.

They stand in service/README.md; write them there anew with `python -m tests.contract.recipes`.
"""

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
README = FOLDER.parents[1] / "service" / "README.md"
ADDRESS = "http://127.0.0.1:8000"
TESTED, MODEL = "pocket", "MODEL"
"""The name of the model in the golden files, and what stands for it in the README."""


@dataclass(frozen=True)
class Recipe:
    """How to point a framework at the server.

    Attributes:
        settings: what to write, of the framework and of the server.
        language: of `settings`.
        taken_from: where the settings are used: a driver of `make verify-frameworks`, a test, or a golden file.
        golden: the exchange that shows the request, in tests/contract; None where the framework calls our client.
        note: what else to know.
    """

    framework: str
    settings: str
    language: str
    taken_from: str
    golden: str | None
    note: str = ""


RECIPES = (
    Recipe(
        "OpenRLHF",
        "--reward.remote_url http://127.0.0.1:8000/openrlhf/get_reward",
        "",
        "benchmarks/frameworks/drivers/openrlhf.py",
        "openrlhf/one_sample",
        "Before 0.10.4 the flag is `--remote_rm_url`. `rewards` are raw; `scores`, for its filters, are probabilities.",
    ),
    Recipe(
        "OpenRLHF, with a function",
        "# reward.py, for --reward.remote_url /path/reward.py\n"
        "from assay_client import RewardClient\n"
        "from assay_client.integrations.openrlhf import OpenRlhfReward\n\n"
        'reward_func = OpenRlhfReward(RewardClient("http://127.0.0.1:8000"))',
        "python",
        "benchmarks/frameworks/drivers/openrlhf_function.py",
        None,
        "Sends prompt and response apart, for encoders and for reward models with another template. The prompt's "
        "messages must be in the data set's label (`--data.label_key`); without a chat template, `plain_prompts=True`. "
        "OpenRLHF goes on without a reward that it cannot get, and only logs it: look for `Failed to fetch reward`, "
        "and name no local reward model beside this one.",
    ),
    Recipe(
        "verl, with a function",
        "reward.custom_reward_function.path=pkg://assay_client.integrations.verl\n"
        "reward.custom_reward_function.name=compute_score\n"
        "+reward.custom_reward_function.reward_kwargs.url=http://127.0.0.1:8000",
        "",
        "benchmarks/frameworks/drivers/verl_function.py",
        None,
        "verl hands over the response alone: the prompt must be in the data set's `extra_info`, under `prompt`.",
    ),
    Recipe(
        "verl, its reward loop",
        "assay-serve --bundle bundles/mine --root-dialect vllm --model-aliases '*'",
        "",
        "benchmarks/frameworks/drivers/verl.py",
        "vllm/classify_as_verl",
        "It asks a router that it starts by itself; this is for where you have set `reward_router_address`, a host and "
        "a port, of its workers. In SGLang's mode it asks `/v1/embeddings`: `--root-dialect sglang`.",
    ),
    Recipe(
        "TRL",
        "from assay_client import RewardClient\n"
        "from assay_client.integrations.trl import TrlReward\n\n"
        'reward = TrlReward(RewardClient("http://127.0.0.1:8000"))\n'
        "GRPOTrainer(model, reward_funcs=[reward], args=args, train_dataset=prompts).train()",
        "python",
        "benchmarks/frameworks/drivers/trl_grpo.py",
        None,
        "A whole run with adapter, curves and held-out rewards: `assay-train grpo`.",
    ),
    Recipe(
        "A PPO loop of one's own",
        "from assay_client import RewardClient\n\n"
        'client = RewardClient("http://127.0.0.1:8000")\n'
        'client = RewardClient("http://127.0.0.1:8000", model_digest=client.model().model.digest)  # pinned\n'
        "rewards = list(client.score_pairs(zip(prompts, responses, strict=True), allow_empty=True))",
        "python",
        "tests/contract/test_recipes.py",
        None,
        "One that learns, with several workers: `assay-train ppo`.",
    ),
    Recipe("slime", "--rm-type remote_rm --rm-url http://127.0.0.1:8000/slime/reward", "", "tests/contract/slime",
           "slime/text"),
    Recipe(
        "LLaMA-Factory",
        "reward_model_type: api\nreward_model: http://127.0.0.1:8000/llamafactory/v1/score/evaluation",
        "yaml",
        "benchmarks/frameworks/drivers/llamafactory.py",
        "llamafactory/texts",
    ),
    Recipe("ms-swift", 'OpenAI(base_url="http://127.0.0.1:8000/swift/v1", api_key="none")', "python",
           "tests/contract/swift", "swift/completion", "The content of the choice is the score."),
    Recipe(
        "vLLM's API",
        "http://127.0.0.1:8000/vllm",
        "",
        "tests/contract/vllm",
        "vllm/score_one_to_many",
        "Also `/classify`, `/pooling` and the `/rerank` family.",
    ),
    Recipe("SGLang's API", "http://127.0.0.1:8000/sglang", "", "tests/contract/sglang", "sglang/classify_list"),
    Recipe("TEI's API", "http://127.0.0.1:8000/tei", "", "tests/contract/tei", "tei/predict_pair"),
    Recipe(
        "Triton and NeMo-Aligner",
        "assay-serve --bundle bundles/mine --root-dialect kserve --model-aliases reward_model",
        "",
        "benchmarks/frameworks/drivers/triton.py",
        "kserve/pairs",
        "KServe v2 in JSON, without binary tensors. `sentences` (BYTES), `tokens` with `sequence_lengths` (INT64), or "
        "`prompt` with `response` (BYTES); `rewards` (FP32) come back. NeMo-Aligner's model is called `reward_model`.",
    ),
    Recipe("NeMo Gym", "http://127.0.0.1:8000/nemogym", "", "tests/contract/nemogym", "nemogym/verify_text"),
)  # fmt: skip


def request(golden: str, address: str = ADDRESS) -> list[str]:
    """The curl command of a golden exchange, as arguments."""
    exchange = json.loads((FOLDER / f"{golden}.json").read_bytes())
    body = json.dumps(exchange["request"], ensure_ascii=False)
    return ["curl", "-s", address + exchange["path"], "-H", "Content-Type: application/json", "-d", body]


def markdown() -> str:
    """All recipes, as they stand in the README."""
    parts = []
    for recipe in RECIPES:
        origin = f"../{recipe.taken_from}"
        lines = [f"**{recipe.framework}** ([taken from]({origin})). {recipe.note}".rstrip(), ""]
        lines += [f"```{recipe.language}", recipe.settings, "```"]
        if recipe.golden is not None:
            lines += ["```", shlex.join(request(recipe.golden)).replace(TESTED, MODEL), "```"]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


_MARKS = re.compile(r"(<!-- recipes[^>]*-->\n).*?(\n<!-- end of recipes -->)", re.DOTALL)


def with_recipes(text: str) -> str:
    """The README's text with the recipes as they are here."""
    changed, count = _MARKS.subn(lambda marks: f"{marks[1]}{markdown()}{marks[2]}", text)
    assert count == 1, "no marks in service/README.md"
    return changed


if __name__ == "__main__":
    README.write_text(with_recipes(README.read_text(encoding="utf-8")), encoding="utf-8")
