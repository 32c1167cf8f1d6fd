"""All peers by the name that `--peers` takes."""

from benchmarks.serving.peers.assay import Assay
from benchmarks.serving.peers.base import Peer
from benchmarks.serving.peers.infinity import Infinity
from benchmarks.serving.peers.scripts import OpenRlhfStyle, PlainScript
from benchmarks.serving.peers.vllm import Vllm

PEERS: dict[str, Peer] = {
    "vllm": Vllm(),
    "infinity-torch": Infinity("torch"),
    "infinity-optimum": Infinity("optimum"),
    "openrlhf-style": OpenRlhfStyle(),
    "plain-script": PlainScript(),
}
"""The others, without Assay itself."""


def peers_for(names: list[str], *assays: Assay) -> list[Peer]:
    """Assay first, as it is to be raced, then those named."""
    return [*assays, *(PEERS[name] for name in names)]
