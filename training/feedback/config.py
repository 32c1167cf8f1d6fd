"""Every setting of `assay-train ppo` and `assay-train grpo`, its default and its meaning."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from training.config import SAMPLE, Section


class PromptsConfig(Section):
    """What the policy is asked."""

    train: str = SAMPLE
    """JSON lines with a column prompt (text, or messages); preference data do. sample: those of the project."""
    held_out: str | None = None
    """Prompts to measure on before and after, none of which is learnt from. Default: held_out_count of the training
    prompts, kept apart."""
    held_out_count: int = Field(128, ge=1)
    """The most held-out prompts to measure on: the first ones of prompts.held_out."""
    max_tokens: int = Field(256, ge=1)
    """The longest prompt, in the policy's tokens; longer ones are left out, and counted."""


class RewardConfig(Section):
    """Who judges."""

    url: str = "http://127.0.0.1:8000"
    """Address of the server whose scores are the rewards; its key is taken from ASSAY_API_KEY."""
    judge_url: str | None = None
    """Address of a second server, whose scores are only recorded: they tell when the first one is outwitted."""
    scale: Literal["raw", "centred", "standardised"] = "standardised"
    """Scale of the rewards; standardised has about unit variance over the reward model's own validation data."""
    truncate: Literal["prompt_left", "response_right"] | None = None
    """What the server cuts off of texts that are too long for it. Default: nothing, such a text ends the run."""
    missing_end_penalty: float = Field(1.0, ge=0)
    """Taken off the reward of a response that does not end by itself."""
    timeout: float = Field(900, gt=0)
    """Seconds to wait for scores, restarts of the server included, before the run ends."""


class PolicyConfig(Section):
    """Who learns."""

    backbone: str = "smollm2"
    """smollm2 (SmolLM2-135M-Instruct), a folder, or a Hugging Face name of a causal language model."""
    lora_rank: int = Field(16, ge=1)
    """Rank of the low-rank updates of all linear layers (Hu et al. 2021)."""
    lora_alpha: int = Field(32, ge=1)
    """Their scale, divided by the rank."""
    max_new_tokens: int = Field(32, ge=1)
    """The longest response."""
    temperature: float = Field(1.0, gt=0)
    """Of sampling, and of every probability in the loss."""
    bf16: bool = False
    """Compute the trunk in bfloat16: faster where the processor has it. The logits that are learnt from, the value
    head, the losses and all weights stay in float32, but log-probabilities then carry noise, which counts against
    ppo.clip, and tokens are drawn from logits in bfloat16."""


class FeedbackConfig(Section):
    """What both methods need."""

    run: Path = Path("runs/feedback")
    """Folder of the run: adapter, curves, held-out rewards, samples."""
    overwrite: bool = False
    """Replace a run that the folder holds."""
    progress: bool = True
    """Show progress bars."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Of the prompts' order, the adapter and the sampling."""
    updates: int = Field(50, ge=1)
    """Rounds of sampling, scoring and learning."""
    responses: int = Field(64, ge=2)
    """Responses a round, over all workers."""
    learning_rate: float = Field(2e-4, gt=0)
    """AdamW's, after a warm-up over the first tenth of the updates."""
    max_gradient_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""
    kl_coefficient: float = Field(0.05, ge=0)
    """Weight of the KL divergence from the policy as it came."""
    prompts: PromptsConfig = PromptsConfig()
    reward: RewardConfig = RewardConfig()
    policy: PolicyConfig = PolicyConfig()


class ProximalConfig(Section):
    """Proximal policy optimisation (Schulman et al. 2017)."""

    epochs: int = Field(2, ge=1)
    """Passes over a round's responses."""
    minibatch: int = Field(16, ge=1)
    """Responses in one step of one worker."""
    clip: float = Field(0.2, gt=0)
    """How far a token's probability ratio may move before its gradient stops."""
    value_clip: float = Field(0.2, gt=0)
    """How far a value may move before its gradient stops."""
    value_coefficient: float = Field(0.1, ge=0)
    """Weight of the value head's loss."""
    discount: float = Field(1.0, gt=0, le=1)
    """Of later rewards, a token."""
    gae_lambda: float = Field(0.95, ge=0, le=1)
    """Of generalised advantage estimation (Schulman et al. 2016)."""


class PpoConfig(FeedbackConfig):
    """A run of `assay-train ppo`."""

    workers: int = Field(2, ge=1)
    """Processes on this machine; each samples, scores and learns on its share of a round."""
    ppo: ProximalConfig = ProximalConfig()

    @model_validator(mode="after")
    def _shares_are_equal(self) -> Self:
        if self.responses % self.workers:
            raise ValueError(f"{self.responses} responses cannot be shared equally by {self.workers} workers")
        return self


class GroupConfig(Section):
    """Group-relative policy optimisation (Shao et al. 2024)."""

    responses_per_prompt: int = Field(8, ge=2)
    """Responses that are compared with each other."""


class GrpoConfig(FeedbackConfig):
    """A run of `assay-train grpo`."""

    grpo: GroupConfig = GroupConfig()

    @model_validator(mode="after")
    def _groups_are_whole(self) -> Self:
        if self.responses % self.grpo.responses_per_prompt:
            raise ValueError(
                f"{self.responses} responses are not whole groups of grpo.responses_per_prompt "
                f"{self.grpo.responses_per_prompt}"
            )
        return self
