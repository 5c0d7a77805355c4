"""What happened in a run, batch by batch, on request."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from superserve.clock import NS_PER_US
from superserve.scheduling import Bound
from superserve.simulator.conditions import WorkerEvent


@dataclass(slots=True)
class BatchRecord:
    """One decision to launch, and what came of it. Instants are nanoseconds from the start of the run."""

    launched_ns: int
    worker: int
    subnet: int
    """Index into the profile."""
    rows: int
    head_slack_ns: int
    """Deadline of the most urgent member - launch: what the policy had to fit batch and dispatch overhead in."""
    waiting: int
    """Requests that stayed behind in the queue."""
    shed: int
    """Requests that the policy gave up since the launch before this one."""
    bound: Bound
    """Why it is not a more accurate subnet."""
    end_ns: int = 0
    behind_ns: int = 0
    """How long after its launch its worker was through with another one."""
    lost: bool = False
    """Whether its worker was lost before the end."""


@dataclass
class Recording:
    """Filled in by a `Simulation`. Holds about 200 bytes a batch."""

    batches: list[BatchRecord] = field(default_factory=list)
    worker_events: list[WorkerEvent] = field(default_factory=list)

    def chrome_trace(self, subnets: Sequence[str]) -> bytes:
        """The run in the Trace Event Format, for chrome://tracing, Perfetto and speedscope.

        A row per worker with its batches, a counter of waiting requests, a mark where a worker goes or comes.

        Args:
            subnets: ids by index.

        Returns:
            A JSON file's content.
        """
        workers = sorted({batch.worker for batch in self.batches} | {event.worker for event in self.worker_events})
        events: list[dict[str, Any]] = [
            {"ph": "M", "pid": 0, "tid": worker, "name": "thread_name", "args": {"name": f"worker {worker}"}}
            for worker in workers
        ]
        for batch in self.batches:
            events += _batch_events(batch, subnets[batch.subnet])
        for event in self.worker_events:
            name = "worker ready" if event.alive else "worker lost"
            stamp = event.at_ns / NS_PER_US
            events.append({"ph": "i", "s": "t", "pid": 0, "tid": event.worker, "ts": stamp, "name": name})
        return msgspec.json.encode({"displayTimeUnit": "ms", "traceEvents": events})


def _batch_events(batch: BatchRecord, subnet: str) -> list[dict[str, Any]]:
    start = (batch.launched_ns + batch.behind_ns) / NS_PER_US
    details = {
        "rows": batch.rows,
        "head_slack_us": batch.head_slack_ns / NS_PER_US,
        "shed": batch.shed,
        "bound": batch.bound,
        "lost": batch.lost,
    }
    return [
        {
            "ph": "X",
            "pid": 0,
            "tid": batch.worker,
            "ts": start,
            "dur": batch.end_ns / NS_PER_US - start,
            "name": f"{subnet} x {batch.rows}",
            "args": details,
        },
        {"ph": "C", "pid": 0, "ts": start, "name": "waiting", "args": {"requests": batch.waiting}},
    ]
