"""BentoML through its own command, with its adaptive batching."""

import os
import sys
from pathlib import Path

from peers.servers.arguments import parse

if __name__ == "__main__":
    given = parse()
    environment = {"PEER_JOB": given.job.name, "PEER_ROWS": str(given.rows), "BENTOML_DO_NOT_TRACK": "True"}
    command = [sys.executable, "-m", "bentoml", "serve", "peers.servers.bentoml_service:Inference"]
    command += ["--host", "127.0.0.1", "--port", str(given.port), "--api-workers", "1"]
    command += ["--working-dir", str(Path(__file__).parents[2])]
    os.execve(sys.executable, command, os.environ | environment)  # noqa: S606  (no shell is wanted)
