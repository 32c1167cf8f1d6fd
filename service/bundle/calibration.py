"""From raw scores to the scales that a caller may ask for, and to probabilities of preference."""

import math
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat


class Scale(StrEnum):
    """The scale of a score in a reply."""

    RAW = "raw"  # what the model says; its offset has no meaning
    CENTRED = "centred"  # minus the mean score of the reference responses
    STANDARDISED = "standardised"  # centred, in standard deviations of the reference responses
    PROBABILITY = "probability"  # calibrated probability of beating a response at the centre


class Calibration(BaseModel):
    """Where the scores of a model lie, measured on held-out reference responses.

    Bradley-Terry fixes neither offset nor spread of its scores; these numbers do, and never change a ranking.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    centre: FiniteFloat = Field(description="Mean raw score of the reference responses.")
    scale: FiniteFloat = Field(gt=0, description="Standard deviation of the reference responses' raw scores.")
    temperature: FiniteFloat = Field(
        gt=0, description="Raw score differences over this are log-odds of preference (Guo et al. 2017)."
    )
    quantiles: dict[str, FiniteFloat] = Field(
        description="Raw scores of the reference responses by quantile, keys like '0.05'."
    )

    def rescale(self, raw: float, scale: Scale) -> float:
        """One raw score on another scale; every scale keeps the order of the scores."""
        match scale:
            case Scale.RAW:
                return raw
            case Scale.CENTRED:
                return raw - self.centre
            case Scale.STANDARDISED:
                return (raw - self.centre) / self.scale
            case Scale.PROBABILITY:
                return sigmoid((raw - self.centre) / self.temperature)

    def rescale_deviation(self, raw: float, deviation: float, scale: Scale) -> float:
        """A standard deviation around a raw score, on another scale; of a probability to first order."""
        match scale:
            case Scale.RAW | Scale.CENTRED:
                return deviation
            case Scale.STANDARDISED:
                return deviation / self.scale
            case Scale.PROBABILITY:
                probability = self.rescale(raw, scale)
                return probability * (1 - probability) / self.temperature * deviation

    def preference(self, raw_a: float, raw_b: float) -> float:
        """Calibrated probability that a is preferred to b (Bradley & Terry 1952)."""
        return sigmoid((raw_a - raw_b) / self.temperature)


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow for any x, and never falling from one float to the next."""
    return 1 / (1 + math.exp(-x)) if x > -700 else math.exp(x)
