"""Which providers are tried, and how each is set up."""

import json

import pytest

from service.bundle.layout import GRAPH_INPUTS
from service.engine import cpus, providers
from service.engine.providers import PROVIDERS, ProviderError, Shapes, candidates

CPU, CUDA, OPENVINO = "CPUExecutionProvider", "CUDAExecutionProvider", "OpenVINOExecutionProvider"
SHAPES = Shapes(max_batch_tokens=4096, max_tokens=512, block_queries=128)


@pytest.mark.parametrize(
    ("wanted", "available", "fallback", "tried"),
    [
        ("auto", [CPU], False, ["cpu"]),
        ("auto", [OPENVINO, CPU], False, ["openvino", "cpu"]),
        ("auto", ["TensorrtExecutionProvider", CUDA, CPU], False, ["cuda", "cpu"]),
        ("cpu", [OPENVINO, CPU], True, ["cpu"]),
        ("openvino", [OPENVINO, CPU], False, ["openvino"]),
        ("openvino", [OPENVINO, CPU], True, ["openvino", "cpu"]),
        ("cuda", [CPU], True, ["cpu"]),
    ],
)
def test_what_is_tried(wanted, available, fallback, tried):
    assert [provider.name for provider in candidates(wanted, available, fallback)] == tried


@pytest.mark.parametrize("wanted", ["cuda", "tensorrt", "openvino"])
def test_what_is_not_built_in_is_named_with_what_to_install(wanted):
    with pytest.raises(ProviderError, match=f"is not in this build .*{CPU}.*extra `{PROVIDERS[wanted].extra}`"):
        candidates(wanted, [CPU], False)


@pytest.mark.parametrize(
    ("flags", "native"), [("fpu avx2", False), ("fpu avx512_bf16", True), ("amx_bf16 amx_tile", True)]
)
def test_bf16_is_offered_only_where_the_processor_computes_it(tmp_path, monkeypatch, flags, native):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : {flags}\n")
    monkeypatch.setattr(cpus, "_CPUINFO", tmp_path / "cpuinfo")
    assert PROVIDERS["openvino"].precisions() == (("bf16", "fp32") if native else ("fp32",))
    monkeypatch.setattr(cpus, "_CPUINFO", tmp_path / "none")
    assert PROVIDERS["openvino"].precisions() == ("fp32",)


def test_openvino_takes_threads_and_precision():
    options = PROVIDERS["openvino"].options("bf16", 3, SHAPES)
    assert json.loads(options["load_config"]) == {
        "CPU": {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": "3", "NUM_STREAMS": "1"}
    }


def test_tensorrt_has_an_explicit_range_for_every_input():
    options = PROVIDERS["tensorrt"].options("fp32", 1, SHAPES)
    ranges = {}
    for bound in "min", "opt", "max":
        shapes = dict(part.split(":") for part in options[f"trt_profile_{bound}_shapes"].split(","))
        assert tuple(sorted(shapes)) == tuple(sorted(GRAPH_INPUTS))
        ranges[bound] = {name: [int(size) for size in shape.split("x")] for name, shape in shapes.items()}
    for name in GRAPH_INPUTS:
        for least, usual, most in zip(*(ranges[bound][name] for bound in ("min", "opt", "max")), strict=True):
            assert 1 == least <= usual <= most


def test_every_provider_has_fp32():
    for provider in providers.PROVIDERS.values():
        assert provider.precisions()[-1] == "fp32"
