"""From settings to the session that serves: which provider, and in which precision."""

import logging
from dataclasses import dataclass, field

import numpy as np

from service.bundle.layout import plan_layout
from service.bundle.reader import Bundle
from service.bundle.reference import LEAST_PAIRS
from service.engine.gate import BATCH_TOKENS, Gate, measure_gate
from service.engine.providers import Provider, candidates
from service.engine.session import EngineError, ProviderError, Resources, Session
from service.engine.warmup import made_up_items

logger = logging.getLogger("assay.engine")


_GPU = ("cuda", "tensorrt")


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
                if isinstance(error, GateError) and wanted.precision not in ("auto", "fp32"):
                    raise  # another provider is no answer to it
    raise ProviderError("; ".join(refusals) or "no execution provider that Assay knows is installed")


def _precisions(bundle: Bundle, provider: Provider, wanted: Wanted) -> tuple[str, ...]:
    """Those to try, in order; none if the provider has not the one that was asked for."""
    if wanted.precision != "auto":
        return (wanted.precision,) if wanted.precision in provider.precisions() else ()
    # Without held-out pairs, or with few, nobody can say what a lower one does to this model.
    pairs = 0 if bundle.reference is None else len(bundle.reference.pairs)
    if pairs >= LEAST_PAIRS or provider.precisions() == ("fp32",):
        return provider.precisions()
    logger.warning(
        "the bundle has %d held-out pairs, and %d are needed to judge a lower precision than fp32: hold out more, or "
        "set the precision",
        pairs,
        LEAST_PAIRS,
    )
    return ("fp32",)


def _loaded(bundle: Bundle, provider: Provider, precision: str, wanted: Wanted) -> Loaded:
    """One attempt; what it loaded is gone when it fails.

    Raises:
        GateError: the precision orders held-out pairs otherwise than the trained module.
        ProviderError: the provider cannot load or run the graph.
    """
    session = provider.open(bundle, precision, wanted.resources)
    batch_tokens = min(BATCH_TOKENS, wanted.resources.max_batch_tokens)
    if precision == "fp32":
        # The gate at export was passed on a CPU. What a GPU calls fp32 may be less: TensorRT's is TF32 by default.
        if provider.name in _GPU and bundle.reference is not None and len(bundle.reference.pairs) >= LEAST_PAIRS:
            _check(_gate(bundle, session, batch_tokens))
        return Loaded(session, None)
    _check_finite(bundle, session)
    if bundle.reference is None:
        logger.warning("%s is served unchecked: the bundle has no reference pairs", precision)
        return Loaded(session, None)
    gate = _gate(bundle, session, batch_tokens)
    _check(gate)
    if gate.pairs < LEAST_PAIRS:
        logger.warning(
            "%s is judged by %d held-out pairs only, and fewer than %d say little", precision, gate.pairs, LEAST_PAIRS
        )
    return Loaded(session, gate)


def _check(gate: Gate) -> None:
    if gate.failure is not None:
        way_out = "" if gate.precision == "fp32" else "; set the precision to fp32"
        raise GateError(f"{gate.precision} does not pass its gate: {gate.failure}{way_out}")


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


def _gate(bundle: Bundle, session: Session, batch_tokens: int) -> Gate:
    assert bundle.reference is not None
    manifest = bundle.manifest
    try:
        return measure_gate(session, bundle.reference, manifest.family, manifest.block_queries, batch_tokens)
    except EngineError as error:
        raise ProviderError(f"{session.provider} cannot score the reference pairs: {error}") from error
