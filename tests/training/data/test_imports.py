"""Reading data needs no deep-learning library."""

import subprocess
import sys


def test_the_package_imports_neither_torch_nor_datasets() -> None:
    code = (
        "import sys, training.data.public_sets, training.data.baselines; "
        "print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
