"""The packed engine of a simulated run: what the user says of it, and what came of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from superserve.errors import ConfigError
from superserve.experiments.setting import Setting
from superserve.experiments.virtual_residency import VirtualResidency
from superserve.memory_sizes import bytes_of
from superserve.profile import Profile
from superserve.scheduling import Scheduler
from superserve.serving.residency.recorded_packs import RecordedPacks
from superserve.serving.residency.report import ResidencyReport


@dataclass(frozen=True)
class PackedWishes:
    """What the user says: ``packs`` is a file of `RecordedPacks`, ``memory`` a size as `bytes_of` reads it.

    ``resident`` are ids of subnets that are so from start to end, ``unpacked`` says that none is packed at first.
    """

    packs: Path | None = None
    memory: str | None = None
    resident: Sequence[str] = ()
    unpacked: bool = False


class PackedRun:
    """The packed engine of one simulated run.

    Args:
        packs: what is known of packed subnets.
        setting: what is played.
        wishes: how much memory there is for them, and what is packed at first.

    Raises:
        ConfigError: if wishes contradict each other, or packs do not fit the profile.
    """

    def __init__(self, packs: RecordedPacks, setting: Setting, wishes: PackedWishes) -> None:
        if len(setting.profiles) > 1:
            raise ConfigError("--packs: the packed engine runs on workers of one device: give one profile")
        if wishes.resident and (wishes.memory is not None or wishes.unpacked):
            raise ConfigError("--resident: says all; leave out --engine-memory and --unpacked")
        device, behind = setting.profiles[0].device, {record.behind for record in packs.rows}
        if behind - {device.engine}:
            raise ConfigError(
                f"--packs: timed beside engine {min(behind)}, but the profile is of engine {device.engine}: give the "
                f"profile of the one behind: `superserve profile MODEL --engine {min(behind)} --json FILE`"
            )
        ids = [subnet.id for subnet in setting.profiles[0].subnets]
        self._records = packs.in_front(ids, wishes.resident)
        self._packs = packs
        self._setting = setting
        self._wishes = wishes
        self._budget = None if wishes.memory is None else bytes_of(wishes.memory)
        if wishes.resident:
            self._budget = sum(record.nbytes_on(setting.workers[0]) for record in self._records.values())
        self._made: VirtualResidency | None = None

    @classmethod
    def of(cls, setting: Setting, wishes: PackedWishes) -> "PackedRun | None":
        """What the user wants; None if it is no packed engine.

        Raises:
            ConfigError: as above, or if something is said of packed subnets and nothing is known of them.
        """
        if wishes.packs is not None:
            return cls(RecordedPacks.load(wishes.packs), setting, wishes)
        if wishes.memory is not None or wishes.resident or wishes.unpacked:
            raise ConfigError(
                "--packs is missing: what packed subnets take is in what `superserve pack MODEL --json FILE` writes"
            )
        return None

    def engine(self, scheduler: Scheduler, behind: Profile) -> VirtualResidency:
        """For the simulation's scheduler and profile."""
        self._made = VirtualResidency(
            scheduler,
            behind,
            self._records,
            refused=self._packs.refused,
            kept=() if self._wishes.unpacked else tuple(self._records),
            policy=self._setting.policy,
            timeout_action=self._setting.timeout_action,
            budget=self._budget,
            weights=self._packs.weights_bytes,
            packs=not self._wishes.resident,
            workers=self._setting.workers[0],
        )
        return self._made

    @property
    def report(self) -> ResidencyReport:
        """What came of it, when the run has ended."""
        assert self._made is not None, "nothing has run"
        return self._made.report
