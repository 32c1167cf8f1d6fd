"""Seeds that have nothing to do with each other."""

import hashlib


def derived_seed(*parts: int) -> int:
    """A seed of 63 bits for each tuple of numbers, such as run, update and worker."""
    digest = hashlib.sha256(",".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
