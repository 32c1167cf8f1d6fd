"""What cannot be served says so in one clear line and ends.

`main` gives up before it serves, so most cases call it here; a few run the real process.
"""

import json
import logging
import os
import shutil
import socket
import sys
from subprocess import CompletedProcess

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from service.__main__ import main
from service.bundle.manifest import MODEL_NAME
from service.engine.load import load_session
from service.listeners import bind
from service.settings import Settings
from tests.end_to_end.process import command, environment, run_to_the_end
from tests.pocket import reseal

PLAIN = ("--precision", "fp32")
"""Else a processor that computes in a lower precision would warn that these bundles have no pairs to judge it by."""


def one_line(result) -> str:
    """What it said; a traceback or a second line is a failure."""
    assert "Traceback" not in result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture
def start(monkeypatch, capsys):
    """Run `main` with a command's flags, in this process."""
    for name in set(os.environ) - set(environment()):
        monkeypatch.delenv(name)

    def start(*arguments: str) -> CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", list(arguments[2:]))
        root = logging.getLogger()
        before = root.handlers[:], root.level
        root.handlers[:] = []
        try:
            status = main()
        except SystemExit as end:
            status = end.code
        finally:
            root.handlers[:], root.level = before
        return CompletedProcess(arguments, status, *capsys.readouterr())

    return start


@pytest.fixture
def copied(pocket_bundle, tmp_path):
    return shutil.copytree(pocket_bundle.folder, tmp_path / "copied")


def test_no_bundle(tmp_path, start):
    result = start(*command(tmp_path / "nothing"))
    assert result.returncode == 1
    assert str(tmp_path / "nothing") in one_line(result)


def test_an_altered_file(copied):
    with (copied / MODEL_NAME).open("ab") as file:
        file.write(b"x")
    result = run_to_the_end(*command(copied))
    assert result.returncode == 1
    assert MODEL_NAME in one_line(result)


def test_a_graph_that_the_runtime_refuses(copied, start):
    model = onnx.load(copied / MODEL_NAME)
    model.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(model, copied / MODEL_NAME)
    reseal(copied)
    result = start(*command(copied, *PLAIN))
    assert result.returncode == 1
    *logged, last = result.stderr.strip().splitlines()
    assert f"{MODEL_NAME}: ONNX Runtime cannot load it" in last
    assert [json.loads(line)["level"] for line in logged] == ["warning"]  # OpenVINO was tried first


def test_weights_that_give_no_numbers(copied):
    model = onnx.load(copied / MODEL_NAME)
    (weights,) = (tensor for tensor in model.graph.initializer if tensor.name == "weights")
    weights.CopyFrom(numpy_helper.from_array(np.full(weights.dims, np.nan, np.float32), "weights"))
    onnx.save(model, copied / MODEL_NAME)
    reseal(copied)
    result = run_to_the_end(*command(copied, "--log-level", "warning", *PLAIN))
    assert result.returncode == 1
    logged, last = result.stderr.strip().splitlines()
    assert last.startswith(f"assay-serve: {copied}: the warm-up failed, so nothing was served: the model gives scores ")
    assert "not finite" in last
    assert json.loads(logged)["level"] == "error"  # no terminal: JSON


def test_a_batch_smaller_than_an_item(pocket_bundle, start):
    result = start(*command(pocket_bundle, "--max-batch-tokens", "63"))
    assert result.returncode == 1
    assert "set max_batch_tokens to at least 64" in one_line(result)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--queue-items", "10"], "queue_items (10) is below max_items (1024)"),
        (["--port", "70000"], "port: Input should be less than or equal to 65535"),
        (["--max-batch-tokens", "many"], "max_batch_tokens: Input should be a valid integer"),
        (["--api-keys", " , "], "api_keys: holds no key"),
        (["--provider", "tpu"], "provider: Input should be 'auto', 'cuda', 'tensorrt', 'openvino' or 'cpu'"),
        (["--default-timeout-ms", "700000"], "default_timeout_ms is above max_timeout_ms"),
    ],
)
def test_impossible_settings(pocket_bundle, flags, said, start):
    result = start(*command(pocket_bundle, *flags))
    assert result.returncode == 2
    assert said in one_line(result)


def test_a_variable_that_is_no_setting(pocket_bundle, start, monkeypatch):
    monkeypatch.setenv("ASSAY_MAX_ITEM", "8")
    result = start(*command(pocket_bundle))
    assert result.returncode == 2
    assert "the environment variable ASSAY_MAX_ITEM is no setting" in one_line(result)


def test_what_kubernetes_tells_of_a_service_called_assay(tmp_path, start, monkeypatch):
    monkeypatch.setenv("ASSAY_PORT", "tcp://10.0.0.1:8000")
    monkeypatch.setenv("ASSAY_PORT_8000_TCP_ADDR", "10.0.0.1")
    result = start(*command(tmp_path / "nothing"))
    assert str(tmp_path / "nothing") in one_line(result)  # it got as far as that


def test_an_unknown_flag(pocket_bundle, start):
    result = start(*command(pocket_bundle, "--max-batch-size", "8"))
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "--max-batch-size" in result.stderr.strip().splitlines()[-1]


def test_a_provider_that_is_not_there(pocket_bundle, start):
    result = start(*command(pocket_bundle, "--provider", "cuda"))
    assert result.returncode == 1
    assert "CUDAExecutionProvider is not installed here" in one_line(result)


@pytest.mark.parametrize("listening", [True, False])
def test_a_port_that_is_taken(pocket_bundle, listening, start):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        if listening:
            taken.listen()
        port = str(taken.getsockname()[1])
        result = start(*command(pocket_bundle), "--port", port)
    assert result.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in one_line(result)


def test_a_port_that_is_taken_while_the_model_loads(pocket_bundle, start, monkeypatch):
    with bind("127.0.0.1", 0) as other:

        def load(*arguments):
            other.listen()
            return load_session(*arguments)

        monkeypatch.setattr("service.__main__.load_session", load)
        port = str(other.getsockname()[1])
        result = start(*command(pocket_bundle, "--log-level", "warning", *PLAIN), "--port", port)
    assert result.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in one_line(result)


def test_an_address_that_is_not_ours(pocket_bundle, start):
    result = start(*command(pocket_bundle), "--host", "192.0.2.1")
    assert result.returncode == 1
    assert "cannot listen on 192.0.2.1" in one_line(result)


def test_help_names_every_setting(start):
    result = start(sys.executable, "-m", "service", "--help")
    assert result.returncode == 0
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in result.stdout
