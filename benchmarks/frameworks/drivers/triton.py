"""Triton's client for Python, in JSON."""

import json
import sys
from typing import Any

import numpy as np
import tritonclient.http as triton


def scores(asked: dict[str, Any]) -> list[float]:
    """One batch of all texts, after the questions that such callers ask first."""
    client = triton.InferenceServerClient(f"{asked['url'].removeprefix('http://')}/kserve")
    name = asked["model"]
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(name)
    sentences = np.array(asked["rendered"], dtype=object)[:, None]
    tensor = triton.InferInput("sentences", list(sentences.shape), "BYTES")
    tensor.set_data_from_numpy(sentences, binary_data=False)
    wanted = triton.InferRequestedOutput("rewards", binary_data=False)
    reply = client.infer(name, [tensor], outputs=[wanted])
    rewards: list[float] = reply.as_numpy("rewards")[:, 0].tolist()
    return rewards


if __name__ == "__main__":
    print(json.dumps(scores(json.load(sys.stdin))))
