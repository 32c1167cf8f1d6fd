"""Open a bundle, trusting nothing in it: every file is accounted for before any of it is used."""

import hashlib
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from service.bundle.graph import GraphError, check_graph
from service.bundle.manifest import (
    MANIFEST_NAME,
    MODEL_NAME,
    REFERENCE_NAME,
    REQUIRED_FILES,
    TEMPLATE_NAME,
    TOKENIZER_NAME,
    Manifest,
)
from service.bundle.reference import Reference
from service.bundle.text_format import FormatError, Formatter, TextFormat
from service.bundle.tokenizer import TextTokenizer


class BundleError(ValueError):
    """A bundle that must not be used. The message names the file and the reason."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


@dataclass(frozen=True)
class Bundle:
    """A checked bundle.

    Attributes:
        folder: where it lies.
        manifest: its contract.
        digest: SHA-256 of `bundle.json`; since that lists the hash of every file, the identity of the model.
        formatter: its text format, ready to use.
        reference: held-out pairs to check a precision against, if it has them.
    """

    folder: Path
    manifest: Manifest
    digest: str
    formatter: Formatter
    reference: Reference | None = None

    @property
    def model_path(self) -> Path:
        """The ONNX graph; its weights lie beside it."""
        return self.folder / MODEL_NAME


def read_bundle(folder: Path, digest: str = "") -> Bundle:
    """Check everything and return the bundle.

    Args:
        folder: where it lies.
        digest: that it must have, or how that begins, in hexadecimal digits.

    Raises:
        BundleError: another digest; a missing, extra or altered file; a path that leaves the folder; a link; external
            data that the manifest does not list; a manifest with a field missing or twice; an unknown format version;
            a graph whose inputs or output do not match, or with operators that are not ONNX's own; a text format
            with ids that the tokenizer does not know.
    """
    present = _regular_files(folder)
    if MANIFEST_NAME not in present:
        raise BundleError(folder / MANIFEST_NAME, "is missing, so this is no bundle")
    manifest, found = _read_manifest(folder / MANIFEST_NAME)
    if not found.startswith(digest.lower()):
        raise BundleError(folder, f"has the digest {found}, and {digest} was asked for")
    _check_files(folder, manifest, present)
    try:
        tokenizer = TextTokenizer.from_file(folder / TOKENIZER_NAME)
    except ValueError as error:
        raise BundleError(folder / TOKENIZER_NAME, str(error)) from error
    try:
        check_graph(folder / MODEL_NAME, manifest, tokenizer.vocabulary_size)
    except GraphError as error:
        raise BundleError(folder / MODEL_NAME, str(error)) from error
    _check_format(folder / MANIFEST_NAME, manifest.text_format, tokenizer)
    try:
        template = (folder / TEMPLATE_NAME).read_bytes().decode("utf-8")
        formatter = Formatter(manifest.text_format, template, tokenizer, manifest.max_tokens)
    except (FormatError, UnicodeDecodeError) as error:
        raise BundleError(folder / TEMPLATE_NAME, str(error)) from error
    if formatter.sha256 != manifest.text_format_sha256:
        raise BundleError(
            folder / MANIFEST_NAME, "text_format_sha256 does not match the format, template and tokenizer"
        )
    return Bundle(folder, manifest, found, formatter, _read_reference(folder, manifest, tokenizer))


def _read_reference(folder: Path, manifest: Manifest, tokenizer: TextTokenizer) -> Reference | None:
    path = folder / REFERENCE_NAME
    if REFERENCE_NAME not in manifest.files:
        return None
    try:
        reference = Reference.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BundleError(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    for number, pair in enumerate(reference.pairs):
        for ids in (pair.first, pair.second):
            if max(ids) >= tokenizer.vocabulary_size or len(ids) > manifest.max_tokens:
                raise BundleError(path, f"pairs.{number}: no item of this model's tokenizer and length")
    return reference


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _regular_files(folder: Path) -> set[str]:
    """Paths of all files below the folder; refuses links of either kind and anything that is not a file."""
    if not folder.is_dir():
        raise BundleError(folder, "no such bundle folder; train one with `assay-train run`")
    found = set()
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(parent, name)
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                raise BundleError(path, "is a symbolic link; copy what it points to into the bundle")
            if stat.S_ISDIR(status.st_mode):
                continue
            if not stat.S_ISREG(status.st_mode):
                raise BundleError(path, "is not a regular file")
            if status.st_nlink != 1:
                raise BundleError(path, f"has {status.st_nlink} hard links; copy the file into the bundle")
            found.add(path.relative_to(folder).as_posix())
    return found


def _read_manifest(path: Path) -> tuple[Manifest, str]:
    content = path.read_bytes()
    try:
        json.loads(content, object_pairs_hook=_no_key_twice)
    except _TwiceError as error:
        raise BundleError(path, f"has the key {error.args[0][:100]!r} twice in one object") from None
    except (ValueError, RecursionError):
        pass  # told better below
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise BundleError(path, f"{where}: {first['msg']}{more}") from None
    # Defaults are for whoever writes a bundle; what a reader fills in was not what the model was exported with.
    for prefix, part in (("", manifest), ("text_format.", manifest.text_format)):
        for name in type(part).model_fields:
            if name not in part.model_fields_set:
                raise BundleError(path, f"{prefix}{name}: is missing; export the bundle again")
    return manifest, hashlib.sha256(content).hexdigest()


class _TwiceError(Exception):
    """A key that an object has twice."""


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Of a key given twice one reader takes the first and another the last."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _TwiceError(name)
        found[name] = value
    return found


def _check_format(path: Path, text_format: TextFormat, tokenizer: TextTokenizer) -> None:
    """Refuse ids that no text has: the model's table of embeddings may be larger, or end before them."""
    definition = json.loads(tokenizer.definition)
    vocabulary = definition["model"]["vocab"]  # Unigram: [[piece, score]]; else {piece: id}
    known = set(range(len(vocabulary)) if isinstance(vocabulary, list) else vocabulary.values())
    known |= {token["id"] for token in definition.get("added_tokens") or ()}
    for name, ids in (("begin", text_format.begin), ("middle", text_format.middle), ("end", text_format.end)):
        for place, token in enumerate(ids):
            if token not in known:
                raise BundleError(
                    path, f"text_format.{name}.{place}: {token} is no token of {TOKENIZER_NAME}, which has {len(known)}"
                )


def _check_files(folder: Path, manifest: Manifest, present: set[str]) -> None:
    listed = set(manifest.files)
    for name in sorted({*REQUIRED_FILES} - listed):
        raise BundleError(folder / MANIFEST_NAME, f"does not list {name}, which every bundle has")
    for name in sorted(listed - present):
        raise BundleError(folder / name, "is listed in bundle.json and missing")
    for name in sorted(present - listed - {MANIFEST_NAME}):
        raise BundleError(folder / name, "is not listed in bundle.json")
    for name, entry in manifest.files.items():
        path = folder / name
        if (size := path.stat().st_size) != entry.bytes:
            raise BundleError(path, f"has {size} bytes where bundle.json says {entry.bytes}: it was altered")
        if sha256_of(path) != entry.sha256:
            raise BundleError(path, "does not have the SHA-256 that bundle.json gives: it was altered")
