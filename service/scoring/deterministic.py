"""Batches that a request's scores can be repeated from: of one request alone, and cut by its own tokens alone."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import chain
from math import inf

from service.bundle.layout import Family
from service.scoring.batch import Batch, Bounds
from service.scoring.cost import NEUTRAL, Attention, CostModel
from service.scoring.picking import AGE_SHARE, in_time
from service.scoring.waiting import WaitingLine, Work


class RequestPicker:
    """Picks batches that hold items of one request, so that its scores depend on nothing but itself.

    Rounding depends on the place in a batch and on the batch's shapes. Here both follow from the request: its items go
    in depth-first order, and a batch ends where its tokens or attention cells would exceed the bounds, or where a cost
    model of fixed coefficients says that the next item is better off elsewhere. Nothing that is measured decides.

    The requests take turns as under `service.scoring.picking.Picker`, whole batches at a time: the smallest first, and
    `AGE_SHARE` of the seconds for the oldest. A request's last item is picked at the latest when the batches picked
    since it came add up to `W / AGE_SHARE + 4 * b` predicted seconds: W of all that waited when it was admitted, in
    batches of one item, the request included; b of the largest batch.

    Args:
        line: what waits; no two requests may have an item in common (see `Sequences.of_one_request`).
        bounds: of a batch; the seconds are not looked at.
        family: of the model.
        attention: of the layout.
    """

    def __init__(self, line: WaitingLine, bounds: Bounds, family: Family, attention: Attention) -> None:
        self._bounds = replace(bounds, seconds=inf)
        self._line = line
        self._family = family
        self._attention = attention
        self._owed = 0.0  # seconds, to the oldest; below 0 if they had more than their share

    def pick(self, now: float, model: CostModel) -> tuple[Batch, list[Work]]:
        """The next batch, empty if nothing waits that is not late; and requests that were met and are late.

        Args:
            now: monotonic seconds.
            model: predicts the seconds of batches, for taking turns alone.
        """
        batch = Batch(self._bounds, NEUTRAL, self._family, self._attention)
        late: dict[Work, None] = {}
        by_age = self._owed > 0
        works: Iterable[Work] = self._line.by_age() if by_age else chain.from_iterable(self._line.by_size())
        for work in in_time(works, now, late):
            for item in work.waiting:
                if not batch.add(item.key, item.sequence):
                    break
            self._owed += (AGE_SHARE - by_age) * model.seconds(batch.tokens, batch.cells)
            break
        if len(batch) == len(self._line.index):
            self._owed = 0.0  # nobody was made to wait
        return batch, list(late)
