"""The task: continue a diary with one sentence, the more pleasant the better.

From ETHICS' utility pairs (Hendrycks et al. 2021): of two scenarios people said which is the more pleasant. Those that
begin with the same sentence become a prompt (that sentence) and two responses (the rest).
"""

import gzip
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INSTRUCTION = "Continue this diary entry with one short sentence."
TRAIN, TEST = "ethics-util-train.jsonl.gz", "ethics-util-test.jsonl.gz"
_SENTENCE = re.compile(r"^(.*?[.!?])\s+(.+)$", re.DOTALL)


@dataclass(frozen=True)
class Continuation:
    """An opening sentence, and the more and the less pleasant way to go on."""

    opening: str
    pleasant: str
    less: str

    def preference(self) -> dict[str, Any]:
        """A row for `assay-train run`."""
        return {"prompt": prompt(self.opening), "chosen": self.pleasant, "rejected": self.less}


def prompt(opening: str) -> list[dict[str, str]]:
    """What the policy is asked."""
    return [{"role": "user", "content": f"{INSTRUCTION}\n{opening}"}]


def continuations(path: Path) -> list[Continuation]:
    """The pairs of a file that share their first sentence and nothing else."""
    return list(_continuations(path))


def _continuations(path: Path) -> Iterator[Continuation]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            first, second = _SENTENCE.match(row["pleasant"].strip()), _SENTENCE.match(row["less"].strip())
            if first and second and first[1] == second[1] and first[2] != second[2]:
                yield Continuation(first[1], first[2], second[2])


def halves(pairs: Sequence[Continuation]) -> tuple[list[Continuation], list[Continuation]]:
    """Two parts without a common opening: one trains the reward model, the other its judge."""
    even = [int(hashlib.sha256(pair.opening.encode()).hexdigest(), 16) % 2 == 0 for pair in pairs]
    return (
        [pair for pair, first in zip(pairs, even, strict=True) if first],
        [pair for pair, first in zip(pairs, even, strict=True) if not first],
    )


def write_task(data: Path, folder: Path) -> None:
    """Write reward.jsonl, judge.jsonl and test.jsonl (preferences), train_prompts.jsonl and held_out_prompts.jsonl.

    Held-out prompts are openings of the test file that the training file does not have.

    Raises:
        OSError: the public data are not in `data`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    train, test = continuations(data / TRAIN), continuations(data / TEST)
    seen = {pair.opening for pair in train}
    unseen = [pair for pair in test if pair.opening not in seen]
    for_reward, for_judge = halves(train)
    for name, pairs in (("reward", for_reward), ("judge", for_judge), ("test", unseen)):
        _write(folder / f"{name}.jsonl", [pair.preference() for pair in pairs])
    for name, pairs in (("train", train), ("held_out", unseen)):
        openings = dict.fromkeys(pair.opening for pair in pairs)
        _write(folder / f"{name}_prompts.jsonl", [{"prompt": prompt(opening)} for opening in openings])


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
