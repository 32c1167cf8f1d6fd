"""What is watched while a policy learns: written row by row, drawn at the end."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import matplotlib
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

matplotlib.use("Agg")


@dataclass(frozen=True)
class Row:
    """Means over the responses of one update, all sampled before the policy was changed by it.

    Attributes:
        update: counted from 1.
        reward: what is maximised, without the KL penalty: the score minus penalties.
        score: by the served reward model.
        judge: by the second reward model, if there is one.
        kl: divergence from the policy as it came, nats a response: log p - log q by `ppo`; by `grpo` TRL's estimator,
            which is never negative, or None without a penalty, when it is not computed.
        length: tokens of a response, the end-of-sequence token included.
        ended: share of the responses that end by themselves.
        entropy: of the distribution a token is sampled from, in nats.
        clip_fraction: share of the tokens whose gradient was stopped.
        seconds: since learning began, the measurement before it not counted.
    """

    update: int
    reward: float
    score: float
    judge: float | None
    kl: float | None
    length: float
    ended: float
    entropy: float
    clip_fraction: float
    seconds: float


class CurveWriter:
    """Puts each row into `curves.jsonl`, TensorBoard and a progress bar as soon as it is known.

    Args:
        run: folder of the run.
        updates: how many rows there will be.
        progress: show the bar.
        writes: false for all workers but one.
    """

    def __init__(self, run: Path, updates: int, *, progress: bool, writes: bool = True) -> None:
        self._file = (run / "curves.jsonl").open("w", encoding="utf-8") if writes else None
        self._board = SummaryWriter(str(run / "tensorboard")) if writes else None
        self._bar = tqdm(total=updates, unit="update", disable=not (progress and writes))

    def write(self, row: Row) -> None:
        """Add a row."""
        if self._file is None or self._board is None:
            return
        values = asdict(row)
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()
        for name, value in values.items():
            if name != "update" and value is not None:
                self._board.add_scalar(f"feedback/{name}", value, row.update)
        self._board.flush()
        self._bar.update()
        self._bar.set_postfix_str(
            f"score {row.score:+.2f}, length {row.length:.0f}" + ("" if row.kl is None else f", KL {row.kl:.1f} nats")
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file is not None and self._board is not None:
            self._file.close()
            self._board.close()
        self._bar.close()


def read_curves(run: Path) -> list[Row]:
    """The rows of a run's `curves.jsonl`."""
    return [Row(**json.loads(line)) for line in (run / "curves.jsonl").read_text(encoding="utf-8").splitlines()]


_PANELS = (
    ("update", "score", "score by the reward model"),
    ("update", "judge", "score by the judge, which is not optimised"),
    ("update", "kl", "KL from the start (nats a response)"),
    ("update", "length", "tokens a response"),
    ("update", "entropy", "entropy (nats a token)"),
    ("update", "ended", "share that ends by itself"),
    ("kl", "score", "score against KL"),
    ("kl", "judge", "judge against KL"),
)


def draw(runs: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Draw the curves of one or more runs, by label, as a PNG; the judge's panels only where there is one."""
    judged = any(row.judge is not None for rows in runs.values() for row in rows)
    panels = [panel for panel in _PANELS if judged or "judge" not in panel]
    figure = Figure(figsize=(4.2 * 2, 2.7 * ((len(panels) + 1) // 2)), layout="constrained")
    for place, (across, up, title) in enumerate(panels, 1):
        axes = figure.add_subplot((len(panels) + 1) // 2, 2, place)
        for label, rows in runs.items():
            pairs = [(getattr(row, across), getattr(row, up)) for row in rows]
            points = [(x, y) for x, y in pairs if x is not None and y is not None]
            style = {"marker": ".", "linestyle": "none"} if across != "update" else {"linewidth": 1.3}
            axes.plot([x for x, _ in points], [y for _, y in points], label=label, **style)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel(across, fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        if len(runs) > 1 and place == 1:
            axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)
