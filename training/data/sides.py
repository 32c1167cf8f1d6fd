"""Shuffled sides: the place of a response in its record must say nothing about its worth."""

import hashlib

from training.data.record import Judgement, PreferenceRecord


def shuffle_sides(record: PreferenceRecord, seed: int = 0) -> PreferenceRecord:
    """The record with its responses in an order drawn from `seed` and its id, and with `i` before `j`.

    Data with the chosen response always first makes every label 1, which hides errors of calibration and of
    position. The order depends on nothing but the seed, the id and the number of responses.
    """
    order = sorted(range(len(record.responses)), key=lambda place: _draw(seed, record.id, place))
    new_place = {old: new for new, old in enumerate(order)}
    judgements: list[Judgement] = []
    for judgement in record.judgements:
        moved = judgement.model_copy(update={"i": new_place[judgement.i], "j": new_place[judgement.j]})
        judgements.append(moved if moved.i < moved.j else moved.flipped())
    qualities = None if record.qualities is None else [record.qualities[old] for old in order]
    return record.model_copy(
        update={
            "responses": [record.responses[old] for old in order],
            "judgements": judgements,
            "qualities": qualities,
        }
    )


def _draw(seed: int, record_id: str, place: int) -> bytes:
    return hashlib.sha256(f"{seed}:{place}:{record_id}".encode()).digest()
