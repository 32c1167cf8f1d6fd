"""Which provider and precision end up serving, with the runtime's sessions replaced."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from service.bundle.layout import Family
from service.bundle.reference import Reference, ReferencePair
from service.engine import load
from service.engine.load import Wanted, load_session
from service.engine.providers import ProviderError
from service.engine.session import EngineError, Placement
from tests.pocket import pocket_reward
from tests.service.doubles import rewards_of

CPU, OPENVINO = "CPUExecutionProvider", "OpenVINOExecutionProvider"
ITEMS = [(97 + place, *range(98, 98 + place % 5)) for place in range(40)]


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
    """What the sessions on it do."""

    bf16_error: float = 0.0
    loads: bool = True
    fails: bool = False

    def session(self, bundle, provider, precision, threads, max_batch_tokens):
        if not self.loads and provider.name != "cpu":
            raise ProviderError(f"{provider.onnx_name} cannot load it")
        machine = self

        class Session:
            def __init__(self):
                self.provider, self.precision, self.threads = provider.onnx_name, precision, threads
                self.placement = Placement({}, {})

            def run(self, layout):
                if machine.fails:
                    raise EngineError("it broke")
                sign = -1 if machine.bf16_error and precision == "bf16" else 1
                return sign * rewards_of(layout, Family.CAUSAL)

        return Session()


@pytest.fixture
def machine(monkeypatch):
    machine = Machine()
    monkeypatch.setattr(load, "OnnxSession", machine.session)
    monkeypatch.setattr(load.ort, "get_available_providers", lambda: [OPENVINO, CPU])
    monkeypatch.setattr("service.engine.providers.computes_bf16", lambda: True)
    return machine


@pytest.fixture
def bundle(pocket_bundle):
    return replace(pocket_bundle, reference=reference())


def test_auto_takes_the_fastest_that_passes(machine, bundle):
    loaded = load_session(bundle, Wanted(threads=3))
    assert (loaded.session.provider, loaded.session.precision, loaded.session.threads) == (OPENVINO, "bf16", 3)
    assert loaded.gate.flips == 0
    assert loaded.gate.pairs == 20


def test_auto_goes_on_to_fp32_where_the_gate_is_shut(machine, bundle, caplog):
    machine.bf16_error = 1
    loaded = load_session(bundle, Wanted())
    assert (loaded.session.provider, loaded.session.precision, loaded.gate) == (OPENVINO, "fp32", None)
    assert "not serving in bf16" in caplog.text


def test_a_precision_asked_for_that_fails_its_gate_is_an_error(machine, bundle):
    machine.bf16_error = 1
    with pytest.raises(ProviderError, match="bf16 does not pass its gate: .*ordered otherwise.*fp32"):
        load_session(bundle, Wanted(precision="bf16"))


def test_without_held_out_pairs_auto_is_fp32(machine, pocket_bundle):
    assert load_session(pocket_bundle, Wanted()).session.precision == "fp32"


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
    assert "trying cpu" in caplog.text


def test_a_session_that_cannot_score_the_pairs(machine, bundle):
    machine.fails = True
    with pytest.raises(ProviderError, match="cannot score the reference pairs: it broke"):
        load_session(bundle, Wanted("openvino", "bf16"))


def test_a_build_without_any_known_provider(machine, bundle, monkeypatch):
    monkeypatch.setattr(load.ort, "get_available_providers", lambda: [])
    with pytest.raises(ProviderError, match="no execution provider"):
        load_session(bundle, Wanted())


def test_the_reference_scores_are_those_of_the_pocket_model():
    assert np.isfinite([pair.scores for pair in reference().pairs]).all()
