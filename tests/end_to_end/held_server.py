"""The real server, except that its engine waits inside a batch as long as the file $GATE is there."""

import os
import sys
import time

import service.__main__ as entry
from service.bundle.layout import Layout
from service.bundle.reader import Bundle
from service.engine.load import Loaded, Wanted, load_session
from service.engine.session import Rewards, Session


class HeldSession:
    """An engine that hangs on demand."""

    def __init__(self, session: Session) -> None:
        self.provider, self.precision, self.placement = session.provider, session.precision, session.placement
        self._session = session

    def shaped(self, layout: Layout) -> Layout:
        return self._session.shaped(layout)

    def run(self, layout: Layout) -> Rewards:
        while os.path.exists(os.environ["GATE"]):
            time.sleep(0.002)
        return self._session.run(layout)


def load_held(bundle: Bundle, wanted: Wanted) -> Loaded:
    """As `load_session`."""
    loaded = load_session(bundle, wanted)
    return Loaded(HeldSession(loaded.session), loaded.gate)


if __name__ == "__main__":
    entry.load_session = load_held
    sys.exit(entry.main())
