import json

from benchmarks import tables
from benchmarks.result import RESULTS


def test_the_readme_shows_the_committed_results():
    readme = tables.README.read_text(encoding="utf-8")
    assert tables.rendered(readme) == readme, "run `python -m benchmarks.tables`"


def test_every_result_says_how_it_was_measured():
    results = [json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*.json")]
    assert results
    for result in results:
        assert {"command", "date", "commit", "machine", "versions", "seed", "targets", "figures"} <= set(result)
        assert all(isinstance(target["held"], bool) for target in result["targets"])
