"""Measure the claims on speed again in their quick form; exit 1 if one falls short.

    python -m benchmarks.serving.verify_engine [--provider P] [--precision P] [--flag NAME=VALUE]

SmolLM2-135M against vLLM; MiniLM against Infinity and the OpenRLHF-style server; HTTP against the engine on MiniLM,
where a request takes the least computing and so what is around it weighs most. What is not installed yet will be.
"""

import argparse
import sys
import time

from benchmarks.result import Result
from benchmarks.serving import http_overhead, race
from benchmarks.serving.options import add_server_options, assay_of
from benchmarks.serving.peers.registry import peers_for

SMOLLM2_WORKLOADS = ["best-of-8", "best-of-8-long", "best-of-8-short", "best-of-64", "pairs", "mixed", "interactive"]
MINILM_PEERS = ["infinity-torch", "infinity-optimum", "openrlhf-style"]


def main() -> int:
    """Run all, print target, figure, held or not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_server_options(parser)
    assay = assay_of(parser.parse_args())
    began = time.monotonic()
    results: list[Result] = [
        race.run(True, "smollm2", peers_for(["vllm"], assay), SMOLLM2_WORKLOADS, rounds=2),  # there are many
        race.run(True, "minilm", peers_for(MINILM_PEERS, assay), ["mixed"]),
        http_overhead.run(True, "minilm", assay),
    ]
    print()
    for result in results:
        result.write()
        result.report()
    held = [target.held for result in results for target in result.targets]
    print(f"{sum(held)} of {len(held)} targets held, {time.monotonic() - began:.0f} s")
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
