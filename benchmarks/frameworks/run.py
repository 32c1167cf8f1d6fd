"""Run other systems' own client code against a real server, and compare what they get with the native scores.

    python -m benchmarks.frameworks.run [--quick]

SmolLM2-135M with a drawn head, in float32; real prompts and responses of the public data.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from assay_client import RewardClient
from benchmarks.frameworks.callers import CALLERS, OURS, Caller
from benchmarks.result import Result, Target, refuse_uncommitted
from benchmarks.server import serving
from benchmarks.serving.models import BUILD, PROJECT
from benchmarks.serving.work import Work
from benchmarks.serving.workloads import Request

SEED = 0
TOLERANCE = 1e-4
SHORT, LONG = 24, 60
"""Words that are kept of a prompt and of a response."""


def install(caller: Caller) -> Path:
    """Its packages in a folder of their own, which goes before this environment's on its path."""
    if caller.package == OURS:
        return PROJECT
    folder = BUILD / "callers" / caller.folder
    recipe = "\n".join((caller.package, *caller.beside))
    stamp = folder / ".recipe"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != recipe:
        print(f"installing {caller.package} into {folder.relative_to(PROJECT)} ...", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--target", str(folder), caller.package, *caller.beside], check=True)
        stamp.write_text(recipe, encoding="utf-8")
    return folder


def call(caller: Caller, asked: dict[str, Any]) -> list[float]:
    """Scores as the caller's own code gets them.

    Raises:
        RuntimeError: it failed; the message ends with what it said last.
    """
    path = os.pathsep.join([str(install(caller)), str(PROJECT)])
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.frameworks.drivers.{caller.driver}", *caller.arguments],
        input=json.dumps(asked), capture_output=True, text=True, timeout=900,
        env={**os.environ, "PYTHONPATH": path, "DISABLE_VERSION_CHECK": "1"},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(" ".join(done.stderr.strip().splitlines()[-1:]) or f"exit status {done.returncode}")
    scores: list[float] = json.loads(done.stdout.strip().splitlines()[-1])
    return scores


def real_pairs(work: Work, count: int) -> list[tuple[str, str]]:
    """Prompts and responses, each cut to some words; the last ones share a prompt."""
    pairs = list(work.texts.singles)
    random.Random(SEED).shuffle(pairs)
    short = [(" ".join(p.split()[:SHORT]), " ".join(r.split()[:LONG])) for p, r in pairs]
    chosen = [pair for pair in short if all(pair)][:count]
    half = count // 2
    return chosen[:half] + [(chosen[half][0], response) for _, response in chosen[half:]]


def run(quick: bool) -> Result:
    """All callers, one after the other."""
    work = Work.of("smollm2")
    pairs = real_pairs(work, 8 if quick else 32)
    targets, figures = [], {}
    with serving(work.model.bundle, precision="fp32", model_aliases="any/path") as url:
        with RewardClient(url, timeout=600) as client:
            native = list(client.score_pairs(pairs))
            name = client.model().model.name
        asked = {
            "url": url,
            "model": name,
            "pairs": pairs,
            "rendered": [item.text for item in work.renderer.items(Request(tuple(pairs)))],
            "tokenizer": str(work.model.classifier),
            "chat_template": work.renderer.formatter.template,
        }
        for caller in CALLERS:
            try:
                scores = call(caller, asked)
                error = float(np.abs(np.subtract(scores, native)).max()) if len(scores) == len(native) else np.inf
                outcome, held = f"{len(scores)} scores, largest difference {error:.1e}", bool(error <= TOLERANCE)
            except (RuntimeError, subprocess.SubprocessError) as failure:
                outcome, held, error = f"failed: {failure}"[:300], False, np.inf
            title = f"{caller.name} ({caller.package}) gets the native scores"
            targets.append(Target(title, f"within {TOLERANCE:.0e}", outcome, held))
            figures[caller.name] = {"package": caller.package, "calls": len(pairs), "outcome": outcome}
    return Result("frameworks", quick, SEED, targets, {"callers": figures, "score_spread": float(np.std(native))})


def main() -> int:
    """Run and write the result; 1 if a caller failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8 pairs")
    quick = parser.parse_args().quick
    refuse_uncommitted(quick)
    result = run(quick)
    result.publish()
    return 0 if all(target.held for target in result.targets) else 1


if __name__ == "__main__":
    sys.exit(main())
