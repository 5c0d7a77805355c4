"""MLServer through its own command, with its adaptive batching."""

import json
import os
import sys
import tempfile
from pathlib import Path

from peers.servers.arguments import parse

#: MLServer always has both ports; the one that was asked for is that of the protocol that is measured.
if __name__ == "__main__":
    given = parse()
    folder = Path(tempfile.mkdtemp(prefix="peers-mlserver-"))
    rest = os.environ.get("PEER_REST") == "1"
    settings = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": given.port if rest else given.port + 1,
        "grpc_port": given.port + 1 if rest else given.port,
        "metrics_endpoint": None,
        "parallel_workers": 0,
        "gzip_enabled": False,
    }
    model: dict[str, object] = {
        "name": given.job.model,
        "implementation": "peers.servers.mlserver_runtime.Inference",
        "parameters": {"extra": {"job": given.job.name}},
    }
    if given.rows > 1:
        model |= {"max_batch_size": given.rows, "max_batch_time": given.wait_us / 1e6}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps(model))
    # Not by the first line of the script: an environment may have been moved.
    command = [sys.executable, str(Path(sys.executable).parent / "mlserver"), "start", str(folder)]
    os.execv(command[0], command)  # noqa: S606  (no shell is wanted)
