"""What runs a plan: the ONNX Runtime session and the one thread that calls it."""
