"""From settings to the session that serves: which provider, and in which precision."""

import logging
from dataclasses import dataclass, field

import numpy as np

from service.bundle.layout import plan_layout
from service.bundle.reader import Bundle
from service.engine.gate import Gate, measure_gate
from service.engine.providers import Provider, candidates
from service.engine.session import EngineError, ProviderError, Resources, Session
from service.engine.warmup import made_up_items

logger = logging.getLogger("assay.engine")


class GateError(ProviderError):
    """The precision that was asked for orders held-out pairs otherwise than the trained module."""


@dataclass(frozen=True)
class Wanted:
    """What the settings ask for.

    Attributes:
        provider: "auto" or a key of `service.engine.providers.PROVIDERS`.
        precision: "auto" (the fastest that passes its gate) or the name of one.
        allow_fallback: serve on the CPU if the provider cannot, instead of not at all.
        resources: what the session may take.
    """

    provider: str = "auto"
    precision: str = "auto"
    allow_fallback: bool = False
    resources: Resources = field(default_factory=Resources)


@dataclass(frozen=True)
class Loaded:
    """A session that may serve, and the figures of its gate where its precision needed one."""

    session: Session
    gate: Gate | None


def load_session(bundle: Bundle, wanted: Wanted) -> Loaded:
    """The first provider and precision that work and pass.

    Raises:
        ProviderError: nothing that was asked for can serve.
        BundleError: ONNX Runtime refuses the graph.
    """
    refusals: list[str] = []
    for provider in candidates(wanted.provider, wanted.allow_fallback):
        precisions = _precisions(bundle, provider, wanted)
        if not precisions:
            refusals.append(
                f"{provider.full_name} does not run this bundle in {wanted.precision} here; it can do "
                f"{', '.join(provider.precisions())}"
            )
        for precision in precisions:
            try:
                return _loaded(bundle, provider, precision, wanted)
            except ProviderError as error:
                logger.warning("not serving on %s in %s: %s", provider.full_name, precision, error)
                refusals.append(str(error))
                if isinstance(error, GateError) and wanted.precision != "auto":
                    raise  # another provider is no answer to it
    raise ProviderError("; ".join(refusals) or "no execution provider that Assay knows is installed")


def _precisions(bundle: Bundle, provider: Provider, wanted: Wanted) -> tuple[str, ...]:
    """Those to try, in order; none if the provider has not the one that was asked for."""
    if wanted.precision != "auto":
        return (wanted.precision,) if wanted.precision in provider.precisions() else ()
    # Without held-out pairs nobody can say what a lower one does to this model.
    return ("fp32",) if bundle.reference is None else provider.precisions()


def _loaded(bundle: Bundle, provider: Provider, precision: str, wanted: Wanted) -> Loaded:
    """One attempt; what it loaded is gone when it fails.

    Raises:
        GateError: the precision orders held-out pairs otherwise than the trained module.
        ProviderError: the provider cannot load or run the graph.
    """
    session = provider.open(bundle, precision, wanted.resources)
    if precision == "fp32":
        return Loaded(session, None)
    _check_finite(bundle, session)
    if bundle.reference is None:
        logger.warning("%s is served unchecked: the bundle has no reference pairs", precision)
        return Loaded(session, None)
    gate = _gate(bundle, session)
    if gate.failure is not None:
        raise GateError(f"{precision} does not pass its gate: {gate.failure}; set the precision to fp32")
    return Loaded(session, gate)


def _check_finite(bundle: Bundle, session: Session) -> None:
    """The longest item that there may be, which the held-out pairs need not have, must not overflow.

    Raises:
        GateError: its score is not finite.
        ProviderError: it cannot be scored.
    """
    manifest = bundle.manifest
    try:
        sequences = made_up_items(bundle, 1, manifest.max_tokens)
        rewards = session.run(plan_layout(sequences, manifest.family, block_queries=manifest.block_queries))
    except EngineError as error:
        raise ProviderError(f"{session.provider} cannot score the longest item: {error}") from error
    if not np.isfinite(rewards).all():
        raise GateError(f"{session.precision} does not pass its gate: the score of the longest item is not finite")


def _gate(bundle: Bundle, session: Session) -> Gate:
    assert bundle.reference is not None
    manifest = bundle.manifest
    try:
        return measure_gate(session, bundle.reference, manifest.family, manifest.block_queries)
    except EngineError as error:
        raise ProviderError(f"{session.provider} cannot score the reference pairs: {error}") from error
