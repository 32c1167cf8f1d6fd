"""Two plain servers out of this folder, `openrlhf-style` and `plain-script`, in an environment of their own.

OpenRLHF's package asks for CUDA, DeepSpeed and vLLM's CUDA build, so its server is stood in for: see
`servers/openrlhf_style.py`. Both compute our function from the same weights.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.serving.models import ModelFolders
from benchmarks.serving.peers.base import Call, Peer
from benchmarks.serving.peers.environments import environment
from benchmarks.serving.rendering import Item


class _Script(Peer):
    packages: ClassVar[tuple[str, ...]] = ("torch", "transformers", "fastapi", "uvicorn")
    program: ClassVar[str]

    def install(self) -> Path:
        """One environment for both."""
        packages = ["torch==2.13.0", "transformers", "safetensors", "fastapi", "uvicorn", "uvloop", "httptools"]
        return environment("scripts", [["-c", "constraints.txt", *packages]])

    def command(self, model: ModelFolders, port: int) -> list[str]:
        """See `Peer.command`."""
        return [
            str(self.install() / "bin" / "python"), "-m", f"benchmarks.serving.peers.servers.{self.program}",
            "--folder", str(model.plain), "--port", str(port),
        ]  # fmt: skip


class OpenRlhfStyle(_Script):
    """The stand-in for OpenRLHF's reward server."""

    name: ClassVar[str] = "openrlhf-style"
    program: ClassVar[str] = "openrlhf_style"

    def calls(self, items: Sequence[Item]) -> list[Call]:
        """One call, as its older client makes; the newest makes one for each text, which would be slower."""
        texts = [item.text for item in items]
        return [Call.of("/get_reward", {"query": texts, "prompts": [item.prompt for item in items]})]

    def scores(self, replies: Sequence[Any]) -> list[float]:
        """See `Peer.scores`."""
        return [float(score) for reply in replies for score in reply["rewards"]]


class PlainScript(_Script):
    """The plain FastAPI and transformers script."""

    name: ClassVar[str] = "plain-script"
    program: ClassVar[str] = "plain_script"

    def calls(self, items: Sequence[Item]) -> list[Call]:
        """One call with all texts."""
        return [Call.of("/score", {"texts": [item.text for item in items]})]

    def scores(self, replies: Sequence[Any]) -> list[float]:
        """See `Peer.scores`."""
        return [float(score) for reply in replies for score in reply["scores"]]
