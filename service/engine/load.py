"""From settings to the session that serves: which provider, and in which precision."""

import logging
from dataclasses import dataclass

from service.bundle.reader import Bundle
from service.engine.gate import Gate, measure_gate
from service.engine.providers import Provider, candidates
from service.engine.session import EngineError, ProviderError, Session

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
        threads: threads of one operator.
        max_batch_tokens: the most flat tokens of a batch.
    """

    provider: str = "auto"
    precision: str = "auto"
    allow_fallback: bool = False
    threads: int = 1
    max_batch_tokens: int = 4096


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
    providers = candidates(wanted.provider, wanted.allow_fallback)
    for provider in providers:
        try:
            return _load(bundle, provider, wanted)
        except GateError:
            raise  # another provider is no answer to it
        except ProviderError as error:
            if provider is providers[-1]:
                raise
            logger.warning("%s; trying %s", error, providers[providers.index(provider) + 1].name)
    raise ProviderError("no execution provider that Assay knows is installed")


def _load(bundle: Bundle, provider: Provider, wanted: Wanted) -> Loaded:
    precisions = provider.precisions()
    if wanted.precision != "auto":
        if wanted.precision not in precisions:
            raise ProviderError(
                f"{provider.full_name} does not run this bundle in {wanted.precision} here; it can do "
                f"{', '.join(precisions)}"
            )
        precisions = (wanted.precision,)
    elif bundle.reference is None:
        precisions = ("fp32",)  # without held-out pairs nobody can say what a lower one does to this model
    for precision in precisions:
        session = provider.open(bundle, precision, wanted.threads, wanted.max_batch_tokens)
        if precision == "fp32":
            return Loaded(session, None)
        if bundle.reference is None:
            logger.warning("%s is served unchecked: the bundle has no reference pairs", precision)
            return Loaded(session, None)
        gate = _gate(bundle, session)
        if gate.failure is None:
            return Loaded(session, gate)
        if precision == precisions[-1]:
            raise GateError(f"{precision} does not pass its gate: {gate.failure}; set the precision to fp32")
        logger.warning("not serving in %s: %s", precision, gate.failure)
    raise AssertionError("every provider has a precision")


def _gate(bundle: Bundle, session: Session) -> Gate:
    assert bundle.reference is not None
    manifest = bundle.manifest
    try:
        return measure_gate(session, bundle.reference, manifest.family, manifest.block_queries)
    except EngineError as error:
        raise ProviderError(f"{session.provider} cannot score the reference pairs: {error}") from error
