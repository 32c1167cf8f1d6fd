"""assay-train: from preferences to a reward model and its bundle, and what can be asked of both."""

import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Sequence

from training.commands import COMMANDS

_COMMANDS = ("fit", "evaluate", "export", "run", "import", *COMMANDS, "ppo", "grpo")

_USAGE = """usage: assay-train COMMAND [--config FILE.toml] [flags]

Turn human preferences into a reward model that assay-serve can serve.

commands:
  fit          train on preference data; leaves weights and checkpoints in the run's folder
  evaluate     score the held-out prompts; report.html has accuracy, calibration, biases, probes and mistakes
  export       write the bundle: ONNX graph, proof that it matches the weights, report, manifest
  run          fit, evaluate and export
  import       the same for a reward model that was trained elsewhere, left as it came:  assay-train import MODEL
  average      the mean of the weights of runs that differ in their seed (WARM); evaluate and export it like a run:
               assay-train average runs/a runs/b runs/c --run runs/mean
  test         an evaluated run on other data than its own:  assay-train test runs/mine new.jsonl
  compare      two evaluated runs on the same pairs, with a paired test:  assay-train compare runs/a runs/b
  rewardbench  a run on a file of RewardBench, RewardBench 2 or RM-Bench:  assay-train rewardbench runs/a FILE
  inspect      check a bundle and say what it is:  assay-train inspect bundles/default
  ppo, grpo    let a language model learn from the scores of a running server (needs the extra `feedback`)

Every setting is a flag, and a TOML key of the same name with _ for -; flags win over the file.
  assay-train run --data.train my.jsonl --run runs/mine --bundle bundles/mine
  assay-train ppo --reward.url http://127.0.0.1:8000 --prompts.train my.jsonl --run runs/policy
  assay-train fit --help    lists all settings of a command with their defaults and meanings
"""


def main() -> int:
    """Run one command; 0 on success, 2 on a wrong call, 1 with one clear line on anything expected to fail."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if arguments else 2
    command, rest = arguments[0], arguments[1:]
    if command not in _COMMANDS:
        return _fail(2, f"unknown command {command!r}; one of {', '.join(_COMMANDS)}")
    # Our own progress, and of the libraries only what is wrong.
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    # One of several processes that train together speaks for all.
    logging.getLogger("assay").setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        if command in COMMANDS:
            return COMMANDS[command](rest)
        return _learn(command, rest) if command in ("ppo", "grpo") else _train(command, rest)
    except KeyboardInterrupt:
        return _fail(130, "interrupted")
    # Whatever is expected to go wrong (settings, data, checkpoints, bundles, files, a missing extra, a loss that
    # is not finite) is one of these and explains itself. Anything else is a defect and keeps its traceback.
    except (ValueError, OSError, ImportError, FloatingPointError, OverflowError) as error:
        return _fail(1, str(error))


def _train(command: str, arguments: Sequence[str]) -> int:
    from training.config import TrainingConfig
    from training.importing import import_configuration
    from training.settings import ConfigurationError, load_configuration

    try:
        config = (
            import_configuration(arguments)
            if command == "import"
            else load_configuration(command, arguments, TrainingConfig)
        )
    except ConfigurationError as error:
        return _fail(2, str(error))

    if command in ("evaluate", "export") and (found := [n for n in ("resume", "overwrite") if getattr(config, n)]):
        return _fail(2, f"{found[0]} is of fit and run, and {command} has nothing to do with it; leave it out")

    # Only here, so that --help and a misspelt setting do not wait for torch.
    from training.destination import refuse_destination
    from training.pipeline import run_evaluate, run_export, run_fit
    from training.processes import is_main, limit_threads
    from training.run_folder import resumable

    limit_threads()
    if command in ("run", "import"):
        refuse_destination(config)
    if command in ("fit", "run", "import"):
        try:
            run_fit(config)
        except KeyboardInterrupt:
            if not resumable(config.run):
                raise
            way_on = f"`assay-train {command} --run {config.run} --resume` goes on from the last checkpoint"
            return _fail(130, f"interrupted; {way_on}")
    if not is_main():
        return 0
    if command in ("evaluate", "run", "import"):
        run_evaluate(config)
        print((config.run / "summary.md").read_text(encoding="utf-8"))
        print(f"The whole report: {config.run / 'report.html'}")
    if command in ("export", "run", "import"):
        bundle = run_export(config)
        print(f"{bundle.folder} {bundle.digest}")
    return 0


def _learn(command: str, arguments: Sequence[str]) -> int:
    from training.feedback.config import GrpoConfig, PpoConfig
    from training.settings import ConfigurationError, load_configuration

    try:
        config: PpoConfig | GrpoConfig = (
            load_configuration(command, arguments, PpoConfig)
            if command == "ppo"
            else load_configuration(command, arguments, GrpoConfig)
        )
    except ConfigurationError as error:
        return _fail(2, str(error))
    _require_feedback()

    from assay_client import AssayError
    from training.feedback.workers import WorkerError
    from training.processes import limit_threads

    limit_threads()
    try:
        if isinstance(config, PpoConfig):
            from training.feedback.ppo import run_ppo

            print(run_ppo(config))
        else:
            from training.feedback.grpo import run_grpo

            print(run_grpo(config))
    except (AssayError, WorkerError) as error:
        return _fail(1, str(error))
    return 0


def _require_feedback() -> None:
    missing = [name for name in ("peft", "trl", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"{', '.join(missing)}: not installed; pip install 'assay[feedback]'")


def _fail(status: int, message: str) -> int:
    """One line on standard error, whatever the message."""
    print(f"assay-train: {' '.join(message.split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
