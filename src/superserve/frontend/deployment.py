"""What it takes to serve a model: its folder, the engine that runs it, and a profile to plan with."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from superserve.clock import NS_PER_MS, NS_PER_US, Clock
from superserve.engine import PACKED, EngineChoice
from superserve.errors import ConfigError, ProfileError
from superserve.frontend.tracing import Tracing
from superserve.model_folder import ModelFolder
from superserve.profile import Profile
from superserve.scheduling import SchedulerLimits, create_scheduler
from superserve.serving.choice import choose_engine
from superserve.serving.config import Config, ModelSettings
from superserve.serving.cores import available_cores
from superserve.serving.dataplane import ServedModel
from superserve.serving.devices import CUDA, emulated_profile, emulated_sources, single_devices, workers_for
from superserve.serving.idle_work import SLO_SHARE
from superserve.serving.ipc import WorkerSpec
from superserve.serving.ledger import Ledger
from superserve.serving.live_profile import LiveProfile
from superserve.serving.points_ahead import require_points, tell_never_compared
from superserve.serving.recorder import Recorder
from superserve.serving.residency.fast_times import FastTimes
from superserve.serving.residency.pack_task import PackTask
from superserve.serving.residency.packed_model import PackedModel
from superserve.serving.router import Router
from superserve.serving.shared_pool import SharedPool
from superserve.supernet.packed_store import PackRecord, find_packs
from superserve.supernet.weights_file import weights_nbytes
from superserve.traces.recording import RecordedSettings

if TYPE_CHECKING:
    from superserve.profiler import Progress

_logger = logging.getLogger(__name__)

#: Told of progress: done, total, what is being done.
Report = Callable[[float, float, str], None]


class Packing(NamedTuple):
    """What the packed engine of a model has beside the engine behind it."""

    measured: Profile | None
    """Its own profile, if there is one."""
    kept: Mapping[int, PackRecord]
    """What is packed already, by front index."""
    cores: tuple[int, ...]
    """Those that may pack."""

    @classmethod
    def of(cls, folder: ModelFolder, choice: EngineChoice, measured: Profile | None = None) -> "Packing | None":
        """What is known on this machine; None of other engines. Reads all that is packed."""
        if choice.engine != PACKED:
            return None
        from superserve.profiler import find_profile  # noqa: PLC0415  (as in `_kept_or_measured`)

        kept = {subnet: pack.record for subnet, pack in find_packs(folder, choice.dtype, choice.fallback).items()}
        return cls(measured or find_profile(folder, choice), kept, available_cores())


class Deployment(NamedTuple):
    """A model that can be served."""

    folder: ModelFolder
    choice: EngineChoice
    """What the workers run; of several real devices, on the first."""
    profile: Profile
    """Its subnets are those of the workers, in the same order."""
    others: tuple[Profile, ...] = ()
    """Of the same model on further devices of the workers."""
    devices: tuple[str, ...] = ()
    """The names of the devices of all profiles, as workers tell theirs; none where there is one."""
    packing: Packing | None = None
    """Of the packed engine; ``profile`` is that of the engine behind it then."""

    def served(
        self, config: Config, pool: SharedPool, clock: Clock, number: int, tracing: Tracing | None = None
    ) -> ServedModel:
        """The model behind a router of its own, scheduled as configured.

        Args:
            config: everything that can be set.
            pool: the workers, which hold the model.
            clock: time and timers.
            number: the pool's number of the model.
            tracing: makes the spans of its requests, if there are to be any.

        Raises:
            ConfigError: if the policy refuses its argument.
        """
        model, profile = self.folder.config, self.profile
        settings = config.settings(model.name)
        emulated = emulated_profile(self.choice.device) is not None
        # A model that came later may have but one profile: drift tells of the devices that it does not know.
        profiles = (profile, *self.others) if self.others else (profile,) * max(1, len(pool.workers.fleets))
        scheduler = create_scheduler(
            settings.policy,
            profiles,
            overheads_ns=[round(each.dispatch_overhead_us * NS_PER_US) for each in profiles],
            timeout_action=settings.timeout_action,
            limits=SchedulerLimits(max_queued=settings.max_queued),
            shared=pool.workers,
        )
        slo_ms = self._slo_ms(config)
        recorder = None
        if config.record.folder is not None:
            recorded = RecordedSettings(
                model=model.name,
                policy=settings.policy,
                timeout_action=settings.timeout_action,
                slo_ms=slo_ms,
                max_queued=settings.max_queued,
                workers=0,
                emulated=emulated,
                profile=profile,
            )
            recorder = Recorder(Path(config.record.folder) / model.name, recorded, config.record, clock)
        ledger = None
        if config.ledger.share:
            ledger = Ledger(
                model,
                scheduler.policy.table,
                share=config.ledger.share,
                max_bytes=config.ledger.max_bytes,
                rng=np.random.default_rng(number),
                emulated=emulated,
            )
        live_profile = self._live_profile(number) if config.idle.reprofile else None
        router = Router(
            scheduler,
            pool,
            clock,
            output_row_bytes=[spec.row_bytes for spec in model.outputs],
            number=number,
            slo_ns=round(slo_ms * NS_PER_MS),
            decisions=settings.decisions,
            recorder=recorder,
            tracer=None if tracing is None else tracing.of(model.name, scheduler.policy.table),
            ledger=ledger,
            idle_sources=() if live_profile is None else (live_profile,),
        )
        if self.packing is not None and pool.residency is not None:
            pool.residency.add(
                self._packed_model(self.packing, settings, router, number),
                msgspec.structs.replace(PackTask.of(self.folder, self.choice), cores=self.packing.cores),
            )
        return ServedModel(
            model, router, slo_ms=slo_ms, emulated=emulated, live_profile=live_profile, devices=self.devices
        )

    def workers(self, config: Config) -> WorkerSpec:
        """What its workers run; for what no request waits for, they have as much of its SLO as idle work has."""
        spare_us = round(SLO_SHARE * self._slo_ms(config) * NS_PER_MS / NS_PER_US)
        return msgspec.structs.replace(workers_for(self.folder, self.choice), spare_us=spare_us)

    def _slo_ms(self, config: Config) -> float:
        return config.settings(self.folder.config.name).slo_ms or self.profile.default_slo_ms()

    def _packed_model(self, packing: "Packing", settings: ModelSettings, router: Router, number: int) -> PackedModel:
        """The model as what sees to packed subnets knows it."""
        return PackedModel(
            number=number,
            ids=router.table.ids,
            times=FastTimes(self.profile, packing.measured),
            policy=settings.policy,
            timeout_action=settings.timeout_action,
            kept=packing.kept,
            weights=partial(weights_nbytes, self.folder, self.choice.dtype),
            router=router,
        )

    def _live_profile(self, number: int) -> LiveProfile:
        """What can measure the profile again; of an emulated device, which has that of another, it is not kept."""
        from superserve.profiler import save_profile  # noqa: PLC0415  (as in `_kept_or_measured`)
        from superserve.profiler.estimate import cell_quantiles  # noqa: PLC0415
        from superserve.profiler.measure import example_rows  # noqa: PLC0415

        folder, rng = self.folder, np.random.default_rng(number)
        emulated = emulated_profile(self.choice.device) is not None
        return LiveProfile(
            folder.config.name,
            self.profile,
            examples=lambda: example_rows(folder, folder.config.inputs, rng),
            keep=None if emulated else partial(save_profile, folder),
            rng=rng,
            tails=cell_quantiles,
        )


def deploy(
    sources: Sequence[str], config: Config, profile_files: Sequence[Path] = (), report: Report | None = None
) -> list[Deployment]:
    """Find the models to serve, decide what runs them, see to its accuracy, and find or measure their profiles.

    Args:
        sources: folders and names of bundled models; those that the configuration names come behind them.
        config: everything that can be set.
        profile_files: to plan with, one for each device of the workers, if there is one model only.
        report: told of progress where a profile has to be measured, or accuracy to be compared.

    Raises:
        UsageError: if a model or a profile cannot be used, or two have the same name.
        WorkerError: if a profile has to be measured and a worker fails.
    """
    folders = [ModelFolder.resolve(source) for source in sources]
    _take_named(folders, config)
    if not folders and config.repository.folder is None:
        raise ConfigError(
            "no model to serve: name one, give models.NAME.source in the configuration file, or --model-repository DIR"
        )
    if profile_files and len(folders) > 1:
        raise ConfigError("--profile is for one model: give each its models.NAME.profile in the configuration file")
    deployments = []
    for folder in folders:
        own = config.settings(folder.config.name).profile
        files = profile_files or ([Path(own)] if own else [])
        choices = _choices(folder, config, files)
        if config.workers.pool != "ray":  # nodes are other machines, and compare for themselves
            for choice in choices:
                require_points(folder, choice, report)
                tell_never_compared(folder, choice)
        deployments.append(_deployment(folder, choices, files, report))
    if any(deployment.others for deployment in deployments):
        _check_one_profile(config, "where the workers are of one device; leave it out, or give one profile")
    if any(deployment.packing is not None for deployment in deployments):
        _check_one_profile(config, "with engines other than packed, whose plans change; leave it out")
    return deployments


def chosen_engine(
    folder: ModelFolder, config: Config, device: str | None = None, *, one_plan: bool = False
) -> EngineChoice:
    """What runs a model: what is asked for, else the best that fits everything else that is asked for.

    Args:
        folder: the model.
        config: everything that can be set.
        device: where; by default the one that is configured.
        one_plan: whether times must not change while it is served, for other reasons than the configuration's.

    Raises:
        ConfigError: as `choose_engine`.
    """
    workers = config.workers
    choice = choose_engine(folder, device or workers.device, _engine_wish(config), workers.dtype)
    one_plan = one_plan or config.idle.reprofile or config.record.folder is not None
    return choice.behind if one_plan and workers.engine == "auto" else choice


def _check_one_profile(config: Config, where: str) -> None:
    """That nothing is asked for which knows one profile only."""
    for key, asked in (("idle.reprofile", config.idle.reprofile), ("record.folder", config.record.folder is not None)):
        if asked:
            raise ConfigError(f"{key}: works {where}")


def _choices(folder: ModelFolder, config: Config, files: Sequence[Path]) -> list[EngineChoice]:
    """What runs a model, on each of the devices that the configuration names; emulated ones are one choice."""
    workers = config.workers
    devices = [workers.device] if emulated_profile(workers.device) is not None else single_devices(workers.device)
    one_plan = max(len(devices), len(files)) > 1
    return [chosen_engine(folder, config, device, one_plan=one_plan) for device in devices]


def _deployment(
    folder: ModelFolder, choices: Sequence[EngineChoice], files: Sequence[Path], report: Report | None
) -> Deployment:
    choice = choices[0]
    emulated = emulated_sources(choice.device)
    if len(emulated) > 1:
        profiles = [Profile.load(source).longest for source in emulated]
        return Deployment(folder, choice, profiles[0], tuple(profiles[1:]), tuple(emulated))
    if len(files) < 2 and len(choices) == 1:
        return _on_one_device(folder, choice, files[0] if files else None, report)
    if choice.engine == PACKED:
        raise ConfigError("--profile: the packed engine runs on workers of one device: give one profile")
    profiles = [choose_profile(folder, choice, file) for file in files]
    if len(choices) > 1:
        _check_each_has_one(choices, profiles)
    first, *others = profiles
    names = tuple(profile.device.name for profile in (first, *others))
    if len(set(names)) < len(names):
        raise ConfigError(f"--profile: two are of the same device ({', '.join(names)}): give one for each")
    return Deployment(folder, choice, first, tuple(others), names)


def _check_each_has_one(choices: Sequence[EngineChoice], profiles: Sequence[Profile]) -> None:
    """That there is a profile of each kind of device: what runs elsewhere cannot be measured here."""
    kinds = {profile.device.kind for profile in profiles}
    without = [choice.device for choice in choices if choice.device not in kinds]
    if without:
        raise ConfigError(
            f"--device {','.join(choice.device for choice in choices)}: no --profile is of {without[0]!r}: run "
            f"`superserve profile MODEL --device {without[0]} --engine {choices[0].engine} --json FILE` where there is "
            "one, and give that FILE, too"
        )


def _on_one_device(folder: ModelFolder, choice: EngineChoice, file: Path | None, report: Report | None) -> Deployment:
    """A profile that is given may be that of the packed engine, or of the one behind it, which is always needed."""
    given = None if file is None or choice.engine != PACKED else Profile.load(file)
    if given is not None and given.device.engine == PACKED:
        _check_fits(given, folder)
        profile = choose_profile(folder, choice.behind, None, report)
        return Deployment(folder, choice, profile, packing=Packing.of(folder, choice, given))
    profile = choose_profile(folder, choice.behind, file, report)
    return Deployment(folder, choice, profile, packing=Packing.of(folder, choice))


def _engine_wish(config: Config) -> str:
    """What is asked for; what was compiled on this machine may not be there on other nodes, but for GPUs nothing is."""
    workers = config.workers
    if workers.pool == "ray" and workers.engine == PACKED:
        raise ConfigError("workers.engine = 'packed': works on this machine only: with --pool ray use --engine eager")
    on_nodes = workers.pool == "ray" and workers.device != CUDA and emulated_profile(workers.device) is None
    return "eager" if on_nodes and workers.engine == "auto" else workers.engine


def _take_named(folders: list[ModelFolder], config: Config) -> None:
    """Add the models that the configuration names, and see to it that names are names of one model each."""
    for name, settings in config.models.items():
        if settings.source is not None and name not in {folder.config.name for folder in folders}:
            folder = ModelFolder.resolve(settings.source)
            if folder.config.name != name:
                raise ConfigError(
                    f"models.{name}.source: {settings.source} holds model {folder.config.name!r}: "
                    f"call the section [models.{folder.config.name}]"
                )
            folders.append(folder)
    by_name: dict[str, ModelFolder] = {}
    for folder in folders:
        other = by_name.setdefault(folder.config.name, folder)
        if other is not folder:
            raise ConfigError(
                f"{other.path} and {folder.path} both hold a model {folder.config.name!r}: "
                f"change `name` in one of their config.json"
            )


def choose_profile(
    folder: ModelFolder, choice: EngineChoice, profile_file: Path | None = None, report: Report | None = None
) -> Profile:
    """The profile to plan with: the emulated device's, the given file, the kept one, or one measured now (10 s).

    Raises:
        ProfileError: if it cannot be read or does not fit the model.
        WorkerError: if it has to be measured and a worker fails.
    """
    emulated = emulated_sources(choice.device)
    if emulated:
        return Profile.load(emulated[0]).longest  # emulated workers read no texts
    profile = Profile.load(profile_file) if profile_file is not None else _kept_or_measured(folder, choice, report)
    _check_engine(profile, choice)
    _check_fits(profile, folder)
    _tell_doubts(profile, folder)
    return profile


def kept_profile(folder: ModelFolder, choice: EngineChoice, profile_file: Path | None = None) -> Profile:
    """`choose_profile` where nothing may be measured, because other models run on the workers' cores.

    Raises:
        ProfileError: if there is none, it cannot be read, or it does not fit the model.
    """
    from superserve.profiler import find_profile  # noqa: PLC0415  (as below)

    if emulated_profile(choice.device) is None and profile_file is None and find_profile(folder, choice) is None:
        raise ProfileError(
            f"no profile of {folder.path}, {choice}, on this machine: run `superserve profile {folder.path}` first"
        )
    return choose_profile(folder, choice, profile_file)


def _kept_or_measured(folder: ModelFolder, choice: EngineChoice, report: Report | None) -> Profile:
    from superserve.profiler import find_profile, measure, save_profile  # noqa: PLC0415  (needed only without a file)

    found = find_profile(folder, choice)
    if found is not None:
        return found
    _logger.info("no profile of %s, %s, on this machine yet: measuring one, about 10 s", folder.config.name, choice)

    def progress(step: "Progress") -> None:
        if report is not None:
            report(step.done, step.total, f"profile: {step.stage}")

    measured = measure(folder, quick=True, choice=choice, report=progress).profile
    save_profile(folder, measured)
    return measured


def _tell_doubts(profile: Profile, folder: ModelFolder) -> None:
    """A doubtful profile is planned with, for there is no better one, but not silently."""
    if profile.doubts:
        _logger.warning(
            "the profile of %s is doubtful: the machine was busy while it was measured (%s). Plans with it are too "
            "cautious: smaller subnets than there is time for. Run `superserve profile %s` while the machine is idle, "
            "or serve with --reprofile, which measures it again between requests, for the next start",
            folder.config.name,
            "; ".join(profile.doubts),
            folder.config.name if folder.bundled else folder.path,
        )


def _check_engine(profile: Profile, choice: EngineChoice) -> None:
    """A profile that somebody chose is planned with, whatever it was measured on; a mistake is worth a warning."""
    device = profile.device
    if (device.engine, device.dtype) != (choice.engine, choice.dtype):
        _logger.warning(
            "the profile was measured on engine %s %s, but workers run %s: latencies will differ from the plan",
            device.engine,
            device.dtype,
            choice,
        )


def _check_fits(profile: Profile, folder: ModelFolder) -> None:
    front = [record.id for record in folder.front.subnets]
    if profile.model_hash != folder.model_hash or [subnet.id for subnet in profile.subnets] != front:
        raise ProfileError(
            f"the profile was measured on another model than {folder.path} holds: run `superserve profile` again"
        )
    lengths = folder.config.preprocessing.get("lengths", ())
    if profile.shorter and [bucket.length for bucket in profile.shorter] != list(lengths[:-1]):
        raise ProfileError(
            f"the profile was measured with other lengths than {list(lengths)}, which texts are padded to: "
            "run `superserve profile` again"
        )
    if profile.batches[-1] > folder.config.max_batch_size:
        raise ProfileError(
            f"the profile goes up to batch {profile.batches[-1]}, but max_batch_size of the model is "
            f"{folder.config.max_batch_size}: run `superserve profile` again"
        )
