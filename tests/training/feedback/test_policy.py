"""The policy's probabilities are those it sampled with, whatever the padding, and the reference stays as it came."""

import json
from pathlib import Path

import pytest
import torch
from transformers import GraniteConfig, GraniteForCausalLM

from tests.training.feedback.tiny_policy import save_policy
from tests.training.tiny import SMALL, causal_tokenizer
from training.feedback.config import PolicyConfig
from training.feedback.policy import Policy, encode, load_policy, short_enough
from training.feedback.prompts import Message, PromptError

PROMPTS = [(Message(role="user", content=text),) for text in ("a", "a much longer prompt than the first", "two")]


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    config = PolicyConfig(backbone=str(save_policy(tmp_path / "policy")), max_new_tokens=12, temperature=0.7)
    return load_policy(config, 0)


def move(policy: Policy) -> None:
    """Let the adapter say something."""
    for parameter in policy.learnt():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)


def test_probabilities_are_those_of_each_response_alone(policy):
    move(policy)
    rollout = policy.sample(PROMPTS, 0)
    reading = policy(rollout)
    for row, prompt in enumerate(PROMPTS):
        ids = encode(policy.tokenizer, prompt)
        response = rollout.tokens[row, rollout.prompt_columns :][rollout.mask[row]]
        alone = policy.model(input_ids=torch.tensor([[*ids, *response.tolist()]])).logits[0, len(ids) - 1 : -1]
        distribution = (alone / 0.7).log_softmax(-1)
        expected = distribution.gather(1, response[:, None])[:, 0]
        assert torch.allclose(reading.log_probs[row, : len(response)], expected, atol=1e-5)
        entropy = -(distribution.exp() * distribution).sum(-1)
        assert torch.allclose(reading.entropy[row, : len(response)], entropy, atol=1e-5)
        assert not reading.log_probs[row, len(response) :].any()


def test_sampling_draws_from_those_probabilities(policy):
    """The first token's frequencies against its probabilities: a temperature or top-k of its own would show."""
    rollout = policy.sample(PROMPTS[:1] * 2000, 0)
    first = rollout.tokens[:, rollout.prompt_columns]
    with torch.no_grad():
        logits = policy.model(input_ids=torch.tensor([encode(policy.tokenizer, PROMPTS[0])])).logits[0, -1]
    expected = (logits / 0.7).softmax(-1)
    found = torch.bincount(first, minlength=len(expected)) / len(first)
    assert float((found - expected).abs().sum() / 2) < 0.2  # total variation; 320 outcomes, 2,000 draws
    assert len(first.unique()) > 100


def test_a_response_ends_with_its_first_end_token_and_padding_is_not_part_of_it(policy):
    rollout = policy.sample(PROMPTS * 40, 1)
    end = policy.tokenizer.eos_token_id
    assert rollout.ended.any()
    assert not rollout.ended.all()
    for row in range(len(rollout.mask)):
        response = rollout.tokens[row, rollout.prompt_columns :][rollout.mask[row]].tolist()
        assert end not in response[:-1]
        assert (response[-1] == end) == bool(rollout.ended[row])
        assert rollout.texts[row] == policy.tokenizer.decode(response, skip_special_tokens=True)
    assert torch.equal(rollout.attended[:, rollout.prompt_columns :], rollout.mask)


def test_equal_seeds_give_equal_responses_and_leave_other_random_numbers_alone(policy):
    before = torch.get_rng_state()
    first, again, other = (policy.sample(PROMPTS, seed) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.texts == again.texts
    assert first.texts != other.texts


def test_the_reference_is_the_policy_as_it_came(policy):
    rollout = policy.sample(PROMPTS, 0)
    with torch.no_grad():
        came = policy(rollout)
    assert torch.equal(came.log_probs, policy.reference(rollout))
    assert not came.values.any()
    move(policy)
    with torch.no_grad():
        moved = policy(rollout)
    assert torch.equal(came.log_probs, policy.reference(rollout))
    assert not torch.allclose(moved.log_probs, came.log_probs, atol=1e-3)
    assert moved.values.any()


def test_only_adapter_and_value_head_learn(policy):
    names = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or name.startswith("value_head.") for name in names)
    assert any("lora_" in name for name in names)
    assert not policy.training or not any(module.training for module in policy.model.modules())


def test_long_prompts_are_left_out(policy):
    longest = len(encode(policy.tokenizer, PROMPTS[1]))
    assert short_enough(policy.tokenizer, PROMPTS, longest) == PROMPTS
    assert short_enough(policy.tokenizer, PROMPTS, longest - 1) == [PROMPTS[0], PROMPTS[2]]


def test_how_its_makers_sample_does_not_matter(tmp_path):
    folder = save_policy(tmp_path / "policy")
    settings = json.loads((folder / "generation_config.json").read_text())
    config = PolicyConfig(backbone=str(folder), max_new_tokens=12)
    plain = load_policy(config, 0).sample(PROMPTS, 0)
    settings |= {"min_p": 0.3, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "top_k": 5}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    assert torch.equal(load_policy(config, 0).sample(PROMPTS, 0).tokens, plain.tokens)


def test_a_model_that_rescales_its_logits_is_refused(tmp_path):
    torch.manual_seed(0)
    shape = {name: value for name, value in SMALL.items() if name != "pad_token_id"}
    GraniteForCausalLM(GraniteConfig(**shape, logits_scaling=4.0)).save_pretrained(tmp_path / "granite")
    causal_tokenizer().save_pretrained(tmp_path / "granite")
    with pytest.raises(ValueError, match="rescales its logits"):
        load_policy(PolicyConfig(backbone=str(tmp_path / "granite")), 0)


def test_a_prompt_that_the_template_refuses_is_named(tmp_path):
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}x"
    policy = load_policy(PolicyConfig(backbone=str(save_policy(tmp_path / "policy", template))), 0)
    with pytest.raises(PromptError, match="'a system'.*no system here"):
        encode(policy.tokenizer, (Message(role="system", content="a system"),))


def test_what_cannot_be_a_policy_says_why(tmp_path):
    with pytest.raises(OSError, match="policy.backbone: no folder"):
        load_policy(PolicyConfig(backbone=str(tmp_path / "none")), 0)
    folder = save_policy(tmp_path / "plain", template=None)
    with pytest.raises(ValueError, match="no chat template"):
        load_policy(PolicyConfig(backbone=str(folder)), 0)
    (folder / "model.safetensors").write_bytes(b"rubbish")
    with pytest.raises(OSError, match="cannot be loaded"):
        load_policy(PolicyConfig(backbone=str(save_broken(tmp_path))), 0)


def save_broken(folder: Path) -> Path:
    saved = save_policy(folder / "broken")
    (saved / "model.safetensors").write_bytes(b"rubbish")
    return saved
