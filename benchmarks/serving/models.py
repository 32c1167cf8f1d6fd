"""The raced weights, written once in every form that a server wants.

    build/serving/MODEL/bundle/        what Assay serves
    build/serving/MODEL/classifier/    transformers' sequence classification, one label, raw scores
    build/serving/MODEL/two_labels/    the same with a second label, for Infinity, which classifies with two or more
    build/serving/MODEL/plain/         transformers' backbone, and the head in `head.safetensors`

The head is drawn under a seed with a standard deviation of `HEAD_STD`, which spreads scores to about one.
"""

import datetime
import hashlib
import importlib.metadata
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import BertForSequenceClassification, LlamaForSequenceClassification, PreTrainedTokenizerFast

from benchmarks.serving.classifier_graph import export_classifier
from service.bundle.calibration import Calibration
from service.bundle.layout import DEFAULT_BLOCK_QUERIES, Family, Pooling
from service.bundle.manifest import Provenance
from service.bundle.text_format import Formatter
from training.backbone import Backbone, load_backbone
from training.checkpoint import Checkpoint, Description
from training.evaluation.evaluate import Evaluation
from training.evaluation.metrics import Interval
from training.export.bundle import export_bundle
from training.heads import Heads
from training.model import RewardModel

SEED = 0
HEAD_STD = 0.05
MAX_TOKENS = {"smollm2": 1024, "minilm": 512}
"""Raced models and the most tokens of an item, everything included."""
PROJECT = Path(__file__).resolve().parents[2]
BUILD = PROJECT / "build"
FOLDER = BUILD / "serving"


@dataclass(frozen=True)
class ModelFolders:
    """Where the forms of one model lie.

    Attributes:
        name: a key of `MAX_TOKENS`.
        bundle, classifier, two_labels, plain: see the module.
        max_tokens: the most tokens of an item.
    """

    name: str
    bundle: Path
    classifier: Path
    two_labels: Path
    plain: Path
    max_tokens: int


def folders(name: str) -> ModelFolders:
    """The paths, whether or not something lies there."""
    folder = FOLDER / name
    return ModelFolders(
        name, folder / "bundle", folder / "classifier", folder / "two_labels", folder / "plain", MAX_TOKENS[name]
    )


def ensure_model(name: str) -> ModelFolders:
    """Write all forms, unless they are there and made by the same code; `made_by` is written last."""
    found = folders(name)
    made_by = FOLDER / name / "made_by"
    code = code_digest()
    if not made_by.is_file() or made_by.read_text() != code:
        shutil.rmtree(FOLDER / name, ignore_errors=True)
        backbone = load_backbone(name)
        checkpoint = _checkpoint(name, backbone)
        _write_plain(backbone, checkpoint.model.head.weight.detach(), found)
        for labels, folder in ((1, found.classifier), (2, found.two_labels)):
            _write_classifier(backbone, checkpoint.model.head.weight.detach(), labels, found.max_tokens, folder)
        export_bundle(checkpoint, _CALIBRATION, _evaluation(), found.bundle)
        made_by.write_text(code)
    return found


def code_digest() -> str:
    """SHA-256 of the code that decides what a bundle holds: another one means that bundles are made again."""
    files = [Path(__file__), *(PROJECT / "service/bundle").glob("*.py"), *(PROJECT / "training/export").glob("*.py")]
    files += [PROJECT / "training" / name for name in ("attention.py", "backbone.py", "model.py")]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files))).hexdigest()


_CALIBRATION = Calibration(centre=0.0, scale=1.0, temperature=1.0, quantiles={"0.5": 0.0})


def _evaluation() -> Evaluation:
    """A head that nobody trained has no accuracy; the manifest says so in zero prompts."""
    none = Interval(0.0, 0.0, 0.0)
    return Evaluation(0, 0, 0, none, 0.0, 0.0, 0.0, 0.0, 1.0, none, 0, None, None, None, 0.0, {})


def _checkpoint(name: str, backbone: Backbone) -> Checkpoint:
    pooling = Pooling.LAST if backbone.family is Family.CAUSAL else Pooling.MEAN
    model = RewardModel(backbone.model, backbone.family, pooling).eval()
    torch.manual_seed(SEED)
    torch.nn.init.normal_(model.head.weight, std=HEAD_STD)
    description = Description(
        name=f"race-{name}",
        base_model=backbone.source.name,
        licence=backbone.source.licence,
        family=backbone.family,
        pooling=pooling,
        heads=Heads(),
        max_tokens=MAX_TOKENS[name],
        block_queries=DEFAULT_BLOCK_QUERIES,
        text_format=backbone.text_format,
        provenance=Provenance(
            data_sha256="0" * 64,
            records=1,
            seed=SEED,
            commit=None,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            versions={library: importlib.metadata.version(library) for library in ("torch", "transformers")},
            configuration={"head": f"drawn, standard deviation {HEAD_STD}"},
        ),
    )
    formatter = Formatter(backbone.text_format, backbone.template, backbone.tokenizer, MAX_TOKENS[name])
    return Checkpoint(model, formatter, description)


def _write_tokenizer(backbone: Backbone, max_tokens: int, folder: Path) -> None:
    special = backbone.text_format.special_tokens
    end = special.get("eos_token") or special.get("sep_token")
    named = {**special, "pad_token": special.get("pad_token", end)}
    (folder / "raw.json").write_bytes(backbone.tokenizer.definition.encode())
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_file=str(folder / "raw.json"), model_max_length=max_tokens, **named
    )
    tokenizer.save_pretrained(folder)
    (folder / "raw.json").unlink()
    _tell_older(folder)


def _tell_older(folder: Path) -> None:
    """Say in the words of transformers 4 too what 5 renamed or leaves out: a peer that brings 4 would take defaults."""
    config = json.loads((folder / "config.json").read_text())
    config.setdefault("id2label", {"0": "LABEL_0", "1": "LABEL_1"})  # two are what 5 does not write
    config["torch_dtype"] = config["dtype"]
    if "rope_parameters" in config:
        config["rope_theta"] = config["rope_parameters"]["rope_theta"]
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=2))


def _write_plain(backbone: Backbone, head: torch.Tensor, found: ModelFolders) -> None:
    found.plain.mkdir(parents=True)
    backbone.model.save_pretrained(found.plain)
    _write_tokenizer(backbone, found.max_tokens, found.plain)
    save_file({"weight": head.contiguous()}, found.plain / "head.safetensors")


def _write_classifier(backbone: Backbone, head: torch.Tensor, labels: int, max_tokens: int, folder: Path) -> None:
    """A decoder's classifier reads the last token, as ours does: the same function.

    BERT's classifier reads the first token through a pooling layer that this backbone does not have; it gets a drawn
    one. Its scores are its own, its cost is that of the same backbone.
    """
    config = type(backbone.model.config).from_dict(backbone.model.config.to_dict())
    config.num_labels = labels
    config.problem_type = "regression"  # transformers' own pipeline leaves such scores as they are
    if config.pad_token_id is None:
        config.pad_token_id = config.eos_token_id
    torch.manual_seed(SEED)
    if backbone.family is Family.CAUSAL:
        model: Any = LlamaForSequenceClassification(config)  # type: ignore[no-untyped-call]
        model.model.load_state_dict(backbone.model.state_dict())
        model.score.weight.data.zero_()[0] = head[0]  # a second label scores 0
    else:
        model = BertForSequenceClassification(config)  # type: ignore[arg-type]
        model.bert.load_state_dict(backbone.model.state_dict(), strict=False)
        torch.nn.init.normal_(model.classifier.weight, std=HEAD_STD)
    folder.mkdir(parents=True)
    model.to(torch.float32).eval().save_pretrained(folder)
    if isinstance(model, BertForSequenceClassification):
        export_classifier(model, folder / "model.onnx")
    _write_tokenizer(backbone, max_tokens, folder)
