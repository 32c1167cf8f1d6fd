"""The script that everybody writes: FastAPI and transformers, float32, a request is one padded batch.

The route is an ordinary function, so FastAPI runs it in its pool of threads: requests run beside each other.

python -m benchmarks.serving.peers.servers.plain_script --folder FOLDER --port PORT
"""

import argparse
from pathlib import Path

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.serving.peers.servers.padded_model import PaddedModel

BATCH = 64
"""Texts of a batch, so that a large post does not take all memory."""


class Texts(BaseModel):
    """The body of a request."""

    texts: list[str]


def build(model: PaddedModel) -> FastAPI:
    """The application."""
    app = FastAPI()

    @app.post("/score")
    def score(body: Texts) -> dict[str, list[float]]:
        scores: list[float] = []
        for start in range(0, len(body.texts), BATCH):
            scores += model.score(body.texts[start : start + BATCH])
        return {"scores": scores}

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    app = build(PaddedModel(arguments.folder, torch.float32))
    uvicorn.run(app, host="127.0.0.1", port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()
