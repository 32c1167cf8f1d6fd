"""Measure the promises on operations again in their quick form; exit 1 if one falls short.

    python -m benchmarks.operations.verify [--pip-certificates FILE]

Needs root, and from Debian: buildah, debootstrap, bubblewrap, haproxy; slowhttptest is used where it is there.
"""

import argparse
import functools
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.operations import fuzz, hostile, image, overload, restart
from benchmarks.result import Result, Target
from benchmarks.scale import __main__ as scale
from benchmarks.serving import soak
from benchmarks.serving.peers.assay import Assay
from benchmarks.verify_line import conclude, measure, not_held

TESTS = {
    "faults of connections, processes and engines": (
        "tests/end_to_end/test_faults.py", "tests/end_to_end/test_lifecycle.py", "tests/k8s/test_alerts_fire.py",
    ),
    "manifests, looked through by checkov and trivy": ("tests/k8s/test_scanners.py",),
}  # fmt: skip


def tests(what: str) -> Result:
    """Tests that must pass, and not be skipped."""
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "--import-mode=importlib", *TESTS[what]]
    done = subprocess.run(command, capture_output=True, text=True)
    last = (done.stdout.strip().splitlines() or ["no output"])[-1]
    target = Target(f"{what}: tests", "all pass", last, done.returncode == 0 and "skipped" not in last)
    return Result("tests", True, 0, [target], {"tests": list(TESTS[what])})


def main() -> int:
    """Run all; each says promise, figure, held or not, as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pip-certificates", type=Path, help="certificates of a proxy of the package index")
    flags = parser.parse_args()
    parts: dict[str, Callable[[], Result]] = {
        **{what: functools.partial(tests, what) for what in TESTS},
        "restart": functools.partial(restart.run, True),
        "overload": functools.partial(overload.run, True),
        "hostile": functools.partial(hostile.run, True),
        "scale": functools.partial(scale.run, True),
        "fuzz": functools.partial(fuzz.run, True),
        "soak": functools.partial(soak.run, "minilm", Assay(), soak.QUICK_MINUTES, True),
        "image": functools.partial(image.run, None, flags.pip_certificates, True),
    }
    needs = {"restart": restart.missing_tools, "image": image.missing_tools}
    began = time.monotonic()
    targets: list[Target] = []
    for name, part in parts.items():
        if missing := needs.get(name, list)():
            targets.append(not_held(name, f"{', '.join(missing)}: not installed; apt-get install them"))
        else:
            targets += measure(name, part)
    return conclude(targets, began)


if __name__ == "__main__":
    sys.exit(main())
