"""Import boundaries, tried in a fresh interpreter."""

import subprocess
import sys

import pytest

TORCH_FREE = [
    "superserve.scheduling",
    "superserve.simulator",
    "superserve.traces",
    "superserve.client",
    "superserve.client.replay",
    "superserve.frontend.v2",
    "superserve.frontend.http",
    "superserve.serving.router",
    "superserve.serving.local_pool",
    "superserve.serving.worker",
    "superserve.model_folder",
    "superserve.metrics",
]


@pytest.mark.parametrize("module", TORCH_FREE)
def test_does_not_import_torch(module: str) -> None:
    """Not directly and not through anything else: a router or simulator starts without paying for torch."""
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_scheduling_imports_no_event_loop() -> None:
    """The pure core needs neither asyncio's loop nor sockets of its own: only numpy and the standard library."""
    heavy = {"uvloop", "httptools", "rich", "typer", "matplotlib", "torch"}
    code = f"import sys, superserve.scheduling; sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert result.returncode == 0, f"imports {result.stderr}"
