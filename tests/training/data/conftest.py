"""Small random records (`st.from_type(PreferenceRecord)`), and the folder of public data."""

from pathlib import Path

import pytest
from hypothesis import strategies as st

from training.data.public_sets import data_folder
from training.data.record import Annotation, Choice, Judgement, PreferenceRecord

_VOTES = st.integers(0, 3)


def _annotations(won: int, lost: int, tied: int) -> list[Annotation]:
    choices: list[Choice] = [*["i"] * won, *["j"] * lost, *["tie"] * tied]
    return [Annotation(annotator=f"w{number}", choice=choice) for number, choice in enumerate(choices)]


@st.composite
def _records(draw: st.DrawFn) -> PreferenceRecord:
    """A record of few words, so that prompts, responses, groups and pairs often coincide."""
    responses = draw(st.lists(st.sampled_from(["a", "b", "c", "d e"]), min_size=2, max_size=4))
    pairs = st.tuples(st.integers(0, len(responses) - 1), st.integers(0, len(responses) - 1))
    votes = st.tuples(_VOTES, _VOTES, _VOTES).filter(any)
    judgements = [
        Judgement(
            i=i, j=j, i_wins=won, j_wins=lost, ties=tied,
            margin=draw(st.sampled_from([None, None, 1.0])),
            aspect=draw(st.sampled_from([None, None, "helpful"])),
            weight=draw(st.sampled_from([None, None, 2.0])),
            annotations=draw(st.sampled_from([None, _annotations(won, lost, tied)])),
        )
        for (i, j), (won, lost, tied) in draw(
            st.lists(st.tuples(pairs.filter(lambda pair: pair[0] != pair[1]), votes), min_size=1, max_size=4)
        )
    ]  # fmt: skip
    named = draw(st.booleans())
    return PreferenceRecord(
        id=draw(st.uuids()).hex,
        prompt=draw(st.sampled_from(["", "p", "P ", "q"])),
        responses=responses,
        judgements=judgements,
        source=draw(st.sampled_from(["one", "two"])),
        group=draw(st.sampled_from([None, "g", "h"])),
        qualities=[draw(st.sampled_from(["good", "bad"])) for _ in responses] if named else None,
    )


st.register_type_strategy(PreferenceRecord, _records())


@pytest.fixture(scope="session")
def public_data() -> Path:
    """The folder of the public sets; tests that need it are skipped where it is absent."""
    folder = data_folder()
    if not folder.is_dir():
        pytest.skip(f"no public data at {folder}; set ASSAY_DATA to its folder")
    return folder
