"""How good the rewards are on real human preferences, by published protocols and with the recipes of training/recipes.

    python -m benchmarks.accuracy.run [--quick] [--only convarg|convarg_debates|ethics|responses] [--seeds N]

convarg: which of two arguments is more convincing; 32 debate sides, each held out in turn (Habernal & Gurevych 2016);
the debate's other side is in training, as published, and convarg_debates holds out both. ethics: the more pleasant of
two scenarios (Hendrycks et al. 2021; intervals over rows). responses: hh-harmless, qa-feedback, pandalm and autoj
together, 10 folds grouped by prompt.

Intervals are bootstrapped over what belongs together (debate sides, families of scenarios, prompts) of the mean
over seeds. Needs the public data; ASSAY_DATA names their folder. Folds that are done are kept under build/accuracy.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace

import numpy as np

from benchmarks.accuracy.baselines import bag_of_words, untuned_backbone
from benchmarks.accuracy.cross_validation import Asked, cross_validate
from benchmarks.accuracy.figures import Figures, Mask, Pooled, Strings, figures
from benchmarks.accuracy.folds import FILES, PROTOCOLS, RESPONSES, ethics_apart, ethics_repeated, seen_in_development
from benchmarks.accuracy.percent import percent, points, with_interval
from benchmarks.accuracy.study import optimiser
from benchmarks.result import Result, Row, Target, refuse_uncommitted
from training.data import public_sets
from training.evaluation import metrics
from training.evaluation.disagreement import Disagreement, disagreement
from training.evaluation.metrics import FloatArray
from training.recipes import read_recipe

SEEDS = 3
WELL_CALIBRATED = 0.03
RECIPES = {
    "convarg": "minilm-convarg",
    "convarg_debates": "minilm-convarg",
    "ethics": "mpnet-ethics",
    "responses": "minilm-responses",
}


QUICK_FOLDS = {"convarg": (0, 8, 16, 24), "convarg_debates": (0, 8), "ethics": (0,), "responses": (0,)}
QUICKER = {"ethics": optimiser(epochs=0.2)}
"""Where a whole training would take longer than all else: what is left takes some six minutes on a core, as a fold of
responses does; without bf16 more than twice as long."""


def asked(part: str, seeds: int, quick: bool) -> Asked:
    """What a part trains and tests; quickly, a few folds."""
    recipe = read_recipe(RECIPES[part])
    if quick and part in QUICKER:
        recipe = QUICKER[part].of(recipe)
    return Asked(part, recipe, range(seeds), QUICK_FOLDS[part] if quick else None)


def convarg(pooled: Pooled, quick: bool) -> Result:
    """The published protocol."""
    every = figures(pooled)
    unseen = figures(pooled.select(~np.isin(pooled.record, sorted(seen_in_development()))))
    assert every.matched is not None
    assert every.matched_rule is not None
    by_seed = _seeds(every)
    targets = [
        Target(
            "convarg strict, each debate side held out: mean accuracy of the folds",
            "at least 83 % (SVM 78, BiLSTM 76, GPPL about 81)",
            f"{percent(every.accuracy_by_fold)}; over pairs {with_interval(every.accuracy)}, {by_seed}; length rule "
            f"{percent(every.length_rule.value)}",
            every.accuracy_by_fold >= 0.83,
        ),
        Target(
            "convarg strict, each debate side held out, pairs of similar length", "at least 70 %",
            f"{with_interval(every.matched)}; length rule {percent(every.matched_rule.value)}",
            every.matched.value >= 0.70,
        ),
        _calibrated("convarg strict, each debate side held out", every),
    ]  # fmt: skip
    rows = [
        Row("convarg strict, debates that no recipe was chosen with", f"{with_interval(unseen.accuracy)}"),
        Row("convarg strict, better than the length rule by", points(every.above_rule)),
        *_disagreement("convarg strict", pooled),
    ]
    return _result("convarg", quick, targets, {"all": every, "debates not in the study": unseen}, rows, pooled)


def convarg_debates(pooled: Pooled, quick: bool) -> Result:
    """Nothing of a debate is known."""
    every = figures(pooled)
    target = Target(
        "convarg strict, each whole debate held out",
        "the interval of the paired difference to the length rule above 0",
        f"{with_interval(every.accuracy)}, {_seeds(every)}; length rule {percent(every.length_rule.value)}; "
        f"{points(every.above_rule)}",
        every.above_rule.low > 0,
    )
    return _result("convarg_debates", quick, [target], {"all": every}, [], pooled)


def ethics(pooled: Pooled, quick: bool) -> Result:
    """The published test, and what is left of it without sentences that training has."""
    # Rows linked by a sentence are one family for over half of the test, which cannot be drawn: each row for itself.
    pooled = replace(pooled, cluster=np.arange(len(pooled.record)))
    every = figures(pooled)
    slices = {name: figures(pooled.select(mask)) for name, mask in ethics_slices(pooled.record).items()}
    rows = [
        Row(f"ETHICS utilitarianism, test, {name}, {part.pairs} rows", with_interval(part.accuracy))
        for name, part in slices.items()
    ]
    rows += _disagreement("ETHICS utilitarianism, test", pooled)
    return _result("ethics", quick, ethics_targets(every, slices[FRESH]), {"all": every, **slices}, rows, pooled)


FRESH = "without sentences of training"
"""A slice of the ETHICS test, whose figure is published beside the whole."""


def ethics_slices(records: Strings) -> dict[str, Mask]:
    """Rows of the test by what they have in common with training, and with each other."""
    repeated, apart = (np.isin(records, sorted(rows)) for rows in (ethics_repeated(), ethics_apart()))
    return {
        FRESH: ~repeated,
        "scenarios with less than a fifth of their words in common": apart,
        "scenarios with more in common": ~apart,
    }


def ethics_targets(found: Figures, fresh: Figures, of: str = "") -> list[Target]:
    """What the test, and its slice `FRESH`, are held against; `of` says of which models."""
    return [
        Target(
            f"ETHICS utilitarianism, test{of}", "above BERT-large, 74.6 % (BERT-base 73.4, RoBERTa-large 79.5)",
            f"{with_interval(found.accuracy)}, {_seeds(found)}; without the {found.pairs - fresh.pairs} rows that "
            f"share a sentence with training {with_interval(fresh.accuracy)}",
            found.accuracy.value > 0.746,
        ),
        _calibrated(f"ETHICS utilitarianism, test{of}", found),
    ]  # fmt: skip


def responses(pooled: Pooled, quick: bool) -> Result:
    """Each source beside the best of three baselines."""
    every_fold = PROTOCOLS["responses"](0)
    folds = [every_fold[number] for number in QUICK_FOLDS["responses"]] if quick else every_fold
    baselines = {
        "length rule": metrics.length_margin(*pooled.lengths.T),
        "bag of words": bag_of_words(folds),
        "untuned backbone": untuned_backbone(folds, read_recipe(RECIPES["responses"])),
    }
    targets, rows, found = [], [], {"all": figures(pooled)}
    for source in RESPONSES:
        mask = pooled.source == source
        part = pooled.select(mask)
        found[source] = figures(part)
        theirs = {name: metrics.correct(margin[mask], part.preference) for name, margin in baselines.items()}
        best = max(theirs, key=lambda name: float(theirs[name].mean()))
        gain = part.interval(part.right - theirs[best])
        targets += [
            Target(
                f"{source}, held-out prompts", "above the best of three baselines, with the interval of the difference",
                f"{with_interval(found[source].accuracy)}, {_seeds(found[source])}; {best} "
                f"{percent(float(theirs[best].mean()))}; {points(gain)}",
                gain.low > 0,
            ),
            _calibrated(f"{source}, held-out prompts", found[source]),
        ]  # fmt: skip
        shown = ", ".join(f"{name} {percent(float(right.mean()))}" for name, right in theirs.items())
        rows.append(Row(f"{source}, {len(part.right)} pairs: baselines", shown))
    unseen = figures(pooled.select(pooled.fold == 0))
    rows.append(Row("LLM responses, the one fold that no recipe was chosen with", with_interval(unseen.accuracy)))
    rows += _disagreement("LLM responses", pooled)
    return _result("responses", quick, targets, found, rows, pooled)


def _calibrated(name: str, found: Figures) -> Target:
    low, high = min(found.ece_by_seed), max(found.ece_by_seed)
    figure = f"{found.ece:.3f} (seeds {low:.3f} to {high:.3f})"
    return Target(f"{name}: calibration error", f"at most {WELL_CALIBRATED}", figure, found.ece <= WELL_CALIBRATED)


def _seeds(found: Figures) -> str:
    each = found.accuracy_by_seed
    return f"{len(each)} seeds {percent(min(each))} to {percent(max(each))}" if len(each) > 1 else "1 seed"


def _disagreement(name: str, pooled: Pooled) -> list[Row]:
    """Error by fifths of the members' deviation, of the first seed."""
    if pooled.margins.shape[2] == 1:
        return []
    found = _of_members(pooled)
    errors = ", ".join(percent(group.error.value) for group in found.groups)
    return [
        # Heads on one trunk grow together: where the margin is large, so is their deviation, and errors are few.
        Row(f"{name}: errors by fifths of the members' deviation, the least first", errors),
        Row(
            f"{name}: more errors where the members disagree more than the median, at equal margin",
            points(found.at_equal_margin).removeprefix("paired difference "),
        ),
    ]


def _of_members(pooled: Pooled) -> Disagreement:
    right: FloatArray = metrics.correct(pooled.margin[0], pooled.preference)
    return disagreement(pooled.margins[0], right, pooled.cluster)


def _result(
    part: str, quick: bool, targets: list[Target], found: dict[str, Figures], rows: list[Row], pooled: Pooled
) -> Result:
    trained = asked(part, len(pooled.margins), quick).recipe
    content = {
        "recipe": {"name": RECIPES[part], **trained.model_dump(mode="json", exclude_unset=True)},
        "seeds": len(pooled.margins),
        **{name: asdict(value) for name, value in found.items()},
    }
    if pooled.margins.shape[2] > 1:
        content["disagreement"] = asdict(_of_members(pooled))
    return Result(f"accuracy_{part}", quick, 0, targets, content, rows)


PARTS: dict[str, Callable[[Pooled, bool], Result]] = {
    "responses": responses,
    "ethics": ethics,
    "convarg": convarg,
    "convarg_debates": convarg_debates,
}
"""Those with the longest folds first, so that no core waits for them in the end."""


def run(parts: Sequence[str], seeds: int, quick: bool) -> Iterator[Result]:
    """Some of `PARTS`; quickly, all of their folds are trained side by side before the first result.

    Raises:
        FileNotFoundError: the public data are not there.
    """
    folder = public_sets.data_folder()
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise FileNotFoundError(
            f"{folder}: {', '.join(missing)}: the public preference data are not there; set ASSAY_DATA to their folder"
        )
    for together in [parts] if quick else [[part] for part in parts]:
        trained = cross_validate(*(asked(part, seeds, quick) for part in together))
        for part, runs in zip(together, trained, strict=True):
            yield PARTS[part](Pooled.of(runs), quick)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, a few folds")
    parser.add_argument("--only", choices=PARTS, help="one part alone")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"how many; default {SEEDS}")
    arguments = parser.parse_args()
    refuse_uncommitted(arguments.quick)
    try:
        parts = [arguments.only] if arguments.only else list(PARTS)
        for result in run(parts, 1 if arguments.quick else arguments.seeds, arguments.quick):
            result.publish()
    except FileNotFoundError as error:
        sys.exit(str(error))
