"""What users may import: documented names, and nothing by accident."""

import importlib

import pytest

PUBLIC = {
    "superserve": {"__version__"},
    "superserve.client": {
        "AsyncClient", "Client", "InferReply", "ModelMetadata", "ReplyParameters", "Retries", "TensorMetadata",
    },
    "superserve.profiler": {
        "Measurement", "Progress", "cpu_name", "find_profile", "measure", "measure_async", "save_profile",
    },
    "superserve.scheduling": {
        "Action", "Bound", "Decision", "EDFQueue", "Finish", "HeadPolicy", "Launch", "MixedScheduler", "Placement",
        "Policy", "Scheduler", "SchedulerLimits", "SchedulerView", "SharedWorkers", "TimeoutAction", "Wait",
        "baselines", "create_policies", "create_policy", "create_scheduler", "drainfit", "hosting", "policy_names",
        "register_policy", "slackfit",
    },
    "superserve.simulator": {
        "BatchRecord", "Conditions", "Recording", "Simulation", "WorkerEvent", "impatient", "losses", "simulate",
    },
}  # fmt: skip


@pytest.mark.parametrize("module", sorted(PUBLIC))
def test_public_names(module: str) -> None:
    """``__all__`` is the promise, and everything in it exists."""
    imported = importlib.import_module(module)
    assert set(imported.__all__) == PUBLIC[module]
    assert all(hasattr(imported, name) for name in imported.__all__)
