"""Check a bundle before a server is to load it: what an init container runs.

    python -m service.bundle FOLDER [--digest SHA256]

0 where every file is what the manifest says, and the bundle the one that was asked for; 1 with one line where not.
"""

import argparse
import sys
from pathlib import Path

from service.bundle.reader import BundleError, read_bundle


def main() -> int:
    """Check, and print the bundle's name and digest."""
    parser = argparse.ArgumentParser(prog="python -m service.bundle", description="Check every file of a bundle.")
    parser.add_argument("folder", type=Path, help="folder of the bundle")
    parser.add_argument("--digest", default="", help="SHA-256 of bundle.json that it must have, or how it begins")
    flags = parser.parse_args()
    try:
        bundle = read_bundle(flags.folder, flags.digest)
    except (BundleError, OSError) as error:
        print(f"service.bundle: {error}", file=sys.stderr)
        return 1
    print(f"{bundle.manifest.name} {bundle.digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
