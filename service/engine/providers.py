"""Execution providers: what each is called, how it is opened, and which precisions it can run in."""

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import onnxruntime as ort

from service.bundle.reader import Bundle
from service.engine.cpus import computes_bf16, computes_int8, has_amx
from service.engine.onnx_options import Shapes, cuda_options, tensorrt_options
from service.engine.onnx_session import CPU, OnnxSession
from service.engine.session import ProviderError, Resources, Session, one_line


@dataclass(frozen=True)
class Provider:
    """One execution provider.

    Attributes:
        name: what the setting calls it.
        full_name: what its runtime calls it.
        extra: the extra of this package that installs it.
        installed: whether it can be tried here.
        precisions: what it can compute a float32 graph in on this machine, in the order in which they are tried.
        open: a session over a bundle, in a precision, with these resources.
    """

    name: str
    full_name: str
    extra: str
    installed: Callable[[], bool]
    precisions: Callable[[], tuple[str, ...]]
    open: Callable[[Bundle, str, Resources], Session]


def _open_openvino(bundle: Bundle, precision: str, resources: Resources) -> Session:
    try:
        from service.engine.openvino_session import OpenVinoSession  # not everybody can install it
    except Exception as error:  # a wheel of another machine, or what an uninstalled one left behind
        raise ProviderError(f"OpenVINO is installed and cannot be imported: {one_line(error)}") from error
    return OpenVinoSession(bundle, precision, resources.threads)


def _onnx(
    name: str,
    full_name: str,
    extra: str,
    options: Callable[[Shapes, Resources], Mapping[str, str]],
    precisions: tuple[str, ...] = ("fp32",),
) -> Provider:
    """A provider of ONNX Runtime."""

    def opened(bundle: Bundle, precision: str, resources: Resources) -> Session:
        if name == "tensorrt":
            # Its builder rounds products to TF32 unless this says no; ONNX Runtime has no option for it.
            os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
        manifest = bundle.manifest
        shapes = Shapes(resources.max_batch_tokens, manifest.max_tokens, manifest.block_queries)
        chosen = options(shapes, resources)
        return OnnxSession(bundle.model_path, manifest.family, full_name, chosen, precision, resources.threads)

    return Provider(
        name, full_name, extra, lambda: full_name in ort.get_available_providers(), lambda: precisions, opened
    )


def _openvino_precisions() -> tuple[str, ...]:
    """Fastest first: integers have twice the rate of bf16 in AVX-512; AMX was not measured, and bf16 is closer."""
    bf16 = ("bf16",) if computes_bf16() else ()
    int8 = ("int8",) if computes_int8() else ()
    return (*bf16, *int8, "fp32") if has_amx() else (*int8, *bf16, "fp32")


PROVIDERS: Final = {
    provider.name: provider
    for provider in (
        # fp16 has the rate of bf16 and an eighth of its rounding; where it overflows, bf16 is next.
        _onnx(
            "cuda", "CUDAExecutionProvider", "gpu",
            lambda shapes, resources: cuda_options(resources.gpu_memory_mb), ("fp16", "bf16", "fp32"),
        ),
        _onnx("tensorrt", "TensorrtExecutionProvider", "gpu", lambda shapes, resources: tensorrt_options(shapes)),
        Provider(
            "openvino", "OpenVINO", "serve", lambda: importlib.util.find_spec("openvino") is not None,
            _openvino_precisions, _open_openvino,
        ),
        _onnx("cpu", CPU, "serve", lambda shapes, resources: {}),  # threads are an option of the session
    )
}  # fmt: skip
_AUTO: Final = ("cuda", "openvino", "cpu")
"""What `auto` tries. Not TensorRT, whose start takes minutes."""


def candidates(wanted: str, allow_fallback: bool) -> list[Provider]:
    """The providers to try, in order.

    Args:
        wanted: a key of `PROVIDERS`, or "auto": the fastest that is installed.
        allow_fallback: let the CPU serve if `wanted` cannot.

    Raises:
        ProviderError: `wanted` is not installed, and nothing else may serve.
    """
    names = _AUTO if wanted == "auto" else (wanted, *(("cpu",) if allow_fallback and wanted != "cpu" else ()))
    found = [PROVIDERS[name] for name in names if PROVIDERS[name].installed()]
    if wanted != "auto" and not allow_fallback and not found:
        missing = PROVIDERS[wanted]
        there = ", ".join(provider.name for provider in PROVIDERS.values() if provider.installed())
        raise ProviderError(
            f"{missing.full_name} is not installed here (there is {there}); install the extra `{missing.extra}`, or "
            "set the provider to one that is there, or allow_fallback"
        )
    return found
