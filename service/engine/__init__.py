"""What runs a plan: a session of OpenVINO or ONNX Runtime, and the one thread that calls it."""
