"""Data sets by name, with the library replaced."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from training.data.errors import DataError
from training.data.readers import read_records

ROWS = [{"prompt": "2+2?", "chosen": "4", "rejected": "5"}, {"prompt": "3+3?", "chosen": "6", "rejected": ""}]


class BrokenSetError(Exception):
    """A kind of the library's own, as its DatasetGenerationError is."""


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What was asked of `datasets.load_dataset`, which knows `us/one` (one split) and `us/two` (two)."""
    asked: list[tuple[Any, ...]] = []

    def load_dataset(path: str, split: str | None = None, **options: str) -> Any:
        asked.append((path, split, *options.items()))
        splits = {"us/one": {"train": ROWS}, "us/two": {"train": ROWS, "test": ROWS[:1]}}
        if path == "us/broken":
            raise BrokenSetError("while generating") from KeyError("line 3")
        if path not in splits:
            raise FileNotFoundError(f"{path} does not exist on the Hub")
        return splits[path] if split is None else splits[path][split]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return asked


def test_a_split_by_name(loads: list[tuple[Any, ...]]) -> None:
    result = read_records("hf:us/two:test")
    assert loads == [("us/two", "test")]
    assert result.format == "trl"
    assert [(record.id, record.source) for record in result.records] == [("hf:us/two:test-1", "hf:us/two:test")]


def test_which_configuration_folder_and_revision(loads: list[tuple[Any, ...]]) -> None:
    read_records("hf:us/two:test?name=plain&data_dir=harmless-base&revision=0a1b")
    assert loads == [("us/two", "test", ("name", "plain"), ("data_dir", "harmless-base"), ("revision", "0a1b"))]
    read_records("hf:us/one?data_dir=a%26b")
    assert loads[1] == ("us/one", None, ("data_dir", "a&b"))


def test_the_only_split_needs_no_name(loads: list[tuple[Any, ...]]) -> None:
    assert [record.prompt for record in read_records("hf:us/one").records] == ["2+2?", "3+3?"]


def test_a_choice_of_splits_must_be_made(loads: list[tuple[Any, ...]]) -> None:
    with pytest.raises(DataError, match="hf:us/two: has the splits test, train; name one, as in hf:us/two:test"):
        read_records("hf:us/two")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("hf:us/none", "cannot be loaded: FileNotFoundError: us/none does not exist"),
        ("hf:us/broken", r"hf:us/broken: cannot be loaded: BrokenSetError: while generating \(KeyError: 'line 3'\)"),
        ("hf:", "given as hf:NAME"),
        ("hf:us/one?config=plain", r"\?name=CONFIGURATION&data_dir=FOLDER&revision=COMMIT"),
        ("hf:us/one?plain", "given as hf:NAME"),
    ],
)
def test_a_set_that_is_not_there_or_broken(loads: list[tuple[Any, ...]], name: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read_records(name)


@pytest.mark.parametrize("module", ["datasets", "pyarrow.parquet"])
def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Any, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "a.parquet").touch()
    source = "hf:us/one" if module == "datasets" else tmp_path / "a.parquet"
    with pytest.raises(ImportError, match=r"pip install 'assay\[train\]'"):
        read_records(source)
