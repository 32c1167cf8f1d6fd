"""A stand-in for OpenRLHF's `serve_rm`: POST /get_reward, one request at a time.

As the original does: the route is `async` and calls the model in it, so the event loop stands still while it runs; the
texts of a request go through in padded batches of `--batch_size`; bfloat16 weights; special tokens come in the text.

python -m benchmarks.serving.peers.servers.openrlhf_style --folder FOLDER --port PORT [--batch_size 8]
"""

import argparse
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request

from benchmarks.serving.peers.servers.padded_model import PaddedModel


def build(model: PaddedModel, batch_size: int) -> FastAPI:
    """The application."""
    app = FastAPI()

    @app.post("/get_reward")
    async def get_reward(request: Request) -> dict[str, Any]:
        queries = (await request.json())["query"]
        scores: list[float] = []
        for start in range(0, len(queries), batch_size):
            scores += model.score(queries[start : start + batch_size])
        return {"rewards": scores, "scores": scores, "extra_logs": {"dummy_scores": scores}}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--batch_size", type=int, default=8)
    arguments = parser.parse_args()
    app = build(PaddedModel(arguments.folder, torch.bfloat16), arguments.batch_size)
    uvicorn.run(app, host="127.0.0.1", port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()
