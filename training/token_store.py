"""Tokens on disk, made by all cores and read when a step asks for them."""

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tqdm import tqdm

from service.bundle import text_format, tokenizer
from service.bundle.text_format import EncodedItem, Formatter, TextFormat
from service.bundle.tokenizer import TextTokenizer
from training import encoding
from training.data.record import PreferenceRecord
from training.data.record_store import RecordStore, Shards, shard_files, shard_name, write_shard
from training.encoding import Example, ExampleStore, encode_records
from training.pool import process_pool

IntArray = npt.NDArray[np.int32]

_CHUNK = 250
"""Records that a process is given at a time."""

_formatter: Formatter | None = None


class TokenStore(ExampleStore):
    """Records and, beside them, the tokens of their responses."""

    def __init__(self, records: RecordStore, folder: Path) -> None:
        self._records = records
        self._tokens = Shards(shard_files(folder))
        if self._tokens.sizes != records.shard_sizes:
            raise ValueError(f"{folder} does not have the tokens of all records; remove it, and it is made again")

    @property
    def records(self) -> RecordStore:
        """Of all examples."""
        return self._records

    @property
    def truncated(self) -> int:
        """Items that were cut to fit."""
        return sum(int(np.count_nonzero(batch.column("removed").flatten().to_numpy())) for batch in self._tokens.each())

    def __len__(self) -> int:
        return len(self._tokens)

    def at(self, number: int) -> Example:
        """The example of a number within the length."""
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

    The tokens lie beside the records, in a folder named after the text format and the code.

    Raises:
        ValueError, FormatError: see `training.encoding.encode_records`.
        ChildProcessError: a process that tokenized was ended from outside.
    """
    folder = records.folder.parent / f"tokens-{_identity(formatter)}"
    folder.mkdir(exist_ok=True)
    sizes = records.shard_sizes
    missing = [number for number in range(len(sizes)) if not (folder / shard_name(number)).is_file()]
    if missing:
        arguments = (formatter.text_format, formatter.template, formatter.tokenizer.definition, formatter.max_tokens)
        done = len(records) - sum(sizes[number] for number in missing)
        bar = tqdm(total=len(records), initial=done, desc="tokenizing", unit=" records", disable=not progress)
        try:
            with bar, process_pool(_begin, *arguments) as pool:
                for number in missing:
                    lines = records.lines(number)
                    parts = []
                    for part in pool.map(_encode, [lines[k : k + _CHUNK] for k in range(0, len(lines), _CHUNK)]):
                        parts.append(part)
                        bar.update(len(part.items))
                    _write(folder / shard_name(number), parts)
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a process that tokenizes was ended from outside, most likely for lack of memory; what is done is "
                "kept, so call again"
            ) from error
    return TokenStore(records, folder)


def _identity(formatter: Formatter) -> str:
    code = b"".join(Path(str(module.__file__)).read_bytes() for module in (encoding, text_format, tokenizer))
    return hashlib.sha256(formatter.sha256.encode() + code).hexdigest()[:16]


@dataclass(frozen=True)
class _Encoded:
    """Tokens of some records.

    Attributes:
        ids: (tokens,) int32 of all items, one behind the other.
        lengths, removed, response_tokens: (items,) int32.
        items: (records,) int32, how many items each has.
    """

    ids: IntArray
    lengths: IntArray
    removed: IntArray
    response_tokens: IntArray
    items: IntArray


def _begin(text_format: TextFormat, template: str, definition: str, max_tokens: int) -> None:
    """The formatter of a process."""
    global _formatter
    _formatter = Formatter(text_format, template, TextTokenizer(definition), max_tokens)


def _encode(lines: Sequence[str]) -> _Encoded:
    assert _formatter is not None
    examples = encode_records([PreferenceRecord.model_validate_json(line) for line in lines], _formatter, False)
    items = [item for example in examples for item in example.items]

    def column(values: Iterable[int]) -> IntArray:
        return np.fromiter(values, np.int32)

    return _Encoded(
        ids=np.concatenate([item.ids for item in items]).astype(np.int32),
        lengths=column(len(item.ids) for item in items),
        removed=column(item.removed for item in items),
        response_tokens=column(item.response_tokens for item in items),
        items=column(len(example.items) for example in examples),
    )


def _write(path: Path, parts: Sequence[_Encoded]) -> None:
    whole = {name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])}
    by_record, by_item = (np.concatenate([[0], np.cumsum(whole[name])]) for name in ("items", "lengths"))

    def lists(values: Any, stops: Any) -> Any:
        return pa.LargeListArray.from_arrays(pa.array(stops, pa.int64()), values)

    write_shard(
        path,
        {
            "ids": lists(lists(pa.array(whole["ids"]), by_item), by_record),
            "removed": lists(pa.array(whole["removed"]), by_record),
            "response_tokens": lists(pa.array(whole["response_tokens"]), by_record),
        },
    )
