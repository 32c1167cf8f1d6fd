"""What the weights of a model have learnt from, as far as that is still there."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

from service.bundle.manifest import Provenance
from training.config import DataConfig
from training.data import PreferenceRecord, Splits
from training.data.errors import DataError
from training.data.leakage import shared_with
from training.prepare import prepare_data
from training.run_folder import recorded_configuration

logger = logging.getLogger("assay.training")


@dataclass(frozen=True)
class Learnt:
    """The records that weights come from, and what is not known of them.

    Attributes:
        trained: what they have learnt from.
        chosen_by: what chose among their states, and calibrated them.
        unknown: for each training whose records are not there as they were, the reason.
        elsewhere: whether they begin with a reward model of elsewhere, of which nobody knows what it has learnt from.
    """

    trained: list[PreferenceRecord] = field(default_factory=list)
    chosen_by: list[PreferenceRecord] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    elsewhere: bool = False


def learnt_by(provenance: Provenance, model: Path) -> Learnt:
    """The records of a model's training, and of the runs that it began with.

    Args:
        provenance: of the model.
        model: its folder, for messages.
    """
    learnt = Learnt(elsewhere=began_elsewhere(provenance, model))
    training: Provenance | None = provenance
    while training is not None:
        config = recorded_configuration(model, training.configuration)
        try:
            splits = _of_one(config.data, training.data_sha256)
        except (DataError, OSError) as error:
            learnt.unknown.append(str(error))
        else:
            if config.optimiser.epochs:  # a model that was only imported has learnt nothing here
                learnt.trained.extend(splits.train)
            learnt.chosen_by.extend(splits.validation)
        training = training.began_with
    return learnt


def began_elsewhere(provenance: Provenance, model: Path) -> bool:
    """Whether the first of a model's trainings began with a reward model that was not trained here."""
    while provenance.began_with is not None:
        provenance = provenance.began_with
    return recorded_configuration(model, provenance.configuration).model.head == "pretrained"


def refuse_learnt(splits: Splits, earlier: Provenance, model: Path, config: DataConfig) -> None:
    """Refuse held-out prompts that an earlier run has learnt from, whose weights a training begins with.

    Raises:
        DataError: there are such, and `config.on_leakage` is not to report them only.
    """
    learnt = learnt_by(earlier, model)
    for reason in learnt.unknown:
        logger.warning("whether %s has learnt from what is held out here is not known: %s", model, reason)
    shared = list(filter(shared_with(learnt.trained, of_one_run=False), splits.validation))
    shared += filter(shared_with([*learnt.trained, *learnt.chosen_by], of_one_run=False), splits.test)
    if not shared:
        return
    count = len(splits.validation) + len(splits.test)
    said = f"{model} has learnt from {len(shared)} of the {count} prompts that are held out here"
    if config.on_leakage != "report":
        raise DataError(
            f"{said}, such as {shared[0].id!r}; hold out the same as it did (data.seed and the fractions), name "
            "other data for validation and test, or set data.on_leakage to report"
        )
    logger.warning("%s: figures on them are too good", said)


def _of_one(config: DataConfig, data_sha256: str) -> Splits:
    if config.store is not None:
        raise DataError(f"its data lie in {config.store} and are too many to be read for this")
    data = prepare_data(config)
    if data.sha256 != data_sha256:
        raise DataError(f"{', '.join(config.train)}: the data have changed since")
    return data.splits
