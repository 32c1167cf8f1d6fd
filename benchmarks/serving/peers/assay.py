"""This project, in an environment of its own: its API is asked with prompt and responses, or with pairs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.serving.models import ModelFolders
from benchmarks.serving.peers.base import Call, Peer
from benchmarks.serving.peers.environments import environment
from benchmarks.serving.rendering import Item
from service.engine.providers import PROVIDERS

TIMEOUT_MS = 600_000
"""The longest that the server takes: the other peers have no limit, and a large post on a busy machine needs one."""


@dataclass(frozen=True)
class Assay(Peer):
    """Attributes: provider and precision as the server's flags have them; `flags` are further ones, by name."""

    provider: str = "openvino"
    precision: str | None = None
    flags: dict[str, str] = field(default_factory=dict)

    name: ClassVar[str] = "assay"
    ready_path: ClassVar[str] = "/ready"
    packages: ClassVar[tuple[str, ...]] = (
        "onnxruntime",
        "onnxruntime-gpu",
        "openvino",
        "tokenizers",
        "numpy",
        "uvicorn",
    )

    @property
    def label(self) -> str:
        """Such as `assay openvino bf16`."""
        return " ".join(part for part in (self.name, self.provider, self.precision) if part)

    def install(self) -> Path:
        """What a server's machine would have installed, and nothing else."""
        extra = PROVIDERS[self.provider].extra if self.provider in PROVIDERS else "serve"
        # Their runtimes are one module in two builds.
        name = "assay" if extra == "serve" else f"assay-{extra}"
        return environment(name, [["-c", "constraints.txt", "-e", f".[{extra}]"]])

    def command(self, model: ModelFolders, port: int) -> list[str]:
        """See `Peer.command`."""
        flags = {"provider": self.provider, **({"precision": self.precision} if self.precision else {}), **self.flags}
        return [
            str(self.install() / "bin" / "python"), "-m", "service", f"--bundle={model.bundle}", f"--port={port}",
            "--log-level=warning",
            *(f"--{name}" if value == "true" else f"--{name}={value}" for name, value in flags.items()),
        ]  # fmt: skip

    def calls(self, items: Sequence[Item]) -> list[Call]:
        """One call: a shared prompt is sent once."""
        prompts = {item.prompt for item in items}
        if len(prompts) == 1:
            content: dict[str, Any] = {"prompt": prompts.pop(), "responses": [item.response for item in items]}
        else:
            content = {"pairs": [{"prompt": item.prompt, "response": item.response} for item in items]}
        return [Call.of("/v1/score", {**content, "timeout_ms": TIMEOUT_MS})]

    def scores(self, replies: Sequence[Any]) -> list[float]:
        """See `Peer.scores`."""
        return [float(score) for reply in replies for score in reply["scores"]]
