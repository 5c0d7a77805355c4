"""Models that come and go while others are served: the model repository extension, whatever the protocol.

(``docs/protocol/extension_model_repository.md`` of triton-inference-server/server.)
"""

import asyncio
import logging
import re
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from superserve.clock import Clock
from superserve.errors import (
    ConfigError,
    ConflictError,
    InvalidRequestError,
    LoadError,
    ModelFolderError,
    SuperServeError,
    UnavailableError,
    UnknownModelError,
    UnsupportedError,
    WorkerError,
)
from superserve.frontend.deployment import Deployment, Packing, chosen_engine, kept_profile
from superserve.frontend.self_check import check
from superserve.frontend.tracing import Tracing
from superserve.model_folder import CONFIG_FILE, ModelFolder
from superserve.profile import LatencyTable
from superserve.scheduling import create_policy
from superserve.serving.config import Config
from superserve.serving.dataplane import DataPlane, ServedModel
from superserve.serving.metadata import REPOSITORY_EXTENSION, ModelIndex
from superserve.serving.points_ahead import require_points, tell_never_compared
from superserve.serving.pool import WorkerPool
from superserve.serving.shared_pool import SharedPool

_logger = logging.getLogger(__name__)

READY: Final = "READY"
LOADING: Final = "LOADING"
UNLOADING: Final = "UNLOADING"
UNAVAILABLE: Final = "UNAVAILABLE"

#: Names of models that can be loaded: no path, and nothing hidden.
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")
_VERSION: Final = re.compile(r"[0-9]{1,9}")

#: What Triton's clients send with every unload. Models here depend on no others.
_IGNORED_PARAMETERS: Final = frozenset({"unload_dependents"})


class ModelRepository:
    """Loads models from one folder into the workers of a server, and unloads those that are served.

    A model comes from ``FOLDER/NAME``, or from the subfolder of it that is its newest version, and nothing that a
    client sends names any other place. Changes are made one after the other; a client that leaves does not stop one.

    Args:
        config: everything that can be set.
        plane: what is served.
        served: how the models came to be that are served from the start.
        pool: the workers.
        shared: the same, as routers share it.
        clock: time and timers.
        tracing: makes the spans of requests, if there are to be any.

    Raises:
        ConfigError: if the repository's folder is none.
    """

    def __init__(
        self,
        config: Config,
        plane: DataPlane,
        served: Mapping[str, tuple[int, ModelFolder]],
        *,
        pool: WorkerPool,
        shared: SharedPool,
        clock: Clock,
        tracing: Tracing | None = None,
    ) -> None:
        self._config = config
        self._plane = plane
        self._folder = None if config.repository.folder is None else Path(config.repository.folder)
        self._pool = pool
        self._shared = shared
        self._clock = clock
        self._tracing = tracing
        self._served = dict(served)
        """By name: the pool's number, and where it came from."""
        self._changing: dict[str, str] = {}
        self._reasons: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._one_at_a_time = asyncio.Lock()
        self._closed = False
        if self._folder is not None:
            if not self._folder.is_dir():
                raise ConfigError(f"--model-repository (repository.folder): {self._folder} is no folder")
            plane.extensions = (*plane.extensions, REPOSITORY_EXTENSION)
            plane.can_load = self._has

    def index(self, *, ready_only: bool = False) -> list[ModelIndex]:
        """Every model that is served or could be loaded, by name.

        Raises:
            UnsupportedError: if there is no repository.
        """
        names = {*self._plane.models, *self._changing, *self._names()}
        told = [self._told(name) for name in sorted(names)]
        return [each for each in told if each.state == READY] if ready_only else told

    async def load(self, name: str, parameters: Mapping[str, object] | None = None) -> None:
        """Serve a model; nothing happens if it is served already and has not changed.

        One that has changed is replaced: the workers hold both for a while, and when the new one has answered a row of
        zeros, it gets the requests from then on, while the old one answers what it has admitted.

        Raises:
            UnsupportedError: if there is no repository.
            InvalidRequestError: for a name that is none, or parameters.
            UnknownModelError: if the repository has no such model.
            ConflictError: if it is being loaded or unloaded.
            ModelFolderError: if its folder cannot be used.
            ProfileError: if there is no profile to plan with.
            LoadError: if a worker cannot load it, or it does not answer. In any of these cases all is as before.
            UnavailableError: if the server stops meanwhile.
        """
        _check_parameters(parameters)
        folder = self._place(name)
        await self._change(name, LOADING, self._load(name, folder))

    async def unload(self, name: str, parameters: Mapping[str, object] | None = None) -> None:
        """Serve a model no more, once what it has admitted is answered (within ``server.drain_timeout_s``).

        Raises:
            UnsupportedError: if there is no repository.
            InvalidRequestError: for parameters.
            UnknownModelError: if it is not served.
            ConflictError: if it is being loaded or unloaded.
            LoadError: if the workers cannot let go of it: then it is not served, but takes its memory.
            UnavailableError: if the server stops meanwhile.
        """
        _check_parameters(parameters)
        self._root()
        if name in self._changing:
            raise self._conflict(name)
        model = self._plane.model(name)
        await self._change(name, UNLOADING, self._unload(name, model))

    async def close(self) -> None:
        """End what is under way, and begin nothing more; idempotent."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _change(self, name: str, state: str, work: Coroutine[Any, Any, None]) -> None:
        if name in self._changing or self._closed:
            work.close()
            raise UnavailableError("the server is stopping") if self._closed else self._conflict(name)
        self._changing[name] = state
        task = asyncio.ensure_future(self._changed(name, work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
            raise UnavailableError("the server is stopping") from None

    async def _changed(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Make a change, and remember why it could not be made."""
        try:
            async with self._one_at_a_time:
                await work
        except (SuperServeError, OSError) as error:
            self._reasons[name] = str(error)
            _logger.warning("model %s: %s", name, error)
            if isinstance(error, OSError):
                raise ModelFolderError(f"model {name!r} cannot be read: {error}") from error
            raise
        finally:
            work.close()
            del self._changing[name]

    async def _load(self, name: str, folder: ModelFolder) -> None:
        served = name in self._plane.models
        if served and await self._is_unchanged(name, folder):
            return
        number, model = await self._started(name, folder)
        if served:
            await self._replace(number, model, folder)
        else:
            self._served[name] = number, folder
            self._plane.add(model)
            _logger.info("loaded %s", model)
        self._reasons.pop(name, None)

    async def _started(self, name: str, folder: ModelFolder) -> tuple[int, ServedModel]:
        """A model that the workers hold, behind a router that admits requests; and its number."""
        deployment = await asyncio.to_thread(self._prepared, name, folder)
        try:
            number = await self._pool.add(deployment.workers(self._config))
        except WorkerError as error:
            raise LoadError(f"model {name!r} cannot be loaded: {error}") from error
        model = deployment.served(self._config, self._shared, self._clock, number, self._tracing)
        try:
            await model.router.start()
        except BaseException as error:
            await self._pool.remove(number)
            if isinstance(error, WorkerError):
                raise LoadError(f"model {name!r} cannot be loaded: {error}") from error
            raise
        model.mend_profile()
        return number, model

    async def _replace(self, number: int, model: ServedModel, folder: ModelFolder) -> None:
        """Put a started model in the place of the one of its name, if it answers; else take it back."""
        name = model.config.name
        try:
            await check(model, self._clock)
        except BaseException:
            await model.router.stop()
            await self._let_go(number)
            raise
        before_number, _ = self._served[name]
        before = self._plane.replace(model)
        self._served[name] = number, folder
        _logger.info("replaced %s; it answers %d more requests", model, before.router.unfinished)
        try:
            await before.router.drain(self._config.server.drain_timeout_s)
        finally:
            await before.router.stop()
        await self._let_go(before_number)

    async def _let_go(self, number: int) -> None:
        """Have the workers hold a model no more that nobody is served from; at worst, it takes their memory."""
        try:
            await self._pool.remove(number)
        except WorkerError as error:
            _logger.warning("workers still hold a model that is not served any more: %s", error)

    def _prepared(self, name: str, folder: ModelFolder) -> Deployment:
        """Read what there is to know of a model; in another thread, since files may be large."""
        found = folder.config.name
        if found != name:
            raise ModelFolderError(f"{folder.path / CONFIG_FILE}: name is {found!r}: it must be the folder's, {name!r}")
        choice = chosen_engine(folder, self._config)
        settings = self._config.settings(name)
        profile = kept_profile(folder, choice.behind, Path(settings.profile) if settings.profile else None)
        require_points(folder, choice, may_count=False)  # as above: other models run on the cores
        tell_never_compared(folder, choice)
        create_policy(settings.policy, LatencyTable(profile))
        assert folder.model_hash, "kept by the folder, to tell later whether it has changed"
        return Deployment(folder, choice, profile, packing=Packing.of(folder, choice))

    async def _is_unchanged(self, name: str, folder: ModelFolder) -> bool:
        """Whether a model is served as its folder has it."""
        _, before = self._served[name]

        def unchanged() -> bool:
            return folder.path.resolve() == before.path.resolve() and folder.model_hash == before.model_hash

        return await asyncio.to_thread(unchanged)

    async def _unload(self, name: str, model: ServedModel) -> None:
        await model.router.drain(self._config.server.drain_timeout_s)
        await model.router.stop()
        self._plane.remove(model)
        number, _ = self._served.pop(name)
        self._reasons[name] = "unloaded"
        try:
            await self._pool.remove(number)
        except WorkerError as error:
            raise LoadError(f"model {name!r} is not served any more, but workers still hold it: {error}") from error
        _logger.info("unloaded %s", name)

    def _root(self) -> Path:
        if self._folder is None:
            raise UnsupportedError(
                "this server has no model repository: start it with --model-repository DIR (repository.folder)"
            )
        return self._folder

    def _place(self, name: str) -> ModelFolder:
        """Where a model comes from: its own folder, or that of its newest version."""
        root = self._root()
        if not _NAME.fullmatch(name):
            raise InvalidRequestError(f"{name!r} is no name of a model: letters, digits, '_', '.' and '-'")
        if not self._has(name):
            raise UnknownModelError(f"the model repository has no model {name!r}")
        folder = root / name
        if (folder / CONFIG_FILE).is_file():
            return ModelFolder(folder)
        versions = [path for path in folder.iterdir() if _VERSION.fullmatch(path.name) and path.is_dir()]
        return ModelFolder(max(versions, key=lambda path: int(path.name), default=folder))

    def _has(self, name: str) -> bool:
        return self._folder is not None and bool(_NAME.fullmatch(name)) and (self._folder / name).is_dir()

    def _names(self) -> list[str]:
        try:
            return [path.name for path in self._root().iterdir() if self._has(path.name)]
        except OSError as error:
            raise ModelFolderError(f"the model repository cannot be read: {error}") from None

    def _told(self, name: str) -> ModelIndex:
        model = self._plane.models.get(name)
        version = model.config.version if model is not None else ""
        state = self._changing.get(name) or (READY if model is not None else UNAVAILABLE)
        reason = self._reasons.get(name, "not loaded") if state == UNAVAILABLE else ""
        return ModelIndex(name, version, state, reason)

    def _conflict(self, name: str) -> ConflictError:
        what = "loaded" if self._changing[name] == LOADING else "unloaded"
        return ConflictError(f"model {name!r} is being {what}: wait for that")


class RepositoryRequest(msgspec.Struct):
    """The body of the extension's calls over HTTP."""

    ready: bool = False
    parameters: dict[str, msgspec.Raw] = msgspec.field(default_factory=dict)

    @classmethod
    def of(cls, body: bytes) -> "RepositoryRequest":
        """Decode a body, which may be empty.

        Raises:
            InvalidRequestError: if it is something else.
        """
        try:
            return msgspec.json.decode(body or b"{}", type=cls)
        except msgspec.MsgspecError as error:
            raise InvalidRequestError(f"the body: {error}") from None


def _check_parameters(parameters: Mapping[str, object] | None) -> None:
    unknown = sorted((parameters or {}).keys() - _IGNORED_PARAMETERS)
    if unknown:
        raise InvalidRequestError(
            f"parameters: {unknown} cannot be given: a model is loaded as its folder in the repository has it"
        )
