"""Infinity (`infinity-emb`), torch and optimum engines: /classify for texts, raw scores.

A model with one label it takes for a reranker, so it gets a second label, whose score nobody reads.

Its classifier of a BERT reads the first token through a pooling layer. It cannot express our mean pooling: on such a
model it runs the same backbone with a drawn classifier, at the same cost, and its scores are not compared with ours.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.serving.models import ModelFolders
from benchmarks.serving.peers.base import Call, Peer
from benchmarks.serving.peers.environments import FOLDER, environment
from benchmarks.serving.rendering import Item

VERSION = "0.0.78"
SERVED_NAME = "race"

_STEPS = [
    ["torch==2.13.0"],
    [
        f"infinity-emb[torch,optimum,server]=={VERSION}", "torch==2.13.0",
        "transformers<4.50", "optimum[onnxruntime]<1.25",  # the last with the parts that Infinity imports
        "click<8.2",  # its typer breaks on later ones
        "pyarrow<20", "datasets<4",  # later ones need numpy 2, which Infinity does not allow
    ],
]  # fmt: skip


@dataclass(frozen=True)
class Infinity(Peer):
    """Attributes: engine is torch or optimum."""

    engine: str

    name: ClassVar[str] = "infinity"
    packages: ClassVar[tuple[str, ...]] = ("infinity-emb", "torch", "transformers", "optimum", "onnxruntime")

    @property
    def label(self) -> str:
        """Such as `infinity torch`."""
        return f"{self.name} {self.engine}"

    def install(self) -> Path:
        """One environment for both engines."""
        return environment("infinity", _STEPS)

    def command(self, model: ModelFolders, port: int) -> list[str]:
        """Without its warm-up, whose texts are two tokens longer than a BERT takes; the race warms up all arms."""
        mine = FOLDER / "infinity-models" / f"{model.name}-{self.engine}"
        shutil.rmtree(mine, ignore_errors=True)
        shutil.copytree(model.two_labels, mine)  # the optimum engine writes a graph and another config.json there
        return [
            str(self.install() / "bin" / "infinity_emb"), "v2", "--model-id", str(mine),
            "--served-model-name", SERVED_NAME, "--engine", self.engine, "--device", "cpu", "--dtype", "float32",
            "--no-model-warmup", "--host", "127.0.0.1", "--port", str(port),
        ]  # fmt: skip

    def variables(self) -> dict[str, str]:
        """It reports home unless told not to."""
        return {"INFINITY_ANONYMOUS_USAGE_STATS": "0", "DO_NOT_TRACK": "1"}

    def serves(self, model: ModelFolders) -> bool:
        """The optimum engine needs an ONNX graph of the classifier, which is written for the encoder."""
        return self.engine == "torch" or model.name == "minilm"

    def same_function(self, model: ModelFolders) -> bool:
        """See the module."""
        return model.name != "minilm"

    def calls(self, items: Sequence[Item]) -> list[Call]:
        """One call with all texts; where its tokenizer adds the first and last token, ours are left out."""
        texts = [bare(item.text) for item in items]
        return [Call.of("/classify", {"model": SERVED_NAME, "input": texts, "raw_scores": True})]

    def scores(self, replies: Sequence[Any]) -> list[float]:
        """See `Peer.scores`."""
        found = [{one["label"]: one["score"] for one in classes} for reply in replies for classes in reply["data"]]
        return [float(scores["LABEL_0"]) for scores in found]


def bare(text: str) -> str:
    """A rendered text without the [CLS] and the last [SEP] that a BERT tokenizer adds itself."""
    return text.removeprefix("[CLS]").removesuffix("[SEP]") if text.startswith("[CLS]") else text
