"""Which files of a folder are read, and which would be passed over in silence."""

from pathlib import Path

from training.data.errors import DataError

KINDS = (".jsonl", ".json", ".csv", ".parquet")
KINDS_IN_WORDS = f"{', '.join(KINDS)}, the first three also .gz"

_DATA = frozenset(
    {*KINDS, ".ndjson", ".tsv", ".arrow", ".feather", ".orc", ".avro", ".xls", ".xlsx", ".pkl", ".pickle"}
    | {".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz", ".7z"}
)
"""Endings of files that look like data, those included that cannot be read."""

_CARDS = frozenset({"dataset_info.json", "dataset_infos.json"})
"""What Hugging Face writes beside the rows of a data set."""


def kind_of(path: Path) -> str | None:
    """The one of `KINDS` that a file is of by its name, gzipped or not; None if it cannot be read."""
    kind = next((kind for kind in KINDS if path.name.removesuffix(".gz").endswith(kind)), None)
    return None if kind == ".parquet" and path.suffix == ".gz" else kind


def without_kind(path: Path) -> str:
    """The name of a file without what says its kind."""
    kind = kind_of(path)
    return path.name if kind is None else path.name.removesuffix(".gz").removesuffix(kind)


def files_of(folder: Path) -> list[Path]:
    """The files of all known kinds at the top of a folder, by name. Hidden and other files are no data.

    Raises:
        DataError: there is none, or there are others that look like data: of another kind, or in folders below.
    """
    shown = [path for path in sorted(folder.rglob("*")) if not _hidden(path.relative_to(folder))]
    data = [path for path in shown if _looks_like_data(path) and path.is_file()]
    files = [path for path in data if path.parent == folder and kind_of(path) is not None]
    readable = set(files)
    if left := [str(path.relative_to(folder)) for path in data if path not in readable]:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        raise DataError(
            f"these files of the folder look like data and cannot be read with it: {', '.join(left[:3])}{more}; known "
            f"kinds are {KINDS_IN_WORDS}, and folders below are not entered: name those as sources of their own, "
            "convert the files, or move them away",
            file=str(folder),
        )
    if not files:
        raise DataError(f"no file of a known kind in this folder; known are {KINDS_IN_WORDS}", file=str(folder))
    return files


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _looks_like_data(path: Path) -> bool:
    return path.name not in _CARDS and path.suffix.lower() in _DATA
