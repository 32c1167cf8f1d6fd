"""Where a run's bundle goes, looked at before the hours of training that lead to it."""

import os
from pathlib import Path

from pydantic import ValidationError

from service.bundle.manifest import MANIFEST_NAME, Manifest, Provenance
from training.config import TrainingConfig
from training.run_folder import BEGUN, CHECKPOINTS, RESULTS, TENSORBOARD, read_begun


def destination_of(config: TrainingConfig, trained: TrainingConfig) -> Path:
    """The bundle's folder: as the command says, else as the run began with."""
    return config.bundle if "bundle" in config.model_fields_set else trained.bundle


def refuse_destination(config: TrainingConfig) -> None:
    """Refuse a place for the bundle that export could not write to, or replace, afterwards.

    Raises:
        ValueError: it is there and neither a bundle nor an empty folder; it is the run's own, or above it; or no
            folder can be made there. Or see `refuse_another`.
    """
    bundle = destination_of(config, read_begun(config.run).configuration if config.resume else config)
    if not config.resume:
        refuse_another(config, bundle, None)
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


def refuse_another(config: TrainingConfig, bundle: Path, provenance: Provenance | None) -> None:
    """Refuse to replace the bundle of another training in the place where all go that name none.

    Args:
        config: of the command.
        bundle: where the bundle is to go.
        provenance: of the model that it is made of; none before it is trained.

    Raises:
        ValueError: there is one, and it was not said that it is to be replaced.
    """
    path = bundle / MANIFEST_NAME
    if bundle != TrainingConfig().bundle or "bundle" in config.model_fields_set or config.overwrite:
        return
    if path.is_file() and (provenance is None or _provenance(path) != provenance):
        raise ValueError(
            f"{bundle} holds the bundle of another training, and this command names no place; name one with --bundle, "
            "or this one, to replace it"
        )


def _provenance(path: Path) -> Provenance | None:
    """None of a manifest that cannot be read."""
    try:
        return Manifest.model_validate_json(path.read_bytes()).provenance
    except (OSError, ValidationError):
        return None
