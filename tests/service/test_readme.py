"""The README is true: its examples work, its tables are those of the code.

To write its generated tables anew: `python -m tests.service.test_readme`.
"""

import json
import re
from pathlib import Path

from service.api import errors
from service.observability.metrics import Metrics
from service.settings import Settings
from tests.pocket import write_pocket_bundle
from tests.service.serving import serving

README = Path(__file__).parents[2] / "service" / "README.md"
ELSEWHERE = {
    "invalid_json": 400, "invalid_http": 400, "unauthorized": 401, "request_timeout": 408, "invalid": 422,
    "headers_too_large": 431, "internal": 500, "not_ready": 503, "too_many_connections": 503, "draining": 503,
}  # fmt: skip
"""Codes that are not in one of the error map's tables."""


def settings_table() -> str:
    """Every setting, its default and its meaning."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = {None: "", (): ""}.get(field.default, f"`{field.default}`")
        rows.append(f"| `{name}` | {default} | {' '.join((field.description or '').split())} |")
    return "\n".join(rows)


def metrics_table() -> str:
    """Every metric with its labels and meaning."""
    metrics = Metrics("any")
    metrics.set_model("any", "0" * 64, "fp32", "any", 0.0, 1.0, {"0.5": 0.0})
    rows = ["| metric | type | meaning |", "|---|---|---|"]
    for family in metrics.registry.collect():
        # The library strips the suffix that the exposition has.
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        rows.append(f"| `{family.name}{suffix}` | {family.type} | {family.documentation} |")
    return "\n".join(rows)


def block(text: str, name: str) -> str:
    """What stands between the marks of a name."""
    found = re.search(rf"<!-- {name}[^>]*-->\n(.*?)\n?<!-- end of {name} -->", text, re.DOTALL)
    assert found, name
    return found[1]


def test_the_tables_are_those_of_the_code():
    text = README.read_text(encoding="utf-8")
    assert block(text, "settings") == settings_table()
    assert block(text, "metrics") == metrics_table()


def test_every_error_code_is_explained():
    rows = re.findall(r"\| `(\w+)` \| (\d+) \|", block(README.read_text(encoding="utf-8"), "errors"))
    in_maps = {code: status for status, code in errors._SCORING.values()}
    in_maps |= {code: status for status, code in errors._STATUS.items()}
    assert {code: int(status) for code, status in rows} == in_maps | ELSEWHERE


def test_the_examples_work(tmp_path):
    text = README.read_text(encoding="utf-8")
    found = re.findall(r"`POST (/v1/\w+)`|```json\n(.*?)\n```", text, re.DOTALL)
    route, tried = "", set()
    with serving(write_pocket_bundle(tmp_path / "bundle", max_tokens=512)) as served:
        for named, example in found:
            route = named or route
            if example:
                reply = served.post(route, json.loads(example))
                assert reply.status == 200, (route, reply.content)
                tried.add(route)
    assert tried == {"/v1/score", "/v1/compare", "/v1/rank"}


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    for name, table in ("settings", settings_table()), ("metrics", metrics_table()):
        text = re.sub(
            rf"(<!-- {name}[^>]*-->\n).*?\n?(<!-- end of {name} -->)",
            lambda found, table=table: f"{found[1]}{table}\n{found[2]}", text, count=1, flags=re.DOTALL,
        )  # fmt: skip
    README.write_text(text, encoding="utf-8")
