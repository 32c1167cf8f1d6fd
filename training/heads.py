"""What a reward model gives of a text: one score, an ensemble with its disagreement, or named aspects and their sum."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.bundle.manifest import REWARD, UNCERTAINTY

Kind = Literal["single", "ensemble", "aspects"]


class Heads(BaseModel):
    """The linear heads on the backbone, and what is made of them.

    Attributes:
        kind: `single`: one head is the reward. `ensemble`: the reward is the mean of members that each learn from
            prompts drawn anew (Osband et al. 2016, bootstrapped heads on one trunk), and their standard deviation is
            its uncertainty. `aspects`: the reward is a weighted sum of scores that each learn from judgements of their
            aspect.
        weights: of each linear head in the reward, by its name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind = "single"
    weights: dict[str, float] = Field(default={REWARD: 1.0}, min_length=1)

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        taken = {REWARD, UNCERTAINTY} if self.kind != "single" else {UNCERTAINTY}
        if clash := sorted(taken & set(self.weights)):
            raise ValueError(f"{clash[0]!r} is the name of what the heads are combined to; name the head otherwise")
        if not any(self.weights.values()):
            raise ValueError("every head has the weight 0: nothing would be rewarded")
        return self

    @classmethod
    def ensemble(cls, members: int) -> "Heads":
        """`members` heads, at least two, that count alike."""
        return cls(kind="ensemble", weights={f"member_{number}": 1 / members for number in range(1, members + 1)})

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what the model gives, the reward first."""
        if self.kind == "single":
            return (REWARD,)
        return (REWARD, *((UNCERTAINTY,) if self.kind == "ensemble" else ()), *self.weights)

    @property
    def learnt(self) -> tuple[int, ...]:
        """Places in `outputs` that judgements teach: the members, or the aspects and what they add up to."""
        return tuple(
            place
            for place, name in enumerate(self.outputs)
            if name != UNCERTAINTY and (name != REWARD or self.kind != "ensemble")
        )
