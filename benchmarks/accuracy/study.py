"""Choose recipes: variants of one, side by side on data that no figure of a protocol comes from.

    python -m benchmarks.accuracy.study STUDY [--variants NAME ...] [--seeds N]

A study has the name of a recipe of training/recipes/, or of what it asks of one. Each variant changes a setting or two
and trains on the development folds of its data (`benchmarks.accuracy.folds`), which lie within training data; the
result is a table of all, best first.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.accuracy.cross_validation import Asked, cross_validate
from benchmarks.accuracy.figures import Figures, Pooled, figures
from benchmarks.result import Result, Row, refuse_uncommitted
from training.config import TrainingConfig
from training.recipes import read_recipe


@dataclass(frozen=True)
class Variant:
    """What is changed of a recipe: settings by section and name, or the labels."""

    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    hard_labels: bool = False

    def of(self, recipe: TrainingConfig) -> TrainingConfig:
        """The recipe with the changes."""
        content = recipe.model_dump(exclude_unset=True)
        for section, settings in self.settings.items():
            content[section] = {**content.get(section, {}), **settings}
        return TrainingConfig.model_validate(content)


def optimiser(**settings: Any) -> Variant:
    """Changes of the optimiser alone."""
    return Variant({"optimiser": settings})


def model(**settings: Any) -> Variant:
    """Changes of the model alone."""
    return Variant({"model": settings})


def loss(**settings: Any) -> Variant:
    """Changes of the loss alone."""
    return Variant({"loss": settings})


RATES = {f"learning rate {rate:g}": optimiser(learning_rate=rate) for rate in (2e-5, 3e-5, 5e-5, 1e-4, 2e-4)}
LABELS = {
    "hard labels, no ties": Variant(hard_labels=True),
    "ties by Rao and Kupper": loss(kind="rao-kupper"),
    "ties by Davidson": loss(kind="davidson"),
    "votes weighed by reliability (Dawid-Skene)": Variant({"data": {"annotators": "dawid-skene"}}),
}


@dataclass(frozen=True)
class Study:
    """Variants of a recipe beside it.

    Attributes:
        recipe: its name.
        protocol: the folds that decide, of `benchmarks.accuracy.folds.PROTOCOLS`.
        variants: what is tried, by what it is called.
        of_length: whether the question is what scores know of length, and the lines say it.
    """

    recipe: str
    protocol: str
    variants: Mapping[str, Variant]
    of_length: bool = False


STUDIES = {
    "minilm-convarg": Study(
        "minilm-convarg",
        "convarg_development",
        {
            **RATES,
            **{f"epochs {epochs}": optimiser(epochs=epochs) for epochs in (2, 8)},
            "elements of 40 responses": optimiser(max_responses=40),
            "elements of 8 responses": optimiser(max_responses=8),
            "2 elements of 8 responses a step": optimiser(max_responses=8, batch_elements=2),
            "pooled at the first token": model(pooling="first"),
            **{f"frozen layers {count}": model(frozen_layers=count) for count in (0, 2, 3, 4)},
            "all layers learn": model(frozen_layers=None),
            "one head": model(ensemble=1),
            "label smoothing 0.05": loss(label_smoothing=0.05),
            **LABELS,
        },
    ),
    "convarg-length": Study(
        "minilm-convarg",
        "convarg_development",
        {"length residual": loss(length_residual=True)},
        of_length=True,
    ),
    "mpnet-ethics": Study(
        "mpnet-ethics",
        "ethics_development",
        {
            **RATES,
            "epochs 2": optimiser(epochs=2),
            "32 pairs a step": optimiser(batch_elements=32),
            "frozen layers 10": model(frozen_layers=10),
            "ensemble of 5": model(ensemble=5),
        },
    ),
    "minilm-responses": Study(
        "minilm-responses",
        "responses_development",
        {
            **RATES,
            "epochs 4": optimiser(epochs=4),
            "frozen layers 3": model(frozen_layers=3),
            "frozen layers 3, learning rate 0.0001": Variant(
                {"model": {"frozen_layers": 3}, "optimiser": {"learning_rate": 1e-4}}
            ),
            "ensemble of 5": model(ensemble=5),
        },
    ),
    "responses-tokens": Study(
        "minilm-responses",
        "responses_development",
        {
            "256 tokens, epochs 2": Variant({"model": {"max_tokens": 256}, "optimiser": {"epochs": 2}}),
            "256 tokens, epochs 1": Variant({"model": {"max_tokens": 256}, "optimiser": {"epochs": 1}}),
            "512 tokens, epochs 1": Variant({"model": {"max_tokens": 512}, "optimiser": {"epochs": 1}}),
        },
    ),
}


def study(name: str, only: Sequence[str] | None, seeds: int, quick: bool) -> Result:
    """All variants of a recipe beside the recipe itself; all are trained before the first is told."""
    asked = STUDIES[name]
    recipe, variants = read_recipe(asked.recipe), asked.variants
    if unknown := set(only or ()) - set(variants):
        raise ValueError(f"{', '.join(sorted(unknown))}: no variant of {name}; they are {', '.join(variants)}")
    tried = {
        "the recipe": Variant(),
        **{key: v for key, v in variants.items() if v.of(recipe) != recipe or v.hard_labels},
    }
    chosen = {key: variant for key, variant in tried.items() if not only or key == "the recipe" or key in only}
    folds = range(1) if quick else None
    trained = cross_validate(
        *(
            Asked(asked.protocol, variant.of(recipe), range(seeds), folds, hard_labels=variant.hard_labels)
            for variant in chosen.values()
        )
    )
    found: dict[str, tuple[Figures, float]] = {}
    for key, runs in zip(chosen, trained, strict=True):
        seconds = sum(fold.seconds for run in runs for fold in run) / len(runs)
        found[key] = figures(Pooled.of(runs)), seconds
    ranked = sorted(found, key=lambda key: -found[key][0].accuracy.value)
    return Result(
        f"study_{name.replace('-', '_')}",
        quick,
        0,
        [],
        {
            "recipe": recipe.model_dump(mode="json", exclude_unset=True),
            "protocol": asked.protocol,
            "seeds": seeds,
            "variants": {
                key: {
                    "changes": {**tried[key].settings, "hard_labels": tried[key].hard_labels},
                    "figures": asdict(found[key][0]),
                    "seconds": found[key][1],
                }
                for key in ranked
            },
        },
        [Row(f"study of {name}: {key}", _line(*found[key], asked.of_length)) for key in ranked],
    )


def _line(found: Figures, seconds: float, of_length: bool) -> str:
    alike = "" if found.matched is None else f", {100 * found.matched.value:.1f} % at similar length"
    low, high = min(found.accuracy_by_seed), max(found.accuracy_by_seed)
    return (
        f"{100 * found.accuracy.value:.1f} % (seeds {100 * low:.1f} to {100 * high:.1f}){alike}, "
        f"log loss {found.log_loss:.3f}, " + (_of_length(found) if of_length else f"{seconds:.0f} s")
    )


def _of_length(found: Figures) -> str:
    rest = "" if found.without_length is None else f", {100 * found.without_length.value:.1f} % without its trend"
    return f"rank correlation with length {found.length_correlation:.2f}{rest}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--variants", nargs="+", help="these alone, beside the recipe")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one fold")
    flags = parser.parse_args()
    refuse_uncommitted(flags.quick)
    study(flags.study, flags.variants, flags.seeds, flags.quick).publish()
