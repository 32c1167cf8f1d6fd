"""Where a run's bundle goes, looked at before the hours of training that lead to it."""

import os
from pathlib import Path

from service.bundle.manifest import MANIFEST_NAME
from training.config import TrainingConfig
from training.run_folder import BEGUN, CHECKPOINTS, RESULTS, TENSORBOARD, read_begun


def destination_of(config: TrainingConfig, trained: TrainingConfig) -> Path:
    """The bundle's folder: as the command says, else as the run began with."""
    return config.bundle if "bundle" in config.model_fields_set else trained.bundle


def refuse_destination(config: TrainingConfig) -> None:
    """Refuse a place for the bundle that export could not write to, or replace, afterwards.

    Raises:
        ValueError: it is there and neither a bundle nor an empty folder; it is the run's own, or above it; or no
            folder can be made there.
    """
    bundle = destination_of(config, read_begun(config.run).configuration if config.resume else config)
    free = not os.path.lexists(bundle)
    if not free and bundle.is_dir() and not bundle.is_symlink():
        free = (bundle / MANIFEST_NAME).is_file() or not any(bundle.iterdir())
    if not free:
        raise ValueError(f"--bundle {bundle}: is there and is not a bundle; move it away or name another folder")
    place, run = bundle.resolve(), config.run.resolve()
    if place == run or place in run.parents:
        raise ValueError(f"--bundle {bundle}: the run's folder {config.run} is there or below; name another folder")
    for name in (BEGUN, CHECKPOINTS, TENSORBOARD, *RESULTS):
        if place == run / name or run / name in place.parents:
            raise ValueError(
                f"--bundle {bundle}: {config.run / name} is the run's own, which every fit replaces; name another"
            )
    above = next(folder for folder in place.parents if os.path.lexists(folder))
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ValueError(f"--bundle {bundle}: no folder can be made in {above}; name another folder")
