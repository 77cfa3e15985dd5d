"""Training and use of the speech-to-portrait model."""

import os

# These libraries report their use to their makers, the first from its import on, unless this is set before.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "1")
