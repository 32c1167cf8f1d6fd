"""A bundle is read whole or refused, with the file and the reason."""

import hashlib
import os
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from service.bundle.layout import Family
from service.bundle.reader import Bundle, BundleError, read_bundle
from service.bundle.text_format import PLAIN_TEMPLATE
from tests.pocket import VOCABULARY_SIZE, WEIGHTS_NAME, pocket_formatter, reseal, write_pocket_bundle
from tests.service.bundle.tampering import edit_manifest, refuse

FILES = ("model.onnx", "tokenizer.json", "chat_template.jinja", "parity.json", "report/summary.md")


# -- what is accepted ----------------------------------------------------------


@pytest.mark.parametrize("family", Family)
@pytest.mark.parametrize("external_data", [False, True])
def test_what_was_written_is_read_back(tmp_path: Path, family: Family, external_data: bool) -> None:
    written = write_pocket_bundle(tmp_path / "b", family, 99, "my.model-1", external_data=external_data)
    bundle = read_bundle(tmp_path / "b")
    assert bundle.manifest == written.manifest
    assert (bundle.manifest.name, bundle.manifest.family, bundle.manifest.max_tokens) == (
        "my.model-1",
        family,
        99,
    )
    assert set(bundle.manifest.files) == {*FILES, *((WEIGHTS_NAME,) if external_data else ())}
    assert bundle.digest == written.digest == hashlib.sha256((tmp_path / "b/bundle.json").read_bytes()).hexdigest()
    assert bundle.formatter.sha256 == pocket_formatter(family, 99).sha256
    assert onnxruntime.InferenceSession(bundle.model_path).get_outputs()[0].name == "rewards"


def test_the_folder_itself_may_be_reached_by_a_link(pocket_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(pocket_bundle.folder)
    assert read_bundle(tmp_path / "current").digest == pocket_bundle.digest


def test_resealing_alone_changes_nothing(folder: Path, pocket_bundle: Bundle) -> None:
    reseal(folder)
    assert read_bundle(folder).manifest == pocket_bundle.manifest


def test_a_template_keeps_its_line_ends(folder: Path) -> None:
    template = "{{ messages[0].content }}\r\nA:\r{# end #}"
    (folder / "chat_template.jinja").write_bytes(template.encode())
    formatter = pocket_formatter(max_tokens=64)
    same = type(formatter)(formatter.text_format, template, formatter.tokenizer, 64)
    reseal(folder, text_format_sha256=same.sha256)
    assert read_bundle(folder).formatter.template == template


# -- files ---------------------------------------------------------------------


def test_no_folder(tmp_path: Path) -> None:
    refuse(tmp_path / "nothing", "", "no such bundle folder; train one")
    (tmp_path / "file").touch()
    refuse(tmp_path / "file", "", "no such bundle folder")


def test_an_empty_folder(tmp_path: Path) -> None:
    refuse(tmp_path, "bundle.json", "is missing, so this is no bundle")


def test_a_folder_named_like_the_manifest(folder: Path) -> None:
    (folder / "bundle.json").unlink()
    (folder / "bundle.json").mkdir()
    refuse(folder, "bundle.json", "is missing, so this is no bundle")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    refuse(folder, name, "is listed in bundle.json and missing")


@pytest.mark.parametrize("name", FILES[:4])
def test_a_manifest_without_a_file_that_every_bundle_has(folder: Path, name: str) -> None:
    (folder / name).unlink()
    edit_manifest(folder, lambda document: document["files"].pop(name))
    refuse(folder, "bundle.json", f"does not list {name}, which every bundle has")


@pytest.mark.parametrize("name", ["extra.py", ".hidden", "report/more.md", "new/bundle.json"])
def test_an_extra_file(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).touch()
    refuse(folder, name, "is not listed in bundle.json")


@pytest.mark.parametrize("name", FILES)
def test_an_altered_file_of_the_same_size(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    refuse(folder, name, "does not have the SHA-256 that bundle.json gives")


@pytest.mark.parametrize("name", FILES)
def test_an_altered_file_of_another_size(folder: Path, name: str) -> None:
    size = (folder / name).stat().st_size
    with (folder / name).open("ab") as file:
        file.write(b"\n")
    refuse(folder, name, f"has {size + 1} bytes where bundle.json says {size}: it was altered")


@pytest.mark.parametrize(
    "path",
    ["../secret", "report/../../secret", "/etc/hostname", "..\\secret", "a//b", "./a", "a/", ".", "", "a\0b"],
)
def test_a_path_that_leaves_the_folder_or_has_two_spellings(folder: Path, path: str) -> None:
    (folder.parent / "secret").write_text("secret")
    entry = {"sha256": hashlib.sha256(b"secret").hexdigest(), "bytes": 6}
    edit_manifest(folder, lambda document: document["files"].update({path: entry}))
    refuse(folder, "bundle.json", r"files\..*not a plain relative path inside the bundle")


def test_a_manifest_that_lists_itself(folder: Path) -> None:
    entry = {"sha256": "0" * 64, "bytes": 1}
    edit_manifest(folder, lambda document: document["files"].update({"bundle.json": entry}))
    refuse(folder, "bundle.json", "has .* it was altered")


@pytest.mark.parametrize("name", [*FILES, "bundle.json"])
def test_a_symbolic_link_to_a_file(folder: Path, name: str) -> None:
    (folder / name).rename(folder.parent / "elsewhere")
    (folder / name).symlink_to(folder.parent / "elsewhere")
    refuse(folder, name, "is a symbolic link")


def test_a_symbolic_link_to_a_folder(folder: Path) -> None:
    (folder / "report").rename(folder.parent / "elsewhere")
    (folder / "report").symlink_to(folder.parent / "elsewhere")
    refuse(folder, "report", "is a symbolic link")


def test_a_dangling_link(folder: Path) -> None:
    (folder / "report" / "link").symlink_to("nowhere")
    refuse(folder, "report/link", "is a symbolic link")


@pytest.mark.parametrize("name", [*FILES, "bundle.json"])
def test_a_hard_link(folder: Path, name: str) -> None:
    os.link(folder / name, folder.parent / "elsewhere")
    refuse(folder, name, "has 2 hard links")


def test_a_pipe(folder: Path) -> None:
    (folder / "parity.json").unlink()
    os.mkfifo(folder / "parity.json")
    refuse(folder, "parity.json", "is not a regular file")


# -- manifest ------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null", b"{}"])
def test_a_broken_manifest(folder: Path, content: bytes) -> None:
    (folder / "bundle.json").write_bytes(content)
    refuse(folder, "bundle.json", "the document: |name: Field required")


@pytest.mark.parametrize("version", [0, 2, "2", None])
def test_an_unknown_format_version(folder: Path, version: object) -> None:
    # Later versions have other fields; the version is what must be reported.
    reseal(folder, format_version=version, something_new=1, max_tokens="many")
    refuse(folder, "bundle.json", r"format_version: Input should be 1 \(and 2 more\)")


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("surprise", 1, "surprise: Extra inputs are not permitted"),
        ("calibration.surprise", 1, "calibration.surprise: Extra inputs"),
        ("text_format.surprise", 1, "text_format.surprise: Extra inputs"),
        ("files", {"a": {"sha256": "0" * 64, "bytes": 1, "mode": 7}}, "files.a.mode: Extra inputs"),
        ("files", {"a": {"sha256": "0" * 63, "bytes": 1}}, "files.a.sha256: String should match"),
        ("layout_version", 1, "layout_version: Input should be 2"),
        ("text_format.version", 2, "text_format.version: Input should be 1"),
        ("text_format.end", [], "text_format.end: .* at least 1 item"),
        ("family", "sideways", "family: Input should be 'causal' or 'bidirectional'"),
        ("precision", "fp12", "precision: Input should be"),
        ("name", "../up", "name: String should match pattern"),
        ("name", "", "name: String should have at least 1"),
        ("max_tokens", 3, "max_tokens: .* greater than or equal to 4"),
        ("block_queries", 0, "block_queries: "),
        ("heads", [], "heads: "),
        ("text_format_sha256", "ABC", "text_format_sha256: String should match"),
        ("calibration.scale", 0, "calibration.scale: "),
        ("calibration.centre", float("nan"), "calibration.centre: "),
        ("provenance.records", 0, "provenance.records: "),
    ],
)
def test_a_field_that_is_unknown_or_impossible(folder: Path, path: str, value: object, reason: str) -> None:
    def edit(document: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for parent in parents:
            document = document[parent]
        document[last] = value

    edit_manifest(folder, edit)
    refuse(folder, "bundle.json", reason)


@pytest.mark.parametrize(
    "path",
    ["format_version", "layout_version", "precision", "block_queries", "text_format.version",
     "text_format.special_tokens"],
)  # fmt: skip
def test_a_field_that_is_left_out(folder: Path, path: str) -> None:
    def edit(document: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for parent in parents:
            document = document[parent]
        del document[last]

    edit_manifest(folder, edit)
    refuse(folder, "bundle.json", f"{path}: is missing; export the bundle again")


@pytest.mark.parametrize("name", ["max_tokens", "sha256", "end"])
def test_a_key_given_twice(folder: Path, name: str) -> None:
    text = (folder / "bundle.json").read_text()
    (folder / "bundle.json").write_text(text.replace(f'"{name}":', f'"{name}": null, "{name}":', 1))
    refuse(folder, "bundle.json", f"has the key '{name}' twice in one object")


# -- text format ---------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[1, 2"])
def test_a_broken_tokenizer(folder: Path, content: bytes) -> None:
    (folder / "tokenizer.json").write_bytes(content)
    reseal(folder)
    refuse(folder, "tokenizer.json", "not a readable tokenizer.json|'utf-8' codec can't decode")


@pytest.mark.parametrize("content", [b"{% for %}", b"{{ x", b"\xff\xfe"])
def test_a_broken_template(folder: Path, content: bytes) -> None:
    (folder / "chat_template.jinja").write_bytes(content)
    reseal(folder)
    refuse(folder, "chat_template.jinja", "the chat template does not parse: |'utf-8' codec can't decode")


def test_a_format_that_is_not_the_one_trained_with(folder: Path) -> None:
    reason = "text_format_sha256 does not match the format, template and tokenizer"
    template = (folder / "chat_template.jinja").read_text()
    reseal(folder, max_tokens=65)
    refuse(folder, "bundle.json", reason)
    reseal(folder, max_tokens=64, text_format=pocket_formatter().text_format.model_dump() | {"begin": [1]})
    refuse(folder, "bundle.json", reason)
    reseal(folder, text_format=pocket_formatter().text_format.model_dump())
    (folder / "chat_template.jinja").write_text(PLAIN_TEMPLATE)
    reseal(folder)
    refuse(folder, "bundle.json", reason)
    (folder / "chat_template.jinja").write_text(template)
    reseal(folder)
    assert read_bundle(folder).formatter.template == template


@pytest.mark.parametrize("name", ["begin", "middle", "end"])
def test_ids_that_the_tokenizer_does_not_know(folder: Path, name: str) -> None:
    around = pocket_formatter().text_format.model_dump()
    reseal(folder, text_format=around | {name: [VOCABULARY_SIZE - 1, VOCABULARY_SIZE]})
    refuse(folder, "bundle.json", f"text_format.{name}.1: {VOCABULARY_SIZE} is no token of tokenizer.json, which has")


def test_a_digest_that_is_asked_for(pocket_bundle):
    folder, digest = pocket_bundle.folder, pocket_bundle.digest
    for asked in ("", digest[:12], digest.upper()):
        assert read_bundle(folder, asked).digest == digest
    with pytest.raises(BundleError, match=f"has the digest {digest}, and 00 was asked for"):
        read_bundle(folder, "00")
