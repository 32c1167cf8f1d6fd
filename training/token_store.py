"""Tokens on disk, made by all cores and read when a step asks for them."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from service.bundle.text_format import EncodedItem, Formatter, TextFormat
from service.bundle.tokenizer import TextTokenizer
from training.cores import available_cores
from training.data.record import PreferenceRecord
from training.data.record_store import RecordStore, Shards, shard_files, shard_name, write_shard
from training.encoding import Example, ExampleStore, encode_records

_CHUNK = 250
"""Records that a process is given at a time."""

_formatter: Formatter | None = None


class TokenStore(ExampleStore):
    """Records and, beside them, the tokens of their responses."""

    def __init__(self, records: RecordStore, folder: Path) -> None:
        self._records = records
        self._tokens = Shards(shard_files(folder))

    @property
    def records(self) -> RecordStore:
        """Of all examples."""
        return self._records

    @property
    def truncated(self) -> int:
        """Items that were cut to fit."""
        return sum(
            int(np.count_nonzero(batch.column("removed").flatten().to_numpy())) for batch in self._tokens.batches
        )

    def __len__(self) -> int:
        return len(self._tokens)

    @overload
    def __getitem__(self, number: int) -> Example: ...
    @overload
    def __getitem__(self, number: slice) -> list[Example]: ...
    def __getitem__(self, number: int | slice) -> Example | list[Example]:
        if isinstance(number, slice):
            return [self[place] for place in range(*number.indices(len(self)))]
        batch, row = self._tokens.place(number)
        ids = batch.column("ids").slice(row, 1).flatten()
        stops = np.cumsum(ids.value_lengths().to_numpy())
        flat = ids.flatten().to_numpy().astype(np.int64)
        cut, own = (batch.column(name).slice(row, 1).flatten().to_numpy() for name in ("removed", "response_tokens"))
        items = [
            EncodedItem(part, int(removed), int(tokens))
            for part, removed, tokens in zip(np.split(flat, stops[:-1]), cut, own, strict=True)
        ]
        return Example(self._records[number], tuple(items))


def tokenize(records: RecordStore, formatter: Formatter, progress: bool = True) -> TokenStore:
    """Tokenize what is not tokenized yet, on all cores; the rest is there from the last time, interrupted or not.

    The tokens lie beside the records, in a folder named after the text format.

    Raises:
        ValueError, FormatError: see `training.encoding.encode_records`.
    """
    folder = records.folder.parent / f"tokens-{formatter.sha256[:16]}"
    folder.mkdir(exist_ok=True)
    sizes = records.shard_sizes
    missing = [number for number in range(len(sizes)) if not (folder / shard_name(number)).is_file()]
    if missing:
        arguments = (formatter.text_format, formatter.template, formatter.tokenizer.definition, formatter.max_tokens)
        done = len(records) - sum(sizes[number] for number in missing)
        bar = tqdm(total=len(records), initial=done, desc="tokenizing", unit=" records", disable=not progress)
        # Spawned: a process that has computed with torch must not be forked.
        with bar, ProcessPoolExecutor(available_cores(), get_context("spawn"), _begin, arguments) as pool:
            for number in missing:
                lines = records.lines(number)
                encoded: list[_Encoded] = []
                for part in pool.map(_encode, [lines[k : k + _CHUNK] for k in range(0, len(lines), _CHUNK)]):
                    encoded += part
                    bar.update(len(part))
                _write(folder / shard_name(number), encoded)
    return TokenStore(records, folder)


_Encoded = tuple[list[list[int]], list[int], list[int]]


def _begin(text_format: TextFormat, template: str, definition: str, max_tokens: int) -> None:
    """The formatter of a process."""
    global _formatter
    _formatter = Formatter(text_format, template, TextTokenizer(definition), max_tokens)


def _encode(lines: Sequence[str]) -> list[_Encoded]:
    assert _formatter is not None
    examples = encode_records([PreferenceRecord.model_validate_json(line) for line in lines], _formatter, False)
    return [
        (
            [item.ids.tolist() for item in example.items],
            [item.removed for item in example.items],
            [item.response_tokens for item in example.items],
        )
        for example in examples
    ]


def _write(path: Path, encoded: Sequence[_Encoded]) -> None:
    ids, removed, response_tokens = zip(*encoded, strict=True)
    numbers = pa.list_(pa.int32())
    write_shard(
        path,
        {
            "ids": pa.array(ids, pa.list_(numbers)),
            "removed": pa.array(removed, numbers),
            "response_tokens": pa.array(response_tokens, numbers),
        },
    )
