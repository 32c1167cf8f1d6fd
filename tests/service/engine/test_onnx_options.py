"""How ONNX Runtime's providers are set up."""

import onnxruntime as ort
import pytest

from service.bundle.layout import GRAPH_INPUTS
from service.engine.onnx_options import Shapes, cuda_options, tensorrt_options
from service.engine.providers import PROVIDERS
from service.engine.session import ProviderError, Resources


def test_tensorrt_has_an_explicit_range_for_every_input():
    options = tensorrt_options(Shapes(max_batch_tokens=4096, max_tokens=512, block_queries=128))
    ranges = {}
    for bound in "min", "opt", "max":
        shapes = dict(part.split(":") for part in options[f"trt_profile_{bound}_shapes"].split(","))
        assert tuple(sorted(shapes)) == tuple(sorted(GRAPH_INPUTS))
        ranges[bound] = {name: [int(size) for size in shape.split("x")] for name, shape in shapes.items()}
    for name in GRAPH_INPUTS:
        for least, usual, most in zip(*(ranges[bound][name] for bound in ("min", "opt", "max")), strict=True):
            assert 1 == least <= usual <= most


def test_tensorrt_is_told_yes_and_no_as_it_knows_them():
    """ONNX Runtime refuses "0" and "1" here, and then silently runs another provider."""
    options = tensorrt_options(Shapes(max_batch_tokens=4096, max_tokens=512, block_queries=128))
    assert {value for name, value in options.items() if name.endswith("_enable")} == {"False"}


def test_tensorrt_has_room_for_what_shapes_are_rounded_up_to():
    options = tensorrt_options(Shapes(max_batch_tokens=5000, max_tokens=1000, block_queries=100))
    most = dict(part.split(":") for part in options["trt_profile_max_shapes"].split(","))
    assert most["input_ids"] == "5024"
    assert most["query_index_0"].split("x")[1] == "104"
    assert most["key_index_0"].split("x")[1] == "1120"


def test_the_memory_of_a_gpu_is_bounded_where_asked_for():
    assert cuda_options(512)["gpu_mem_limit"] == str(512 * 2**20)
    assert "gpu_mem_limit" not in cuda_options()
    assert cuda_options(512)["use_tf32"] == cuda_options()["use_tf32"] == "0"


def test_the_setting_reaches_the_runtime(pocket_bundle, monkeypatch):
    given = {}

    def load(path, settings, providers):
        given.update(dict(providers))
        raise RuntimeError("enough")

    monkeypatch.setattr(ort, "InferenceSession", load)
    with pytest.raises(ProviderError, match="enough"):
        PROVIDERS["cuda"].open(pocket_bundle, "fp32", Resources(gpu_memory_mb=512))
    assert given["CUDAExecutionProvider"]["gpu_mem_limit"] == str(512 * 2**20)
