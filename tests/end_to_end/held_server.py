"""The real server, except that its engine waits inside a batch as long as the file $GATE is there."""

import os
import sys
import time

import service.__main__ as entry
import service.engine.load as load
from service.bundle.layout import Layout
from service.engine.session import OnnxSession, Rewards


class HeldSession(OnnxSession):
    """An engine that hangs on demand."""

    def run(self, layout: Layout) -> Rewards:
        while os.path.exists(os.environ["GATE"]):
            time.sleep(0.002)
        return super().run(layout)


if __name__ == "__main__":
    load.OnnxSession = HeldSession  # type: ignore[misc]
    sys.exit(entry.main())
