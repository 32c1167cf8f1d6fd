"""A model that was trained here, as the backbone of another training."""

from pathlib import Path

from training.attention import UnsupportedBackboneError
from training.backbone import Backbone, Source, load_backbone, max_positions
from training.checkpoint import checkpoint_in, load_checkpoint
from training.pretrained_head import PretrainedHead


def load_start(name: str, with_head: bool = False) -> Backbone:
    """The backbone that a training begins with: that of an earlier run, by its folder, or a pretrained one.

    Args:
        name: folder of a run, or of its `model`; else see `training.backbone.load_backbone`.
        with_head: its head is kept, too.

    Raises:
        CheckpointError: the run's model is damaged.
        UnsupportedBackboneError: a head is to be kept, and it has several; or see `load_backbone`.
        OSError: see `load_backbone`.
    """
    folder = checkpoint_in(Path(name))
    if folder is None:
        return load_backbone(name, with_head)
    checkpoint = load_checkpoint(folder)
    model, description = checkpoint.model, checkpoint.description
    if with_head and description.heads.kind != "single":
        raise UnsupportedBackboneError(
            f"model.head is pretrained, and the model of {name!r} has {len(description.heads.weights)} heads; "
            "with model.head new its backbone is trained on"
        )
    return Backbone(
        model=model.backbone,
        tokenizer=checkpoint.formatter.tokenizer,
        text_format=description.text_format,
        template=checkpoint.formatter.template,
        family=description.family,
        max_positions=max_positions(model.backbone),
        source=Source(str(folder), description.base_model, description.licence),
        head=PretrainedHead(model.on_top.state_dict(), description.transform, scored=()) if with_head else None,
        pooling=description.pooling if with_head else None,
        provenance=description.provenance,
    )
