"""Which providers are tried, and in which precisions."""

import importlib.metadata
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from service.engine import cpus, providers
from service.engine.providers import PROVIDERS, candidates
from service.engine.session import ProviderError, Resources


@pytest.fixture
def installed(monkeypatch):
    """Only these providers are there."""

    def installed(*names: str) -> None:
        monkeypatch.setattr(
            providers,
            "PROVIDERS",
            {name: replace(one, installed=lambda name=name: name in names) for name, one in PROVIDERS.items()},
        )

    return installed


@pytest.mark.parametrize(
    ("wanted", "there", "fallback", "tried"),
    [
        ("auto", ["cpu"], False, ["cpu"]),
        ("auto", ["openvino", "cpu"], False, ["openvino", "cpu"]),
        ("auto", ["tensorrt", "cuda", "cpu"], False, ["cuda", "cpu"]),
        ("cpu", ["openvino", "cpu"], True, ["cpu"]),
        ("openvino", ["openvino", "cpu"], False, ["openvino"]),
        ("openvino", ["openvino", "cpu"], True, ["openvino", "cpu"]),
        ("cuda", ["cpu"], True, ["cpu"]),
    ],
)
def test_what_is_tried(installed, wanted, there, fallback, tried):
    installed(*there)
    assert [provider.name for provider in candidates(wanted, fallback)] == tried


@pytest.mark.parametrize("wanted", ["cuda", "tensorrt", "openvino"])
def test_what_is_not_installed_is_named_with_what_to_install(installed, wanted):
    installed("cpu")
    with pytest.raises(
        ProviderError, match=f"not installed here .there is cpu.*extra `{PROVIDERS[wanted].extra}`.*allow_fallback"
    ):
        candidates(wanted, False)


@pytest.mark.parametrize(
    ("flags", "precisions"),
    [
        ("fpu avx2", ("fp32",)),
        ("avx2 avx_vnni", ("int8", "fp32")),
        ("avx512f avx512_vnni avx512_bf16", ("int8", "bf16", "fp32")),
        ("avx512_vnni avx512_bf16 amx_bf16 amx_tile", ("bf16", "int8", "fp32")),
    ],
)
def test_a_precision_is_offered_only_where_the_processor_computes_it(tmp_path, monkeypatch, flags, precisions):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : {flags}\n")
    monkeypatch.setattr(cpus, "_CPUINFO", tmp_path / "cpuinfo")
    assert PROVIDERS["openvino"].precisions() == precisions
    monkeypatch.setattr(cpus, "_CPUINFO", tmp_path / "none")
    assert PROVIDERS["openvino"].precisions() == ("fp32",)


def test_cuda_has_16_bits():
    assert PROVIDERS["cuda"].precisions() == ("fp16", "bf16", "fp32")


def test_every_provider_has_fp32():
    for provider in PROVIDERS.values():
        assert provider.precisions()[-1] == "fp32"


def test_every_extra_is_one_of_this_package():
    extras = set(importlib.metadata.metadata("assay").get_all("Provides-Extra") or ())
    assert {provider.extra for provider in PROVIDERS.values()} <= extras


def test_a_broken_installation_is_told_in_one_line(pocket_bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "service.engine.openvino_session", None)
    with pytest.raises(ProviderError, match="OpenVINO is installed and cannot be imported"):
        PROVIDERS["openvino"].open(pocket_bundle, "fp32", Resources())


@pytest.mark.parametrize(
    "module", ["service.engine.openvino_session", "service.engine.providers", "training.export.bundle"]
)
def test_no_runtime_reports_its_use(tmp_path, module):
    program = f"import {module}, sys; print([m for m in sys.modules if 'telemetry.' in m])"
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True)
    assert "openvino_telemetry" not in done.stdout
    assert list(tmp_path.rglob("*")) == []
