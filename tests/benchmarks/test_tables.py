import json

import pytest

from benchmarks import tables
from benchmarks.result import RESULTS
from training.recipes import read_recipe


@pytest.mark.parametrize(
    "readme",
    [tables.README, tables.BENCHMARKS_README, tables.TRAINING_README],
    ids=["project", "benchmarks", "training"],
)
def test_the_readme_shows_the_committed_results(readme):
    assert tables.rendered(readme) == readme.read_text(encoding="utf-8"), "run `python -m benchmarks.tables`"


def test_what_the_readme_shows_was_measured():
    known = {result["benchmark"]: {target["name"] for target in result["targets"]} for result in tables.results()}
    for benchmark, names in tables.SHOWN.items():
        assert benchmark in known
        assert set(names) <= known[benchmark]


def test_every_result_says_how_it_was_measured():
    results = [json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*.json")]
    assert results
    for result in results:
        assert {"command", "date", "commit", "machine", "versions", "seed", "targets", "figures"} <= set(result)
        assert all(isinstance(target["held"], bool) for target in result["targets"])


def test_what_was_trained_by_a_recipe_was_trained_by_what_it_says_today():
    """Else the command beside a figure would measure something else."""
    checked = 0
    for result in tables.results():
        if not result["benchmark"].startswith("accuracy_"):
            continue
        then = dict(result["figures"]["recipe"])
        now = read_recipe(then.pop("name")).model_dump(mode="json", exclude_unset=True)
        assert then == {section: now[section] for section in then}, result["benchmark"]
        checked += 1
    assert checked >= 3
