"""The policy: a causal language model with low-rank updates, its reference, and a value head on the same trunk."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import TemplateError
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from training.backbone import Source, forget_quantisation, quiet_loading, resolve
from training.error_text import first_line
from training.feedback.config import PolicyConfig
from training.feedback.prompts import Prompt, PromptError, messages
from training.precision import bf16_if_it_helps


@dataclass(frozen=True)
class Rollout:
    """Sampled responses. Prompts end, and responses begin, at the column `prompt_columns`.

    Attributes:
        tokens: (B, P + T) int64, prompts padded on the left and responses on the right.
        attended: (B, P + T) bool, true on real tokens.
        mask: (B, T) bool, true on tokens of the response, the end-of-sequence token included.
        ended: (B,) bool, whether the response ends by itself.
        texts: the responses without special tokens.
    """

    tokens: torch.Tensor
    attended: torch.Tensor
    mask: torch.Tensor
    ended: torch.Tensor
    texts: list[str]

    @property
    def prompt_columns(self) -> int:
        """Columns before the responses."""
        return self.tokens.shape[1] - self.mask.shape[1]

    def __getitem__(self, rows: torch.Tensor) -> "Rollout":
        return Rollout(
            self.tokens[rows],
            self.attended[rows],
            self.mask[rows],
            self.ended[rows],
            [self.texts[row] for row in rows.tolist()],
        )


@dataclass(frozen=True)
class Reading:
    """What the policy says of the tokens of a rollout, each (B, T) float32.

    Attributes:
        log_probs: of the sampled tokens, at the temperature of sampling.
        entropy: of the distribution each was sampled from, in nats.
        values: of the states before them; zero for the reference.
    """

    log_probs: torch.Tensor
    entropy: torch.Tensor
    values: torch.Tensor


class Policy(nn.Module):
    """Samples, and gives the probabilities of what was sampled, with and without what it has learnt.

    Dropout is off throughout: probabilities of one text must not differ within a round (Huang et al. 2024, "The N+
    implementation details of RLHF with PPO").

    Args:
        model: a causal language model with a LoRA adapter.
        tokenizer: its tokenizer, with an end-of-sequence token.
        config: length and temperature of sampling, and whether to compute in bfloat16.
    """

    def __init__(self, model: PeftModel, tokenizer: PreTrainedTokenizerFast, config: PolicyConfig) -> None:
        super().__init__()
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.temperature = config.temperature
        self._bf16 = bf16_if_it_helps(config.bf16, "policy.bf16")
        base: Any = model.get_base_model()
        self._trunk: nn.Module = getattr(base, base.base_model_prefix)
        self._vocabulary: nn.Module = base.get_output_embeddings()
        self.value_head = nn.Linear(model.config.get_text_config().hidden_size, 1)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        self._ends = torch.tensor(end_tokens(model, tokenizer))
        self._sampling = GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=True,
            temperature=config.temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=config.max_new_tokens,
            eos_token_id=self._ends.tolist(),
            pad_token_id=self._ends.tolist()[0],
        )
        self._refuse_other_logits(base)

    @torch.no_grad()
    def _refuse_other_logits(self, base: Any) -> None:
        """Some models scale or cap what the vocabulary's layer gives, and `forward` does not."""
        ids = torch.arange(8)[None] % base.config.get_text_config().vocab_size
        ours = self._vocabulary(self._trunk(input_ids=ids, use_cache=False).last_hidden_state)
        if not torch.allclose(ours, self.model(input_ids=ids, use_cache=False).logits, atol=1e-3, rtol=1e-3):
            raise ValueError(f"policy.backbone: {type(base).__name__} rescales its logits, which is not supported")

    @torch.no_grad()
    def sample(self, prompts: Sequence[Prompt], seed: int) -> Rollout:
        """One response to each prompt; equal seeds give equal responses on one machine and thread count."""
        ids = [encode(self.tokenizer, prompt) for prompt in prompts]
        width = max(map(len, ids))
        end = int(self._ends[0])
        tokens = torch.tensor([[end] * (width - len(prompt)) + prompt for prompt in ids])
        attended = torch.tensor([[False] * (width - len(prompt)) + [True] * len(prompt) for prompt in ids])
        with torch.random.fork_rng(devices=[]), self._precision():
            torch.manual_seed(seed)
            tokens = self.model.generate(  # type: ignore[no-untyped-call]
                input_ids=tokens, attention_mask=attended.long(), generation_config=self._sampling
            )
        responses = tokens[:, width:]
        is_end = torch.isin(responses, self._ends)
        mask = (is_end.cumsum(dim=1) - is_end.long()) == 0  # up to the first end, which belongs to the response
        texts = [
            str(self.tokenizer.decode(row[kept & ~torch.isin(row, self._ends)], skip_special_tokens=True))
            for row, kept in zip(responses, mask, strict=True)
        ]
        return Rollout(tokens, torch.cat([attended, mask], dim=1), mask, (is_end & mask).any(dim=1), texts)

    def forward(self, rollout: Rollout) -> Reading:
        """What the policy, as it is, says of the rollout."""
        attended, mask = rollout.attended.long(), rollout.mask
        with self._precision():
            hidden = self._trunk(
                input_ids=rollout.tokens,
                attention_mask=attended,
                position_ids=(attended.cumsum(dim=1) - 1).clamp(min=0),
                use_cache=False,
            ).last_hidden_state[:, rollout.prompt_columns - 1 : -1]  # a token is foretold by the state before it
        # In float32 and of the responses' real tokens alone: their rounding is noise of the ratio, and they are most of
        # the memory.
        logits = self._vocabulary(hidden[mask].float())
        log_distribution = (logits / self.temperature).log_softmax(dim=-1)
        sampled = rollout.tokens[:, rollout.prompt_columns :][mask]
        log_probs = log_distribution.gather(1, sampled[:, None])[:, 0]
        entropy = -(log_distribution.exp() * log_distribution).sum(dim=-1).detach()
        nothing = torch.zeros(mask.shape)
        return Reading(
            nothing.masked_scatter(mask, log_probs),
            nothing.masked_scatter(mask, entropy),
            self.value_head(hidden.float())[..., 0] * mask,
        )

    @torch.no_grad()
    def reference(self, rollout: Rollout) -> torch.Tensor:
        """Log-probabilities (B, T) by the policy as it came."""
        with self.model.disable_adapter():
            reading: Reading = self(rollout)
        return reading.log_probs

    def learnt(self) -> list[nn.Parameter]:
        """The parameters that move: the adapter and the value head."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def _precision(self) -> torch.autocast:
        return torch.autocast(self._ends.device.type, torch.bfloat16, enabled=self._bf16)


def load_policy(config: PolicyConfig, seed: int) -> Policy:
    """The language model with a fresh adapter, which changes nothing yet.

    Raises:
        OSError: no such model, or one that transformers cannot load.
        ValueError: it has no chat template, no end-of-sequence token, or rescaled logits.
    """
    tokenizer, model = load_tokenizer(config.backbone), load_language_model(config.backbone)
    torch.manual_seed(seed)
    return Policy(get_peft_model(model, adapter(config)), tokenizer, config)


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a language model, which pads on the left.

    Raises:
        OSError, ValueError: see `load_policy`.
    """
    source, gguf = _find(name)
    try:
        with quiet_loading():
            tokenizer: Any = AutoTokenizer.from_pretrained(source.location, **gguf)
    except Exception as error:  # whatever the library makes of what lies there
        raise OSError(f"policy.backbone: {name!r} has no tokenizer that can be loaded: {first_line(error)}") from error
    if tokenizer.chat_template is None:
        raise ValueError(f"policy.backbone: {source.name} has no chat template, so prompts cannot be put to it")
    if tokenizer.eos_token_id is None:
        raise ValueError(f"policy.backbone: {source.name} has no end-of-sequence token, so responses cannot end")
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    found: PreTrainedTokenizerFast = tokenizer
    return found


def load_language_model(name: str) -> PreTrainedModel:
    """A causal language model in float32.

    Raises:
        OSError: see `load_policy`.
    """
    source, gguf = _find(name)
    try:
        with quiet_loading():
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(source.location, dtype=torch.float32, **gguf)
    except Exception as error:  # an architecture divides, looks up and allocates by what its files say
        raise OSError(f"policy.backbone: {name!r} cannot be loaded: {first_line(error)}") from error
    if source.gguf_file is not None:
        forget_quantisation(model)
    # Its makers' ways to sample (a repetition penalty, min-p) draw from another distribution than the losses know.
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=getattr(model.generation_config, "eos_token_id", None)
    )
    return model


def _find(name: str) -> tuple[Source, dict[str, Any]]:
    source = resolve(name, "policy.backbone")
    return source, {} if source.gguf_file is None else {"gguf_file": source.gguf_file}


def adapter(config: PolicyConfig) -> LoraConfig:
    """Low-rank updates of every linear layer but the vocabulary's."""
    return LoraConfig(
        r=config.lora_rank, lora_alpha=config.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def end_tokens(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The ids that end a response, the tokenizer's own first."""
    declared = getattr(model.generation_config, "eos_token_id", None)
    others = declared if isinstance(declared, list) else [declared]
    return list(dict.fromkeys(token for token in (tokenizer.eos_token_id, *others) if token is not None))


def encode(tokenizer: PreTrainedTokenizerFast, prompt: Prompt) -> list[int]:
    """Token ids of the prompt in the chat template, up to where the response begins.

    Raises:
        PromptError: the template refuses the prompt.
    """
    try:
        text = tokenizer.apply_chat_template(messages(prompt), tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        shown = str(messages(prompt))[:200]
        raise PromptError(f"the policy's chat template refuses the prompt {shown}: {error}") from error
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def short_enough(tokenizer: PreTrainedTokenizerFast, prompts: Sequence[Prompt], max_tokens: int) -> list[Prompt]:
    """The prompts of at most `max_tokens` tokens."""
    return [prompt for prompt in prompts if len(encode(tokenizer, prompt)) <= max_tokens]
