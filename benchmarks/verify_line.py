"""Measure the claims of the README again in their quick form; exit 1 if one falls short.

    python -m benchmarks.verify_line

The load on a decoder (`ppo_client`) is measured by the full command alone, for it would take longer than the 15 minutes
of this one; training has `make verify-training`.
"""

import functools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import client_calls, packed_throughput, ppo_client, served_parity
from benchmarks.accuracy.folds import FILES
from benchmarks.queueing import __main__ as queueing
from benchmarks.result import Result, Target
from training.config import TrainingConfig
from training.data import public_sets
from training.pipeline import run_evaluate, run_export, run_fit

BUNDLE = Path("bundles/default")


def ensure_bundle() -> None:
    """Train the default model if it is not there; what an interrupted training left is begun anew."""
    if not (BUNDLE / "bundle.json").is_file():
        config = TrainingConfig(overwrite=True)
        for step in (run_fit, run_evaluate, run_export):
            step(config)


def default_under_load() -> Result:
    """The load against the default bundle, which is trained first where it is missing."""
    ensure_bundle()
    return ppo_client.run(quick=True, bundle=BUNDLE)


LOCAL: dict[str, Callable[[], Result]] = {
    "queueing": functools.partial(queueing.run, quick=True),
    "packed_throughput": functools.partial(packed_throughput.run, quick=True),
    "ppo_client": default_under_load,
    "client_calls": functools.partial(client_calls.run, quick=True),
}
PUBLIC: dict[str, Callable[[], Result]] = {
    "served_parity": functools.partial(served_parity.run, quick=True),
}
"""Those that need the public data."""


def measure(name: str, claim: Callable[[], Result]) -> list[Target]:
    """Measure, write and report one claim; what cannot be measured does not hold, and hinders no other."""
    try:
        result = claim()
        result.write()
    except (Exception, SystemExit) as error:  # whatever went wrong is the figure, data that are not there too
        return [failed(name, error)]
    result.report()
    return result.targets


def not_held(name: str, reason: str) -> Target:
    """Report a claim that could not be measured."""
    print(f"NOT HELD  {name}: {reason}", flush=True)
    return Target(name, "measured", reason, False)


def failed(name: str, error: BaseException) -> Target:
    """Report a claim whose measurement ended with an error."""
    return not_held(name, f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")


def conclude(targets: Sequence[Target], began: float) -> int:
    """Say how many are held, and how long it took since `began` (of `time.monotonic`); the status of the command."""
    held = sum(target.held for target in targets)
    print(f"{held} of {len(targets)} targets held, {time.monotonic() - began:.0f} s")
    return 0 if held == len(targets) else 1


def main() -> int:
    """Run all; each says target, figure, held or not, as soon as it is measured."""
    began = time.monotonic()
    targets = [target for name, claim in LOCAL.items() for target in measure(name, claim)]
    folder = public_sets.data_folder()
    for name, claim in PUBLIC.items():
        if folder.is_dir():
            targets += measure(name, claim)
        else:
            files = ", ".join(FILES)
            missing = f"its public preference data ({files}) are not in {folder}; set ASSAY_DATA to their folder"
            targets.append(not_held(name, missing))
    return conclude(targets, began)


if __name__ == "__main__":
    sys.exit(main())
