"""What is not to be learnt from, since a test or an evaluation holds it too."""

from collections.abc import Callable, Iterable
from typing import Literal

from training.data.errors import DataError
from training.data.hygiene import Finding
from training.data.record import PreferenceRecord

Policy = Literal["error", "drop", "report"]


class Exclusion:
    """Finds training records that should have been kept apart, one after the other, and does as the policy says.

    Args:
        is_known: whether a record is one.
        what_they_do: of the records, for the error: "training prompts are also in the test data".
        policy: refuse the data, leave these records out, or only count them.
        at_once: refuse at the first that is found, where much is still to be read; else `refuse` does, and counts them.
    """

    def __init__(
        self, is_known: Callable[[PreferenceRecord], bool], what_they_do: str, policy: Policy, at_once: bool = False
    ) -> None:
        self.found = Finding(0)
        self._is_known = is_known
        self._what_they_do = what_they_do
        self._policy = policy
        self._at_once = at_once

    @property
    def dropped(self) -> int:
        """How many of those found were left out."""
        return self.found.count if self._policy == "drop" else 0

    def excludes(self, record: PreferenceRecord) -> bool:
        """Whether a record is to be left out; it is counted if it is known.

        Raises:
            DataError: as of `refuse`, with `at_once`.
        """
        if not self._is_known(record):
            return False
        self.found = self.found.plus(record.id)
        if self._at_once:
            self.refuse()
        return self._policy == "drop"

    def without(self, records: Iterable[PreferenceRecord]) -> list[PreferenceRecord]:
        """Those that may stay."""
        return [record for record in records if not self.excludes(record)]

    def refuse(self) -> None:
        """To be called when all records went by.

        Raises:
            DataError: some were found, and the policy refuses them.
        """
        if self._policy == "error" and self.found.count:
            count = "" if self._at_once else f"{self.found.count} "
            raise DataError(f"{count}{self._what_they_do}, such as {self.found.examples[0]!r}")
