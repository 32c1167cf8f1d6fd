"""The scoring server. Imports neither torch nor training."""

import os
import sys

# Both runtimes report their use over the network when they are imported, and OpenVINO forks for it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it then takes a stand-in of its own
