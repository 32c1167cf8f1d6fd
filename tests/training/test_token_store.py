"""Tokens from disk are those of memory, whoever made them and however often they were interrupted."""

from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.bundle.layout import Family
from service.bundle.text_format import FormatError, Formatter
from tests.training.tiny import tiny_checkpoint, toy_records
from training import token_store
from training.config import ModelConfig, OptimiserConfig, TrainingConfig
from training.data import record_store
from training.data.record_store import RecordStore, write_store
from training.encoding import Example, encode_records, truncated
from training.fit import fit
from training.token_store import TokenStore, tokenize


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordStore:
    monkeypatch.setattr(record_store, "SHARD_RECORDS", 16)
    monkeypatch.setattr(token_store, "_CHUNK", 5)
    return write_store(tmp_path / "store" / "train", toy_records(40, responses=3))


def same(a: Example, b: Example) -> bool:
    return a.record == b.record and all(
        np.array_equal(one.ids, other.ids) and one.ids.dtype == other.ids.dtype
        and (one.removed, one.response_tokens) == (other.removed, other.response_tokens)
        for one, other in zip(a.items, b.items, strict=True)
    )  # fmt: skip


def test_tokens_are_those_of_memory(records: RecordStore) -> None:
    formatter = tiny_checkpoint(Family.CAUSAL, max_tokens=16).formatter
    store, plain = tokenize(records, formatter, progress=False), encode_records(list(records), formatter, False)
    assert len(store) == 40
    assert all(same(store[number], example) for number, example in enumerate(plain))
    assert [same(a, b) for a, b in zip(store[3:30], plain[3:30], strict=True)] == [True] * 27
    assert store.truncated == truncated(plain) > 0


def test_an_interrupted_run_goes_on_and_a_finished_one_is_found(
    records: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    formatter = tiny_checkpoint(Family.CAUSAL).formatter
    write, written = token_store._write, []
    monkeypatch.setattr(token_store, "_write", lambda path, encoded: _first_alone(path, encoded, write))
    with pytest.raises(KeyboardInterrupt):
        tokenize(records, formatter, progress=False)

    def noted(path: Path, encoded: Any) -> None:
        written.append(path.name)
        write(path, encoded)

    monkeypatch.setattr(token_store, "_write", noted)
    store = tokenize(records, formatter, progress=False)
    assert written == ["shard-000001.arrow", "shard-000002.arrow"]  # the first was there
    monkeypatch.setattr(token_store, "process_pool", None)
    again = tokenize(records, formatter, progress=False)
    plain = encode_records(list(records), formatter, False)
    assert all(same(store[k], plain[k]) and same(again[k], plain[k]) for k in range(40))


def _first_alone(path: Path, encoded: Any, write: Any) -> None:
    if path.name != "shard-000000.arrow":
        raise KeyboardInterrupt
    write(path, encoded)


def test_another_format_has_its_own_tokens(records: RecordStore) -> None:
    one, other = (tokenize(records, tiny_checkpoint(family).formatter, progress=False) for family in Family)
    assert not np.array_equal(one[0].items[0].ids, other[0].items[0].ids)
    assert len(list(records.folder.parent.glob("tokens-*"))) == 2


def test_training_from_disk_is_training_from_memory(records: RecordStore, tmp_path: Path) -> None:
    weights = []
    for name in ("disk", "memory"):
        checkpoint = tiny_checkpoint(Family.CAUSAL)
        formatter = checkpoint.formatter
        train = (
            tokenize(records, formatter, False) if name == "disk" else encode_records(list(records), formatter, False)
        )
        validation = encode_records(toy_records(8, seed=9, responses=3), formatter, False)
        config = TrainingConfig(
            run=tmp_path / name, progress=False, model=ModelConfig(block_queries=16),
            optimiser=OptimiserConfig(epochs=2, batch_elements=4, max_responses=2, learning_rate=1e-3),
        )  # fmt: skip
        fit(checkpoint.model, train, validation, config)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in checkpoint.model.parameters()]))
        assert isinstance(train, TokenStore) == (name == "disk")
    assert torch.equal(*weights)


def test_tokens_that_are_lost_are_noticed(records: RecordStore) -> None:
    formatter = tiny_checkpoint(Family.CAUSAL).formatter
    tokenize(records, formatter, progress=False)
    (folder,) = records.folder.parent.glob("tokens-*")
    (folder / "shard-000002.arrow").unlink()
    with pytest.raises(ValueError, match="does not have the tokens of all records"):
        TokenStore(records, folder)


def test_a_record_that_cannot_be_tokenized_is_named(records: RecordStore) -> None:
    formatter = tiny_checkpoint(Family.CAUSAL).formatter
    refusing = "{% if messages[0].content.startswith('x') %}{{ raise_exception('no x') }}{% endif %}ok"
    with pytest.raises(FormatError, match=r"record 'toy-\d+-\d+': .*no x"):
        tokenize(records, Formatter(formatter.text_format, refusing, formatter.tokenizer, 128), progress=False)


def test_a_process_that_is_killed_is_one_clear_error(records: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __init__(self, *_: Any) -> None: ...
        def __enter__(self) -> "Broken":
            return self

        def __exit__(self, *_: Any) -> None: ...
        def map(self, *_: Any) -> Any:
            raise BrokenProcessPool

    monkeypatch.setattr(token_store, "process_pool", Broken)
    with pytest.raises(ChildProcessError, match="most likely for lack of memory"):
        tokenize(records, tiny_checkpoint(Family.CAUSAL).formatter, progress=False)
