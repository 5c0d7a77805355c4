"""What a server is told: options, environment, file and defaults, resolved into one frozen `Config`.

A flag beats the environment (``SUPERSERVE_SECTION__KEY``), which beats the TOML file, which beats the default. What
cannot be used is refused with the name of the key, where its value came from, and what would fit.
"""

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from superserve.clock import NS_PER_S
from superserve.engine import Dtype, EngineName
from superserve.errors import ConfigError
from superserve.loopback import is_loopback
from superserve.memory_sizes import bytes_of
from superserve.scheduling.policy import DEFAULT_POLICY, TimeoutAction, policy_names
from superserve.serving.devices import CPU, emulated_profile, single_devices

_ENVIRONMENT_PREFIX: Final = "SUPERSERVE_"

_Port = Annotated[int, Meta(ge=0, le=65535)]
_Count = Annotated[int, Meta(ge=1)]
_Seconds = Annotated[float, Meta(gt=0, le=86_400)]


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[server]``: where it listens, and how it ends."""

    host: str = "127.0.0.1"
    """Address to listen on; by default only this machine reaches it."""
    tls_certificate: str | None = None
    """Certificate chain (PEM) of all front ends, with ``tls_key``; default: no TLS."""
    tls_key: str | None = None
    """Its private key (PEM)."""
    tokens: str | None = None
    """File of bearer tokens, one a line, that only its owner may read; default: nobody is asked for one. Health is told
    without."""
    admin_tokens: str | None = None
    """File of the tokens that may load and unload models and have profiles measured; needed for that wherever others
    than this machine's users can reach the server, or ``tokens`` are asked for."""
    http_port: _Port = 8000
    """Port of the HTTP front end; 0 takes a free one."""
    grpc_port: _Port | None = None
    """Port of the gRPC front end; 0 takes a free one; default: 8001, or none with a warning if that is in use."""
    metrics_port: _Port | None = None
    """Port that Prometheus reads from; 0 takes a free one; default: 8002, or none with a warning if that is in use."""
    max_body_memory_bytes: _Count = 1024 * 1024 * 1024
    """Bytes of request bodies, of all clients of both front ends, that may be in memory at once. What would exceed them
    is answered with 503 or UNAVAILABLE. At least as much as one body may have."""
    log_format: Literal["console", "json"] = "console"
    """How lines of the log look: to be read, or a JSON object each, with the ids of requests as ``request_id``."""
    drain_timeout_s: Annotated[float, Meta(ge=0, le=86_400)] = 30.0
    """How long a server that was told to stop waits for what it has admitted."""


class HttpConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[http]``: bounds of the HTTP front end."""

    max_connections: _Count = 4096
    """One more is answered with 503 and closed."""
    max_body_bytes: _Count = 64 * 1024 * 1024
    """A larger body is answered with 413 without being read."""
    max_header_bytes: _Count = 32 * 1024
    """Bytes of a request's target and headers."""
    max_headers: _Count = 100
    """Headers of a request."""
    max_pipelined: _Count = 64
    """Requests of one connection that may wait for their answers; no more are read until some are answered."""
    read_timeout_s: _Seconds = 30.0
    """From the first to the last byte of a request."""
    write_timeout_s: _Seconds = 30.0
    """How long a client may leave its answers unread."""
    idle_timeout_s: _Seconds = 300.0
    """How long a connection may stay unused."""

    @property
    def read_timeout_ns(self) -> int:
        """`read_timeout_s` in nanoseconds."""
        return int(self.read_timeout_s * NS_PER_S)

    @property
    def write_timeout_ns(self) -> int:
        """`write_timeout_s` in nanoseconds."""
        return int(self.write_timeout_s * NS_PER_S)

    @property
    def idle_timeout_ns(self) -> int:
        """`idle_timeout_s` in nanoseconds."""
        return int(self.idle_timeout_s * NS_PER_S)


class GrpcConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[grpc]``: bounds of the gRPC front end."""

    enabled: bool = True
    """Whether there is one."""
    max_message_bytes: _Count = 64 * 1024 * 1024
    """A larger request is answered with RESOURCE_EXHAUSTED without being read."""
    max_metadata_bytes: _Count = 32 * 1024
    """Bytes of a call's metadata."""
    max_streams_per_connection: _Count = 4096
    """Calls of one connection that may be under way; more wait at the client."""
    max_calls: _Count = 20_000
    """Calls that may be under way; one more is answered with RESOURCE_EXHAUSTED."""


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[model]``: how the requests of a model are scheduled, each model's unless something is said of it by name."""

    policy: str = DEFAULT_POLICY
    """Name of the scheduling policy, such as ``slackfit`` or ``fixed:largest``."""
    slo_ms: Annotated[float, Meta(gt=0, le=86_400_000)] | None = None
    """Deadline of requests that state none; default: from the profile (max(50, 1.17 x its largest cell))."""
    timeout_action: TimeoutAction = "reject"
    """What becomes of requests whose deadline cannot be met: ``reject`` (504) or ``delay`` (served late)."""
    max_queued: _Count = 20_000
    """Requests that may wait; one more is answered with 429."""
    decisions: Annotated[int, Meta(ge=0, le=1_000_000)] = 2_000
    """So many of the latest batches, and of the requests without an answer, `superserve why` can explain; 0: none.

    They take up to 0.4 KB a request."""


class NamedModelSettings(ModelSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[models.NAME]``: the same for one model; what is not said here, ``[model]`` says."""

    source: str | None = None
    """A model folder, or the name of a bundled model: it is served without being named on the command line."""
    profile: str | None = None
    """A profile to plan with; default: the kept one of this machine."""


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[workers]``: the processes that run batches."""

    pool: Literal["local", "ray"] = "local"
    """Where they run: on this machine, or as actors on the nodes of a Ray cluster (extra ``ray``)."""
    ray_address: str | None = None
    """``host:port`` of the head of that cluster; default: the one that this machine belongs to, or one of its own."""
    count: _Count | None = None
    """How many; default: one per core that the router leaves, and one on a GPU; on a Ray cluster, one for each CPU that
    is free there, less one for the router, or for each GPU, and more as it grows."""
    device: str = CPU
    """``cpu``, ``cuda``, or ``emulated:PROFILE`` (a file or a bundled profile) for workers that only pretend.

    Of several, ``emulated:PROFILE,PROFILE``, workers have them in turns. On a Ray cluster real ones may be several,
    too, ``cuda,cpu``, and workers have what their nodes have, the first one first; an emulated device is a resource
    there that is called like its profile.
    """
    engine: EngineName = "auto"
    """``eager`` (plain torch), ``compiled`` (what `superserve compile` built), ``packed`` (subnets that are used much
    run from packed copies of their weights, the others compiled or eager), ``graphs`` (on ``cuda``), or ``auto``:
    compiled if it is there, packed on top of that if `superserve pack` has been run, on ``cuda`` graphs."""
    engine_memory: str | None = None
    """What packed subnets may take on this machine beside the one copy of the weights, of all models together: a
    number of bytes, one with a unit such as ``200MB`` or ``1.5GiB``, or ``all``; default: what the largest subnet and
    the smallest take, of each model."""
    dtype: Dtype = "auto"
    """``float32``, ``bfloat16``, ``int8`` (on the packed engine, and never unasked), or ``auto``: the fastest that was
    compiled, else float32."""

    @property
    def engine_memory_bytes(self) -> int | None:
        """`engine_memory` in bytes; None if nothing is said."""
        return None if self.engine_memory is None else bytes_of(self.engine_memory)


class RepositoryConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[repository]``: models that clients may have loaded and unloaded while the server runs."""

    folder: str | None = None
    """Folder of model folders, each named like its model; default: nobody may load or unload anything.

    Whoever can reach the server can do both, unless ``server.admin_tokens`` asks for a token."""


class RecordConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[record]``: arrivals and outcomes of requests, without their tensors, for ``superserve simulate``."""

    folder: str | None = None
    """A folder per model is made in this one; default: nothing is recorded."""
    max_bytes: _Count = 1024 * 1024 * 1024
    """Of each model's segments together; the oldest are deleted."""
    segment_s: _Seconds = 60.0
    """What has ended in so many seconds makes a segment: what is lost if the server is killed."""


class OtelConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[otel]``: traces of single requests; what is not said here, the variables of OpenTelemetry (``OTEL_*``) say."""

    endpoint: str | None = None
    """URL of a collector that takes OTLP over HTTP, such as ``http://localhost:4318``; default: that of
    ``OTEL_EXPORTER_OTLP_ENDPOINT``, or no traces. Needs the extra ``superserve[otel]``."""
    sampled: Annotated[float, Meta(ge=0, le=1)] = 0.01
    """Share of requests that are traced, of those whose client does not say; ``OTEL_TRACES_SAMPLER`` beats it."""


class LedgerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[ledger]``: degraded requests that are run again on the largest subnet in idle time, to see what they lost."""

    share: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """Of the requests that a smaller subnet has answered, to sample; default: none."""
    max_bytes: _Count = 16 * 1024 * 1024
    """Of each model's samples that wait for idle time, in memory."""


class IdleConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[idle]``: what else workers may do while no requests come."""

    reprofile: bool = False
    """Whether clients may have profiles measured anew; a doubtful one is then measured again unasked.

    Whoever can reach the server can do that, unless ``server.admin_tokens`` asks for a token."""


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole tree."""

    server: ServerConfig = ServerConfig()
    http: HttpConfig = HttpConfig()
    grpc: GrpcConfig = GrpcConfig()
    model: ModelSettings = ModelSettings()
    models: dict[str, NamedModelSettings] = msgspec.field(default_factory=dict)
    workers: WorkerSettings = WorkerSettings()
    repository: RepositoryConfig = RepositoryConfig()
    record: RecordConfig = RecordConfig()
    otel: OtelConfig = OtelConfig()
    ledger: LedgerConfig = LedgerConfig()
    idle: IdleConfig = IdleConfig()

    def settings(self, name: str) -> NamedModelSettings:
        """What holds for a model."""
        return self.models.get(name) or NamedModelSettings(**msgspec.structs.asdict(self.model))


class Resolved(NamedTuple):
    """A configuration, and per ``section.key`` (``models.NAME.key``) where its value came from."""

    config: Config
    provenance: dict[str, str]

    @property
    def values(self) -> dict[str, object]:
        """The value of each key of ``provenance``."""
        return {key: _value(self.config, key) for key in self.provenance}


class _Given(NamedTuple):
    key: str
    value: object
    source: str
    is_text: bool


#: The section that has a part for each model.
_MODELS: Final = "models"

_SECTIONS: Final[dict[str, type[msgspec.Struct]]] = {
    name: kind for name, kind in get_type_hints(Config).items() if name in Config.__struct_fields__ and name != _MODELS
}
_KEYS: Final[dict[str, Any]] = {
    f"{section}.{field}": hint
    for section, kind in _SECTIONS.items()
    for field, hint in get_type_hints(kind, include_extras=True).items()
    if field in kind.__struct_fields__
}
_MODEL_KEYS: Final[dict[str, Any]] = {
    field: hint
    for field, hint in get_type_hints(NamedModelSettings, include_extras=True).items()
    if field in NamedModelSettings.__struct_fields__
}

#: Flags whose name is not their key's with dashes.
_FLAGS: Final = {
    "workers.count": "--workers",
    "workers.engine_memory": "--engine-memory",
    "server.http_port": "--http-port",
    "server.grpc_port": "--grpc-port",
    "server.metrics_port": "--metrics-port",
    "repository.folder": "--model-repository",
    "record.folder": "--record",
    "otel.endpoint": "--otel-endpoint",
    "otel.sampled": "--otel-sampled",
    "ledger.share": "--ledger",
}


def resolve(flags: Mapping[str, object], environ: Mapping[str, str], file: Path | None = None) -> Resolved:
    """Resolve a configuration.

    Args:
        flags: ``section.key`` to value; None means that the flag was not given.
        environ: the environment; names without a double underscore are none of ours.
        file: a TOML file.

    Raises:
        ConfigError: for an unknown key, a value of the wrong type or out of range, an unknown policy or device, values
            that contradict each other, or a file that cannot be read.
    """
    values: dict[str, object] = {}
    provenance = dict.fromkeys(_KEYS, "default")
    for source in (_from_file(file), _from_environment(environ), _from_flags(flags)):
        # What is said of all models comes first: it beats what an earlier source says of one, and no more.
        for given in sorted(source, key=lambda given: given.key.startswith(f"{_MODELS}.")):
            if given.key.startswith("model."):
                _forget_models(values, provenance, given.key.removeprefix("model."))
            values[given.key] = _convert(given)
            provenance[given.key] = given.source
    config = msgspec.convert(_tree(values), Config)
    _check_memory(config)
    _check_access(config)
    _check_pool(config)
    return Resolved(config, provenance)


def _check_memory(config: Config) -> None:
    most = config.server.max_body_memory_bytes
    for key, one in (
        ("http.max_body_bytes", config.http.max_body_bytes),
        ("grpc.max_message_bytes", config.grpc.max_message_bytes),
    ):
        if one > most:
            raise ConfigError(f"{key} = {one} is more than server.max_body_memory_bytes = {most}: raise that, too")


def _check_access(config: Config) -> None:
    server = config.server
    if server.admin_tokens is not None or (server.tokens is None and is_loopback(server.host)):
        return
    for key, is_on, what in (
        ("repository.folder", config.repository.folder is not None, "load and unload models"),
        ("idle.reprofile", config.idle.reprofile, "have profiles measured"),
    ):
        if is_on:
            raise ConfigError(f"{key}: clients could {what}: give server.admin_tokens, a file of tokens that allow it")


def _check_pool(config: Config) -> None:
    workers = config.workers
    if workers.pool != "ray" and emulated_profile(workers.device) is None and len(single_devices(workers.device)) > 1:
        raise ConfigError(
            f"workers.device = {workers.device!r}: the workers of one machine are of one device; several are for "
            "workers.pool = 'ray' (--pool ray)"
        )
    if workers.pool == "ray" and config.repository.folder is not None:
        raise ConfigError(
            "repository.folder: the workers of workers.pool = 'ray' hold the models that they were started with: leave "
            "out --model-repository, and name the models"
        )


def _forget_models(values: dict[str, object], provenance: dict[str, str], field: str) -> None:
    """Drop what was said of one model, for all of them are told now."""
    for key in [key for key in values if key.startswith(f"{_MODELS}.") and key.endswith(f".{field}")]:
        del values[key], provenance[key]


def _tree(values: Mapping[str, object]) -> dict[str, Any]:
    tree: dict[str, Any] = {section: {} for section in (*_SECTIONS, _MODELS)}
    for key, value in values.items():
        section, _, rest = key.partition(".")
        name, _, field = rest.rpartition(".")
        (tree[section].setdefault(name, {}) if name else tree[section])[field] = value
    for name, one in tree[_MODELS].items():
        tree[_MODELS][name] = {**tree["model"], **one}
    return tree


def _value(config: Config, key: str) -> object:
    section, _, rest = key.partition(".")
    name, _, field = rest.rpartition(".")
    return getattr(config.models[name] if name else getattr(config, section), field)


def flag_of(key: str) -> str:
    """The command-line flag of a key."""
    return _FLAGS.get(key) or "--" + key.partition(".")[2].replace("_", "-")


def _from_file(file: Path | None) -> Iterator[_Given]:
    if file is None:
        return
    try:
        tree = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"config file {file}: {error}") from None
    for section, content in tree.items():
        if section not in {*_SECTIONS, _MODELS}:
            raise ConfigError(f"config file {file}: unknown section [{section}]{_close(section, _SECTIONS)}")
        if not isinstance(content, dict):
            raise ConfigError(f"config file {file}: {section} must be a section: [{section}]")
        for field, value in content.items():
            if section != _MODELS:
                yield _checked(_Given(f"{section}.{field}", value, f"file {file}", is_text=False))
                continue
            if not isinstance(value, dict):
                raise ConfigError(f"config file {file}: {_MODELS}.{field} must be a section: [{_MODELS}.{field}]")
            for key, one in value.items():
                yield _checked(_Given(f"{_MODELS}.{field}.{key}", one, f"file {file}", is_text=False))


def _from_environment(environ: Mapping[str, str]) -> Iterator[_Given]:
    for name, value in sorted(environ.items()):
        if name.startswith(_ENVIRONMENT_PREFIX) and "__" in name:
            key = name.removeprefix(_ENVIRONMENT_PREFIX).lower().replace("__", ".")
            yield _checked(_Given(key, value, f"environment {name}", is_text=True))


def _from_flags(flags: Mapping[str, object]) -> Iterator[_Given]:
    for key, value in flags.items():
        if value is not None:
            yield _checked(_Given(key, value, f"flag {flag_of(key)}", is_text=False))


def _checked(given: _Given) -> _Given:
    if _hint(given.key) is None:
        raise ConfigError(f"{given.source}: unknown key {given.key!r}{_close(given.key, _KEYS)}")
    return given


def _hint(key: str) -> Any:  # noqa: ANN401  (types are any objects)
    """The type of a key's value; None if there is no such key."""
    section, _, rest = key.partition(".")
    name, _, field = rest.rpartition(".")
    return _MODEL_KEYS.get(field) if section == _MODELS and name else _KEYS.get(key)


def _close(name: str, known: Mapping[str, object]) -> str:
    found = difflib.get_close_matches(name, known, n=1)
    return f": did you mean {found[0]!r}?" if found else f"; known: {', '.join(known)}"


def _convert(given: _Given) -> object:
    hint = _hint(given.key)
    try:
        value: object = msgspec.convert(given.value, hint, strict=not given.is_text)
    except msgspec.ValidationError as error:
        known = get_args(hint) if get_origin(hint) is Literal else ()
        fix = f"; it may be {', '.join(known)}" if known else ""
        raise ConfigError(f"{given.source}: {given.key} = {given.value!r}: {error}{fix}") from None
    if given.key.endswith(".policy"):
        _check_policy(given, str(value))
    if given.key == "workers.engine_memory" and value is not None:
        _check_size(given, str(value))
    if given.key == "workers.device":
        _check_device(given, str(value))
    return value


def _check_policy(given: _Given, name: str) -> None:
    known = policy_names()
    kind = name.partition(":")[0]
    if kind not in known:
        close = _close(kind, dict.fromkeys(known))
        raise ConfigError(f"{given.source}: {given.key}: policy {name!r} is unknown{close}")


def _check_size(given: _Given, size: str) -> None:
    try:
        bytes_of(size)
    except ConfigError as error:
        raise ConfigError(f"{given.source}: {given.key}: {error}") from None


def _check_device(given: _Given, device: str) -> None:
    try:
        single_devices(device)
    except ConfigError as error:
        raise ConfigError(f"{given.source}: {given.key}: {error}") from None
