"""How fast this machine is now: a cost model whose scale follows the batches that really ran."""

from service.scoring.cost import NEUTRAL, CostModel

_LEARNING_RATE = 0.2


class Pace:
    """Predicts seconds; before anything was measured, by proportion only.

    Attributes:
        model: corrected by every batch so far.
        measured: whether its seconds mean anything yet.
        scale: seconds of late over what the model that was handed in would say.
    """

    def __init__(self) -> None:
        self.model = NEUTRAL
        self.measured = False
        self.scale = 1.0

    def use(self, model: CostModel) -> None:
        """Go on with a model that was measured on this machine."""
        self.model, self.measured, self.scale = model, True, 1.0

    def learn(self, tokens: int, cells: int, seconds: float) -> None:
        """A batch took so long; 0 seconds (a clock too coarse) say nothing.

        The mean is one of logarithms: a batch that the machine stalled must not shrink the next ones to nothing.
        """
        if seconds <= 0:
            return
        factor = seconds / self.model.seconds(tokens, cells)
        if self.measured:
            factor **= _LEARNING_RATE
        self.model, self.measured, self.scale = self.model.scaled(factor), True, self.scale * factor
