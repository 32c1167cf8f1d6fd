"""The commands that take folders and files, where the others take the settings of a training.

Each reads its arguments before it loads torch, so that help and mistakes come at once.
"""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pydantic import BaseModel

_Model = TypeVar("_Model", bound="BaseModel")


def inspect(arguments: Sequence[str]) -> int:
    """Say what a bundle is."""
    parser = argparse.ArgumentParser(prog="assay-train inspect", description="Check a bundle and say what it is.")
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    folder = parser.parse_args(arguments).bundle

    from service.bundle.reader import read_bundle
    from training.inspection import describe

    print(describe(read_bundle(folder)))
    return 0


def average(arguments: Sequence[str]) -> int:
    """Make one run of the mean of several."""
    parser = argparse.ArgumentParser(
        prog="assay-train average",
        description="The mean of the weights of several runs, as one model, as fast as one of them "
        "(WARM); compare it with each. They must have the same backbone, data and settings of data, and may differ in "
        "optimiser.seed, rates, losses and the like. The result is a run to be evaluated and exported.",
    )
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs that were fitted")
    parser.add_argument("--run", type=Path, required=True, help="folder of the run to be made")
    parser.add_argument("--bundle", type=Path, default=Path("bundles/default"), help="where export will write it")
    parser.add_argument("--name", help="of the model; default: that of the first run")
    parser.add_argument("--overwrite", action="store_true", help="replace the run that --run holds")
    flags = parser.parse_args(arguments)

    from training.config import TrainingConfig

    _checked(parser, TrainingConfig, {} if flags.name is None else {"name": flags.name})

    from training.trained_runs import average_runs

    average_runs(flags.runs, flags.run, flags.bundle, flags.name, overwrite=flags.overwrite)
    print(f"{flags.run}: the mean of {len(flags.runs)} runs; measure it with `assay-train evaluate --run {flags.run}`")
    return 0


def test(arguments: Sequence[str]) -> int:
    """Measure a run on other data than its own."""
    parser = argparse.ArgumentParser(
        prog="assay-train test",
        description="Score a trained model on preference data that its run does not know, by the temperature of the "
        "run: the same report as `evaluate` writes, and what the data share with those it was trained on. Two such "
        "folders can be put side by side with `assay-train compare`.",
    )
    parser.add_argument("run", type=Path, help="folder of a run that was evaluated")
    parser.add_argument(
        "data",
        nargs="+",
        help="files or folders of preference data, or hf:NAME[:SPLIT][?...]",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the report; default: RUN/tests/NAME-OF-FILE")
    parser.add_argument("--format", default="auto", help="how rows are written; auto looks at the columns")
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        type=_renaming,
        metavar="NAME=THEIRS",
        help="what the rows call a column of the format, as in chosen=response_j; again for the next",
    )
    parser.add_argument("--skip-bad-rows", action="store_true", help="count rows that cannot be read, and go on")
    parser.add_argument("--no-progress", action="store_true", help="no progress bars")
    flags = parser.parse_args(arguments)

    from training.config import DataConfig

    read = {
        "test": tuple(flags.data),
        "format": flags.format,
        "columns": dict(flags.column),
        "on_bad_row": "skip" if flags.skip_bad_rows else "error",
    }
    settings = _checked(parser, DataConfig, read)

    from training.processes import limit_threads
    from training.run_folder import TESTS
    from training.trained_runs import measure_on_new_data

    limit_threads()
    folder = flags.out or flags.run / TESTS / _name_of(flags.data)
    measure_on_new_data(flags.run, settings, folder, not flags.no_progress)
    print((folder / "summary.md").read_text(encoding="utf-8"))
    print(f"The whole report: {folder / 'report.html'}")
    return 0


def _checked(parser: argparse.ArgumentParser, kind: type[_Model], given: Mapping[str, Any]) -> _Model:
    """Flags as settings of the same names; ends the command at the first that cannot be."""
    from pydantic import ValidationError

    from training.error_text import first_complaint

    try:
        return kind.model_validate(given)
    except ValidationError as error:
        parser.error(f"--{first_complaint(error)}")


def _renaming(flag: str) -> tuple[str, str]:
    name, _, theirs = flag.partition("=")
    if not (name and theirs):
        raise argparse.ArgumentTypeError(f"{flag!r} is not NAME=THEIRS")
    return name, theirs


def _name_of(sources: Sequence[str]) -> str:
    """A name for a folder: those of the files without their kind, or of data sets."""
    from training.data.readers.folder import without_kind

    paths = [Path(source) for source in sources]
    names = [
        without_kind(path.resolve()) if path.exists() else source for path, source in zip(paths, sources, strict=True)
    ]
    return re.sub(r"[^\w.-]+", "-", "+".join(names)).strip("-")[:100]


def compare(arguments: Sequence[str]) -> int:
    """Put two evaluated runs side by side."""
    parser = argparse.ArgumentParser(
        prog="assay-train compare",
        description="Compare two evaluated runs on the pairs that both have scored: accuracy side by side, the paired "
        "difference with an interval over prompts, a permutation test, all of it by source too.",
    )
    parser.add_argument("a", type=Path, help="folder of a run that was evaluated")
    parser.add_argument("b", type=Path, help="folder of another, tested on the same data")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    flags = parser.parse_args(arguments)

    from training.evaluation.compare import compare
    from training.evaluation.comparison_text import comparison_text
    from training.evaluation.pair_table import read_test
    from training.run_folder import write

    (rows_a, temperature_a), (rows_b, temperature_b) = read_test(flags.a), read_test(flags.b)
    comparison = compare(rows_a, rows_b, temperature_a, temperature_b)
    print(comparison_text(str(flags.a), str(flags.b), comparison))
    if flags.json is not None:
        write(flags.json, comparison.as_json())
    return 0


def rewardbench(arguments: Sequence[str]) -> int:
    """Score a run on a benchmark of reward models."""
    parser = argparse.ArgumentParser(
        prog="assay-train rewardbench",
        description="Score a trained model by the rules of RewardBench, RewardBench 2 or RM-Bench, whichever the "
        "columns of the file show.",
    )
    parser.add_argument("run", type=Path, help="folder of a run that was fitted")
    parser.add_argument(
        "file",
        help=".jsonl, .json, .csv, .parquet, a folder of these, or hf:NAME[:SPLIT][?...]",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")
    flags = parser.parse_args(arguments)

    from dataclasses import asdict, replace

    from training.evaluation.reward_benchmarks.tasks import read_tasks

    kind, tasks = read_tasks(flags.file)  # before torch is loaded: a wrong file is said at once

    from training.checkpoint import load_checkpoint
    from training.evaluation.reward_benchmarks.results import result_of
    from training.evaluation.reward_benchmarks.summary import benchmark_summary
    from training.evaluation.reward_benchmarks.tasks import score_tasks
    from training.run_folder import write
    from training.scoring import move_to_accelerator
    from training.text_scorer import TextScorer

    checkpoint = load_checkpoint(flags.run / "model")
    move_to_accelerator(checkpoint.model)
    scored, cut = score_tasks(tasks, TextScorer(checkpoint, not flags.no_progress))
    result = replace(result_of(kind, scored), cut=cut)
    print(benchmark_summary(checkpoint.description.name, result))
    if flags.json is not None:
        write(flags.json, asdict(result))
    return 0


COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "average": average,
    "test": test,
    "compare": compare,
    "rewardbench": rewardbench,
    "inspect": inspect,
}
"""By name; each returns the exit status."""
