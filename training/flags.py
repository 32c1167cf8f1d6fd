"""The flags of a command: which of them `--help` shows and how, and what is said of one that there is not."""

import argparse
import difflib
import re
from collections.abc import Sequence
from typing import Any, NoReturn

_VALUES = {
    "Path": "PATH",
    "str": "TEXT",
    "int": "N",
    "float": "NUMBER",
    "tuple[str,...]": "TEXT",
    "dict[str,str]": "NAME=TEXT",
    "dict[str,float]": "NAME=NUMBER",
}
"""Types of Python as what is to be typed."""


class FlagParser(argparse.ArgumentParser):
    """Flags of which a command may read some alone: one file of settings serves all commands.

    Attributes:
        shown: beginnings of the flags that `--help` shows.
    """

    def __init__(self, *, shown: Sequence[str] = ("--",), **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)
        self.shown = ("-h", *shown)

    def format_help(self) -> str:
        """See `argparse.ArgumentParser`."""
        for action in self._actions:
            if isinstance(action.metavar, str):
                action.metavar = _VALUES.get(action.metavar, action.metavar)
            if not action.option_strings[0].startswith(self.shown):
                action.help = argparse.SUPPRESS
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Of a flag that there is not, name the one that was probably meant."""
        if unknown := re.match(r"unrecognized arguments:.*? (--[^\s=]+)", message):
            known = [flag for action in self._actions for flag in action.option_strings]
            if meant := difflib.get_close_matches(unknown[1], known, 1):
                message += f"; did you mean {meant[0]}?"
        super().error(message)
