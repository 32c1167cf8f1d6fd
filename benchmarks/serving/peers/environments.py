"""A virtual environment for each peer, made once under build/peers."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.serving.models import BUILD, PROJECT

FOLDER = BUILD / "peers"
_STAMP = ".assay-recipe"


def environment(name: str, steps: Sequence[Sequence[str]]) -> Path:
    """The folder of a ready environment; made if it is not there or its recipe has changed.

    Args:
        name: folder under build/peers.
        steps: arguments of `pip install`, in order; a step that begins with "python" is run by the new interpreter.

    Raises:
        subprocess.CalledProcessError: a step failed; its output is on standard error.
    """
    folder = FOLDER / name
    recipe = hashlib.sha256(repr([list(step) for step in steps]).encode()).hexdigest()
    stamp = folder / _STAMP
    if stamp.is_file() and stamp.read_text() == recipe:
        return folder
    print(f"installing {name} into {folder.relative_to(PROJECT)} ...", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    python = str(folder / "bin" / "python")
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    for step in steps:
        install = [python, *step[1:]] if step[0] == "python" else [python, "-m", "pip", "install", "--quiet", *step]
        subprocess.run(install, check=True, cwd=PROJECT, env=clean)
    stamp.write_text(recipe)
    return folder


def versions(folder: Path, packages: Sequence[str]) -> dict[str, str]:
    """Versions of packages as the environment itself reports them; what is not there is left out."""
    program = (
        "import importlib.metadata as m, sys\n"
        "for n in sys.argv[1:]:\n"
        "    try: print(n, m.version(n))\n"
        "    except m.PackageNotFoundError: pass\n"
    )
    printed = subprocess.run(
        [folder / "bin" / "python", "-c", program, *packages], check=True, capture_output=True, text=True
    ).stdout
    return {name: version for name, _, version in (line.partition(" ") for line in printed.splitlines())}
