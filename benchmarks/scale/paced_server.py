"""The real server, except that its engine only takes as long as a real one would, and needs no processor for it.

    python -m benchmarks.scale.paced_server [flags of the server]

So that several replicas fit on a machine with fewer cores than they have. The seconds of a batch are `FIXED_S` and
`TOKEN_S` for each token that is computed: about what the peak in benchmarks/results/overload.json comes to.
"""

import sys
import time

import numpy as np

import service.__main__ as entry
from service.bundle.layout import Layout
from service.bundle.reader import Bundle
from service.engine.load import Loaded, Wanted
from service.engine.session import Placement, Rewards

FIXED_S, TOKEN_S = 2e-3, 1e-4


class PacedSession:
    """Waits, and gives each item the same score."""

    provider, precision = "Paced", "fp32"
    placement = Placement({"Paced": 1}, {})

    def __init__(self, heads: int) -> None:
        self._heads = heads

    def shaped(self, layout: Layout) -> Layout:
        """As it is."""
        return layout

    def run(self, layout: Layout) -> Rewards:
        """(N, heads) zeros."""
        time.sleep(FIXED_S + TOKEN_S * layout.tokens)
        return np.zeros((len(layout.read_index), self._heads), dtype=np.float32)


def load_paced(bundle: Bundle, wanted: Wanted) -> Loaded:
    """As `load_session`."""
    return Loaded(PacedSession(len(bundle.manifest.heads)), None)


if __name__ == "__main__":
    entry.load_session = load_paced  # type: ignore[attr-defined]
    sys.exit(entry.main())
