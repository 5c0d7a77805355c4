"""What a simulated run is to play: what the user says, and for all else what was recorded, or the defaults."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from superserve.clock import NS_PER_MS
from superserve.errors import ConfigError
from superserve.profile import Profile
from superserve.scheduling import SchedulerLimits, TimeoutAction
from superserve.simulator.recorded_times import ENOUGH, RecordedTimes
from superserve.traces.readers.segments import load_trace
from superserve.traces.recording import Recorded, RecordedSettings, load_recorded
from superserve.traces.trace import Trace


@dataclass(frozen=True)
class Wishes:
    """What the user says; None, or nothing, leaves it to the recording, or to the default.

    Profiles and numbers of workers are by device.
    """

    profiles: Sequence[str] = ()
    slo_ms: float | None = None
    policy: str | None = None
    workers: Sequence[int] = ()
    timeout_action: TimeoutAction | None = None
    max_queued: int | None = None

    def filled(self, settings: RecordedSettings) -> "Wishes":
        """The same, where nothing is said as it was recorded; the profile apart."""
        return Wishes(
            profiles=self.profiles,
            slo_ms=self.slo_ms or settings.slo_ms,
            policy=self.policy or settings.policy,
            workers=self.workers or (settings.workers,),
            timeout_action=self.timeout_action or settings.timeout_action,
            max_queued=self.max_queued or settings.max_queued,
        )


@dataclass(frozen=True)
class Setting:
    """Everything that a run needs. ``times`` is what batches take, if that was recorded and is to be so again.

    Profiles and numbers of workers are by device.
    """

    trace: Trace
    profiles: Sequence[Profile]
    times: RecordedTimes | None
    slo_ms: float
    policy: str
    workers: Sequence[int]
    timeout_action: TimeoutAction
    limits: SchedulerLimits
    recorded: Recorded | None

    @classmethod
    def of(cls, path: Path, wishes: Wishes) -> "Setting":
        """What to play of a trace, or of a folder that ``serve --record`` has written.

        Raises:
            ConfigError: if a profile or an SLO is missing; only a recording knows its own.
            TraceError: if the trace cannot be read.
            ProfileError: if the profile cannot.
        """
        recorded = load_recorded(path)
        if recorded is None:
            trace, filled = load_trace(path), wishes
        else:
            trace, filled = _with_slo(recorded, wishes.slo_ms), wishes.filled(recorded.settings)
        times = None
        if wishes.profiles:
            planned = [Profile.load(name) for name in wishes.profiles]
        elif recorded is not None:
            planned = [recorded.settings.profile]
            if len(recorded.batches["rows"]) >= ENOUGH:
                times = RecordedTimes(planned[0], recorded.batches)
        else:
            raise _missing("--profile")
        if filled.slo_ms is None:
            raise _missing("--slo-ms")
        return cls(
            trace=trace,
            profiles=planned,
            times=times,
            slo_ms=filled.slo_ms,
            policy=filled.policy or "default",
            workers=filled.workers or (1,),
            timeout_action=filled.timeout_action or "reject",
            limits=SchedulerLimits() if filled.max_queued is None else SchedulerLimits(filled.max_queued),
            recorded=recorded,
        )


def _missing(option: str) -> ConfigError:
    return ConfigError(f"{option} is missing: only a folder that `serve --record` has written knows its own")


def _with_slo(recorded: Recorded, slo_ms: float | None) -> Trace:
    """The recorded trace; requests that stated no deadline, and so have the model's, get another one."""
    trace = recorded.trace
    if slo_ms is None or trace.slo_ns is None:
        return trace
    usual = trace.slo_ns == int(recorded.settings.slo_ms * NS_PER_MS)
    return replace(trace, slo_ns=np.where(usual, int(slo_ms * NS_PER_MS), trace.slo_ns))
