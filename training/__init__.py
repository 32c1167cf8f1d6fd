"""Training a reward model from human preferences: data, losses, fitting, evaluation, export."""

import service  # noqa: F401  # it keeps ONNX Runtime, which the parity gate runs, from reporting its use
