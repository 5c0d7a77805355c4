"""What a simulated run may leave behind: course, outcomes, decisions, figures."""

import csv
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np

from superserve.experiments.dynamics import dynamics
from superserve.metrics import RunLog
from superserve.plots import NamedRun, dynamics_figure, figure_bytes
from superserve.profile import Profile
from superserve.simulator import Recording


@dataclass(frozen=True)
class RunFiles:
    """Where to write what; None leaves it out.

    ``figure``: the run over time (.png). ``series``: the same as numbers (.csv, a row per bin). ``outcomes``: the
    columns of the `RunLog` (.npz). ``decisions``: a `BatchRecord` per line (.jsonl) with the subnet's id.
    ``chrome_trace``: every batch in the Trace Event Format (.json).
    """

    figure: Path | None = None
    series: Path | None = None
    outcomes: Path | None = None
    decisions: Path | None = None
    chrome_trace: Path | None = None

    @cached_property
    def recording(self) -> Recording | None:
        """What the run has to fill in; None if nobody wants its batches."""
        return Recording() if self.decisions or self.chrome_trace else None

    def write(self, log: RunLog, profile: Profile, title: str) -> None:
        """Write all of them."""
        if self.figure is not None:
            self.figure.write_bytes(figure_bytes(dynamics_figure([NamedRun("run", log)], title=title), "png"))
        if self.series is not None:
            _write_series(self.series, log)
        if self.outcomes is not None:
            with self.outcomes.open("wb") as file:
                np.savez_compressed(file, **{field.name: getattr(log, field.name) for field in fields(log)})
        ids = [subnet.id for subnet in profile.subnets]
        if self.decisions is not None and self.recording is not None:
            _write_decisions(self.decisions, self.recording, ids)
        if self.chrome_trace is not None and self.recording is not None:
            self.chrome_trace.write_bytes(self.recording.chrome_trace(ids))


def _write_series(path: Path, log: RunLog) -> None:
    course = dynamics(log)
    names = [field.name for field in fields(course)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(zip(*(getattr(course, name).tolist() for name in names), strict=True))


def _write_decisions(path: Path, recording: Recording, ids: list[str]) -> None:
    encoder = msgspec.json.Encoder()
    with path.open("wb") as file:
        for batch in recording.batches:
            record = {field.name: getattr(batch, field.name) for field in fields(batch)}
            file.write(encoder.encode({**record, "subnet": ids[batch.subnet]}) + b"\n")
