"""Nothing here reads a format that can run code: no pickle, in whatever dress."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("service", "training", "assay_client")
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "pickletools"}
HARMLESS = {"joblib.cpu_count"}
"""What may be taken from such a module, by its name alone."""
SAFE_WITH = {
    "torch.load": ("weights_only", True),
    "numpy.load": ("allow_pickle", False),
    "np.load": ("allow_pickle", False),
}
"""Functions that read pickles unless they are told otherwise, which each call must, whatever the default."""
FORBIDDEN = {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "pandas.read_pickle", "pd.read_pickle"}


def offences(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from [str(node.module)] if names - HARMLESS else []
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            argument, value = SAFE_WITH.get(name, (None, None))
            safe = argument in given and getattr(given[argument], "value", None) is value
            if name in FORBIDDEN or (name in SAFE_WITH and not safe):
                yield name


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_reads_pickles(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    found = {f"{file.relative_to(ROOT)}: {name}" for file in files for name in offences(file.read_text())}
    assert found == set()


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from pickle import loads", "import joblib", "from joblib import cpu_count, load",
     "torch.load(p)", "np.load(p)", "torch.load(p, weights_only=False)", "yaml.load(text)",
     "def f():\n    import dill"],
)  # fmt: skip
def test_what_would_is_found(source: str) -> None:
    assert list(offences(source))


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(p, weights_only=True)",
        "import json",
        "from joblib import cpu_count",
        "np.load(p, allow_pickle=False)",
    ],
)
def test_what_would_not_is_not(source: str) -> None:
    assert not list(offences(source))
