"""Measure the promises on training again in their quick form; exit 1 if one falls short.

    python -m benchmarks.training.verify

Needs root, whose limits on memory one of them sets, and the public data; half an hour on two cores that
compute in bf16. A few folds of one seed stand for all: intervals are wide, and a calibration error of a hundred pairs
is mostly noise.
"""

import functools
import sys
import time
from collections.abc import Callable

from benchmarks import data_at_scale
from benchmarks.accuracy import run as accuracy
from benchmarks.result import Result, Target
from benchmarks.training import run as speed
from benchmarks.verify_line import conclude, failed, measure

ONE_BY_ONE: dict[str, Callable[[], Result]] = {
    "data at scale": functools.partial(data_at_scale.run, True),
    **{f"training, {part}": functools.partial(speed.measure, part, True) for part in speed.PARTS},
}
"""Nothing runs beside these, whose speed is measured."""


def side_by_side() -> list[Target]:
    """The accuracies, whose folds are all trained before the first is told; what fails takes the others with it."""
    targets: list[Target] = []
    try:
        for result in accuracy.run(list(accuracy.PARTS), 1, True):
            result.write()
            result.report()
            targets += result.targets
    except (Exception, SystemExit) as error:  # whatever went wrong is the figure, data that are not there too
        targets.append(failed("accuracy", error))
    return targets


def main() -> int:
    """Run all; each says target, figure, held or not, as soon as it is measured."""
    began = time.monotonic()
    targets = [target for name, part in ONE_BY_ONE.items() for target in measure(name, part)]
    targets += side_by_side()
    return conclude(targets, began)


if __name__ == "__main__":
    sys.exit(main())
