"""The schema is a public format: a change to it shows here.

After a change that is meant, write the golden file anew: `python -m tests.service.api.test_openapi`.
"""

import json
import tempfile
from pathlib import Path

from service.api import schemas as schemas_module
from service.app import build_app
from service.settings import Settings
from tests.pocket import write_pocket_bundle
from tests.service.doubles import ScriptedSession

GOLDEN = Path(__file__).with_name("openapi.json")


def schema(bundle) -> str:
    """The schema as text, without what changes with every release."""
    document = build_app(Settings(), bundle, ScriptedSession()).openapi()
    document["info"]["version"] = "any"
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def test_the_schema_is_the_golden_one(pocket_bundle):
    assert schema(pocket_bundle) == GOLDEN.read_text(encoding="utf-8")


def test_every_error_has_the_one_form(pocket_bundle):
    document = json.loads(schema(pocket_bundle))
    for path, methods in document["paths"].items():
        if path.startswith("/v1/"):
            for operation in methods.values():
                for status, response in operation["responses"].items():
                    if not status.startswith("2"):
                        content = response["content"]["application/json"]
                        assert content["schema"] == {"$ref": "#/components/schemas/ErrorReply"}


def test_every_object_of_the_native_api_is_closed(pocket_bundle):
    """FastAPI's own descriptions of errors would be open, and wrong."""
    schemas = json.loads(schema(pocket_bundle))["components"]["schemas"]
    native = {name for name, value in vars(schemas_module).items() if isinstance(value, type)}
    assert {"ScoreRequest", "RankReply", "ErrorReply"} <= native & set(schemas)
    for name in native & set(schemas):
        assert schemas[name].get("additionalProperties") is False, name


def test_no_two_schemas_have_one_name(pocket_bundle):
    """FastAPI would call them by their modules."""
    assert not [name for name in json.loads(schema(pocket_bundle))["components"]["schemas"] if "__" in name]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.write_text(schema(write_pocket_bundle(Path(folder, "bundle"))), encoding="utf-8")
