"""Which callers are run, and what of their packages that takes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Caller:
    """Another system's client.

    Attributes:
        name: with its mode, if it has several.
        driver: a module of `benchmarks.frameworks.drivers`.
        package: pinned; the version that is reported. `OURS` is this project itself.
        beside: what its client imports and this project does not bring, pinned. All are installed without what they
            depend on.
        arguments: of the driver.
    """

    name: str
    driver: str
    package: str
    beside: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Where its packages go, below build/callers; callers of one package share it."""
        return self.package.partition("=")[0]


OURS = "assay"

_VERL = (
    "tensordict==0.15.3", "pyvers==0.2.3", "orjson==3.13.0", "omegaconf==2.4.0", "antlr4-python3-runtime==4.9.3",
    "hydra-core==1.3.8", "codetiming==1.4.0", "ray==2.60.0", "jsonschema==4.26.0", "msgpack==1.2.4",
    "referencing==0.37.0", "rpds-py==2026.9.1", "jsonschema-specifications==2025.9.1",
)  # fmt: skip
_TRITON = (
    "geventhttpclient==2.6.1", "gevent==26.9.0", "greenlet==3.5.6", "zope.event==6.2", "zope.interface==8.7",
    "brotli==1.2.1", "python-rapidjson==1.25",
)  # fmt: skip

CALLERS = (
    Caller("openrlhf", "openrlhf", "openrlhf==0.11.2"),
    Caller("openrlhf (function)", "openrlhf_function", "openrlhf==0.11.2"),
    Caller("verl (vllm)", "verl", "verl==0.9.1", _VERL, ("vllm",)),
    Caller("verl (sglang)", "verl", "verl==0.9.1", _VERL, ("sglang",)),
    Caller("verl (function)", "verl_function", "verl==0.9.1", _VERL),
    Caller("trl", "trl_grpo", "trl==1.16.0"),
    Caller("llamafactory", "llamafactory", "llamafactory==0.9.5"),
    Caller("tritonclient", "triton", "tritonclient==2.73.0", _TRITON),
    Caller("assay-train ppo", "ppo", OURS),
)
