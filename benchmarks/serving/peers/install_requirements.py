"""Installs what an installed package asks for, less what is named; run by the interpreter of that environment.

python install_requirements.py PACKAGE [LEFT_OUT ...]
"""

import importlib.metadata
import subprocess
import sys

from packaging.requirements import Requirement


def wanted(requirements: list[str], left_out: set[str]) -> list[str]:
    """Requirements that apply here without extras, less those left out, without their markers."""
    parsed = [Requirement(line) for line in requirements]
    return [
        f"{found.name}{'[' + ','.join(sorted(found.extras)) + ']' if found.extras else ''}{found.specifier}"
        for found in parsed
        if found.name.lower() not in left_out and (found.marker is None or found.marker.evaluate({"extra": ""}))
    ]


def main() -> None:
    """Install them."""
    package, *left_out = sys.argv[1:]
    lines = wanted(importlib.metadata.requires(package) or [], {name.lower() for name in left_out})
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *lines], check=True)


if __name__ == "__main__":
    main()
