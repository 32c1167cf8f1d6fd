"""The model, its format and the rounds of work that a benchmark drives."""

from dataclasses import dataclass

from benchmarks.serving.models import ModelFolders, ensure_model
from benchmarks.serving.rendering import Item, Renderer, real_singles
from benchmarks.serving.workloads import WORKLOADS, Texts
from service.bundle.reader import read_bundle
from training.data import public_sets

Round = list[list[Item]]
"""The requests of one round, each as its items."""


@dataclass(frozen=True)
class Work:
    """Attributes: the raced model's folders, its format, and texts that fit it."""

    model: ModelFolders
    renderer: Renderer
    texts: Texts

    @classmethod
    def of(cls, model_name: str) -> "Work":
        """The model is written if it is not there.

        Raises:
            SystemExit: the public data are not there.
        """
        folder = public_sets.data_folder()
        if not folder.is_dir():
            raise SystemExit(f"the texts come from the public data, and {folder} is not there (set ASSAY_DATA)")
        model = ensure_model(model_name)
        renderer = Renderer(read_bundle(model.bundle))
        return cls(model, renderer, renderer.texts(real_singles(folder)))

    def rounds(self, workload: str, seed: int, rounds: int, quick: bool) -> list[Round]:
        """Fresh requests for each round."""
        built = WORKLOADS[workload].build(self.texts, seed, rounds, quick)
        return [[self.renderer.items(request) for request in requests] for requests in built]
