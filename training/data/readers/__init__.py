"""Everybody's preference files into preference records."""

from training.data.readers.formats import Format
from training.data.readers.read import BadRow, Reading, ReadResult, read_records

__all__ = ["BadRow", "Format", "ReadResult", "Reading", "read_records"]
