"""How many files, and so connections, this process may have open."""

import contextlib
import resource

_ENOUGH = 2**16
"""Where the system sets no upper limit."""


def raise_open_files() -> int:
    """Raise the limit of open files to the highest that is allowed, and return it.

    The usual 1024 is less than a cluster of workers has connections, and a process without a free descriptor resets
    new ones.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(soft, _ENOUGH) if hard == resource.RLIM_INFINITY else hard
    if soft != wanted and soft != resource.RLIM_INFINITY:
        with contextlib.suppress(ValueError, OSError):  # a system may have a lower limit that it does not tell
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return open_files()


def open_files() -> int:
    """The limit as it is."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _ENOUGH if soft == resource.RLIM_INFINITY else soft
