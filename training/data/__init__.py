"""Preference records, and everything that is done to them before training."""

from service.bundle.text_format import Message
from training.data.errors import DataError
from training.data.hygiene import check, deduplicate
from training.data.leakage import check_leakage
from training.data.merge import add_up_votes, merge_by_prompt
from training.data.readers import BadRow, ReadResult, read_records
from training.data.record import Annotation, Judgement, PreferenceRecord
from training.data.sides import shuffle_sides
from training.data.splits import Splits, split
from training.data.writer import write_records

__all__ = [
    "Annotation",
    "BadRow",
    "DataError",
    "Judgement",
    "Message",
    "PreferenceRecord",
    "ReadResult",
    "Splits",
    "add_up_votes",
    "check",
    "check_leakage",
    "deduplicate",
    "merge_by_prompt",
    "read_records",
    "shuffle_sides",
    "split",
    "write_records",
]
