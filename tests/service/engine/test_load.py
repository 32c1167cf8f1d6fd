"""Which provider and precision end up serving, with the runtime's sessions replaced."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from service.bundle.layout import Family
from service.bundle.reference import Reference, ReferencePair
from service.engine import providers
from service.engine.load import Wanted, load_session
from service.engine.providers import PROVIDERS, Provider
from service.engine.session import EngineError, Placement, ProviderError, Resources
from tests.pocket import pocket_reward
from tests.service.doubles import rewards_of

CPU, OPENVINO = "CPUExecutionProvider", "OpenVINO"
ITEMS = [(97 + place, *range(98, 98 + place % 5)) for place in range(80)]


def reference() -> Reference:
    pairs = list(zip(ITEMS[::2], ITEMS[1::2], strict=True))
    scores = [tuple(pocket_reward(ids, Family.CAUSAL) for ids in pair) for pair in pairs]
    return Reference(
        pairs=tuple(
            ReferencePair(first=a, second=b, preference=float(s[0] > s[1]), scores=s)
            for (a, b), s in zip(pairs, scores, strict=True)
        )
    )


@dataclass
class Machine:
    """What the sessions on it do.

    Attributes:
        wrong: precisions that order all pairs the other way round.
        refused: precisions that cannot be loaded.
        overflowing: precisions in which an item alone has no score.
    """

    wrong: tuple[str, ...] = ()
    loads: bool = True
    fails: bool = False
    refused: tuple[str, ...] = ()
    overflowing: tuple[str, ...] = ()

    def provider(self, name: str, full_name: str, *precisions: str) -> Provider:
        def opened(bundle, precision, resources):
            if not self.loads and name != "cpu":
                raise ProviderError(f"{full_name} cannot load it")
            if precision in self.refused:
                raise ProviderError(f"{full_name} cannot load it in {precision}")
            return Fake(self, full_name, precision, resources.threads)

        return Provider(name, full_name, PROVIDERS[name].extra, lambda: True, lambda: precisions, opened)


class Fake:
    """A session that computes the pocket model's scores, or others."""

    def __init__(self, machine: Machine, provider: str, precision: str, threads: int) -> None:
        self.provider, self.precision, self.threads = provider, precision, threads
        self.placement = Placement({}, {})
        self._machine = machine

    def shaped(self, layout):
        return layout

    def run(self, layout):
        if self._machine.fails:
            raise EngineError("it broke")
        if len(layout.read_index) == 1 and self.precision in self._machine.overflowing:
            return np.full((len(layout.read_index), 1), np.inf, dtype=np.float32)
        return rewards_of(layout, Family.CAUSAL) * (-1 if self.precision in self._machine.wrong else 1)


@pytest.fixture
def machine(monkeypatch):
    machine = Machine()
    monkeypatch.setattr(
        "service.engine.providers.PROVIDERS",
        {
            "cuda": replace(PROVIDERS["cuda"], installed=lambda: False),
            "openvino": machine.provider("openvino", OPENVINO, "int8", "bf16", "fp32"),
            "cpu": machine.provider("cpu", CPU, "fp32"),
        },
    )
    return machine


@pytest.fixture
def bundle(pocket_bundle):
    return replace(pocket_bundle, reference=reference())


def test_auto_takes_the_fastest_that_passes(machine, bundle):
    loaded = load_session(bundle, Wanted(resources=Resources(threads=3)))
    assert (loaded.session.provider, loaded.session.precision, loaded.session.threads) == (OPENVINO, "int8", 3)
    assert loaded.gate.flips == 0
    assert loaded.gate.pairs == 40


@pytest.mark.parametrize(("wrong", "taken"), [(("int8",), "bf16"), (("int8", "bf16"), "fp32")])
def test_auto_goes_on_to_the_next_precision_where_the_gate_is_shut(machine, bundle, caplog, wrong, taken):
    machine.wrong = wrong
    loaded = load_session(bundle, Wanted())
    assert (loaded.session.provider, loaded.session.precision) == (OPENVINO, taken)
    assert (loaded.gate is None) == (taken == "fp32")
    assert all(f"not serving on OpenVINO in {precision}" in caplog.text for precision in wrong)


def test_a_precision_in_which_the_longest_item_overflows_is_not_served(machine, bundle, caplog):
    """No held-out pair is as long; the server would end at its warm-up, and blame the weights."""
    machine.overflowing = ("int8",)
    loaded = load_session(bundle, Wanted())
    assert (loaded.session.provider, loaded.session.precision) == (OPENVINO, "bf16")
    assert "int8 does not pass its gate: the score of the longest item is not finite" in caplog.text
    with pytest.raises(ProviderError, match="the longest item is not finite"):
        load_session(bundle, Wanted(precision="int8"))


def test_a_precision_that_cannot_be_loaded_leaves_the_others_to_be_tried(machine, bundle):
    machine.refused = ("int8",)
    loaded = load_session(bundle, Wanted())
    assert (loaded.session.provider, loaded.session.precision) == (OPENVINO, "bf16")


def test_the_reason_of_the_provider_that_has_the_precision_is_told(machine, bundle):
    machine.refused = ("int8",)
    with pytest.raises(ProviderError, match="OpenVINO cannot load it in int8; CPUExecutionProvider does not run"):
        load_session(bundle, Wanted(precision="int8"))


def test_a_precision_asked_for_that_fails_its_gate_is_an_error(machine, bundle):
    machine.wrong = ("bf16",)
    with pytest.raises(ProviderError, match="bf16 does not pass its gate: .*ordered otherwise.*fp32"):
        load_session(bundle, Wanted(precision="bf16"))


def test_without_held_out_pairs_auto_is_fp32(machine, pocket_bundle):
    assert load_session(pocket_bundle, Wanted()).session.precision == "fp32"


def test_with_few_held_out_pairs_auto_is_fp32(machine, pocket_bundle, caplog):
    few = replace(pocket_bundle, reference=Reference(pairs=reference().pairs[:20]))
    assert load_session(few, Wanted()).session.precision == "fp32"
    assert "the bundle has 20 held-out pairs, and 32 are needed" in caplog.text
    assert load_session(few, Wanted(precision="bf16")).gate.pairs == 20
    assert "bf16 is judged by 20 held-out pairs only" in caplog.text


def test_what_a_gpu_calls_fp32_is_compared(machine, bundle, monkeypatch):
    """The gate at export was passed on a CPU, where it is not asked again."""
    machine.wrong = ("fp32",)
    gpu = machine.provider("cuda", "CUDAExecutionProvider", "fp32")
    monkeypatch.setitem(providers.PROVIDERS, "cuda", gpu)
    with pytest.raises(ProviderError, match="fp32 does not pass its gate: .*ordered otherwise than by the"):
        load_session(bundle, Wanted("cuda", "fp32"))
    assert load_session(bundle, Wanted("cuda", "fp32", allow_fallback=True)).session.provider == CPU
    few = replace(bundle, reference=Reference(pairs=bundle.reference.pairs[:20]))
    assert load_session(few, Wanted("cuda")).session.provider == "CUDAExecutionProvider"


def test_without_held_out_pairs_a_lower_precision_is_served_with_a_warning(machine, pocket_bundle, caplog):
    assert load_session(pocket_bundle, Wanted(precision="bf16")).session.precision == "bf16"
    assert "served unchecked" in caplog.text


def test_a_precision_that_the_provider_has_not(machine, bundle):
    with pytest.raises(ProviderError, match="does not run this bundle in bf16 here; it can do fp32"):
        load_session(bundle, Wanted("cpu", "bf16"))


def test_a_provider_that_does_not_load(machine, bundle, caplog):
    machine.loads = False
    with pytest.raises(ProviderError, match="cannot load it"):
        load_session(bundle, Wanted("openvino"))
    assert load_session(bundle, Wanted("openvino", allow_fallback=True)).session.provider == CPU
    assert load_session(bundle, Wanted()).session.provider == CPU
    assert "not serving on OpenVINO in fp32: OpenVINO cannot load it" in caplog.text


def test_a_session_that_cannot_score_the_pairs(machine, bundle):
    machine.fails = True
    with pytest.raises(ProviderError, match="cannot score the longest item: it broke"):
        load_session(bundle, Wanted("openvino", "bf16"))


def test_an_environment_without_any_known_provider(machine, bundle, monkeypatch):
    monkeypatch.setattr("service.engine.providers.PROVIDERS", {
        name: replace(provider, installed=lambda: False) for name, provider in PROVIDERS.items()
    })  # fmt: skip
    with pytest.raises(ProviderError, match="no execution provider"):
        load_session(bundle, Wanted())


def test_the_reference_scores_are_those_of_the_pocket_model():
    assert np.isfinite([pair.scores for pair in reference().pairs]).all()
