"""A place that the bundle could not go to is refused before training; every other is taken."""

from pathlib import Path

import pytest

from service.bundle.layout import Family
from tests.pocket import write_pocket_bundle
from training.config import TrainingConfig
from training.destination import refuse_another, refuse_destination


def refuse(run: Path, bundle: Path) -> None:
    refuse_destination(TrainingConfig(run=run, bundle=bundle))


@pytest.mark.parametrize("name", ["mine/bundle", "bundles/mine", "mine-too", "mine/model-bundle"])
def test_free_places(tmp_path: Path, name: str) -> None:
    refuse(tmp_path / "mine", tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_and_an_empty_folder_are_replaced(tmp_path: Path) -> None:
    place = tmp_path / "bundle"
    place.mkdir()
    refuse(tmp_path / "run", place)
    (place / "bundle.json").touch()
    refuse(tmp_path / "run", place)
    (place / "bundle.json").rename(place / "thesis.tex")
    with pytest.raises(ValueError, match=r"--bundle .*bundle: is there and is not a bundle"):
        refuse(tmp_path / "run", place)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("run", "the run's folder .*run is there or below"),
        ("", "the run's folder .*run is there or below"),
        ("run/model", "run/model is the run's own, which every fit replaces"),
        ("run/checkpoints", "run/checkpoints is the run's own"),
        ("run/tensorboard/bundle", "run/tensorboard is the run's own"),
        ("run/x/../summary.md", "run/summary.md is the run's own"),
    ],
)
def test_the_run_s_own_places(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"--bundle .*: .*{reason}"):
        refuse(tmp_path / "above" / "run", tmp_path / "above" / name)


def test_a_link_to_the_run(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    with pytest.raises(ValueError, match="is the run's own"):
        refuse(tmp_path / "runs" / "mine", tmp_path / "link" / "mine" / "model")


def test_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"no folder can be made in .*file; name another"):
        refuse(tmp_path / "run", tmp_path / "file" / "bundles" / "mine")


def test_another_training_s_bundle_stays_where_none_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All runs that name no place have the same; whoever names it means to replace what is there."""
    monkeypatch.chdir(tmp_path)
    place = TrainingConfig().bundle
    refuse_destination(TrainingConfig())
    place.parent.mkdir()
    own = write_pocket_bundle(place, Family.CAUSAL).manifest.provenance
    with pytest.raises(ValueError, match=r"bundles/default holds the bundle of another training.*--bundle"):
        refuse_destination(TrainingConfig())
    refuse_destination(TrainingConfig(overwrite=True))
    refuse_destination(TrainingConfig(bundle=place))
    refuse_another(TrainingConfig(), place, own)
    with pytest.raises(ValueError, match="another training"):
        refuse_another(TrainingConfig(), place, own.model_copy(update={"seed": own.seed + 1}))
    (place / "bundle.json").write_text("{}")
    with pytest.raises(ValueError, match="another training"):
        refuse_another(TrainingConfig(), place, own)
