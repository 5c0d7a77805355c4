from pathlib import Path
from typing import Any

import msgspec
import pytest

from superserve.errors import ConfigError
from superserve.serving.config import Config, flag_of, resolve

KEYS = [
    f"{section}.{field}"
    for section in Config.__struct_fields__
    if section != "models"
    for field in getattr(Config(), section).__struct_fields__
]

#: A value other than the default, and the same as text.
OTHER: dict[str, tuple[Any, str]] = {
    "server.host": ("0.0.0.0", "0.0.0.0"),  # noqa: S104  (nothing listens)
    "server.http_port": (9000, "9000"),
    "server.grpc_port": (9001, "9001"),
    "server.metrics_port": (9002, "9002"),
    "server.max_body_memory_bytes": (1 << 33, str(1 << 33)),
    "server.log_format": ("json", "json"),
    "server.drain_timeout_s": (1.5, "1.5"),
    "server.tls_certificate": ("cert.pem", "cert.pem"),
    "server.tls_key": ("key.pem", "key.pem"),
    "server.tokens": ("tokens", "tokens"),
    "server.admin_tokens": ("admins", "admins"),
    "http.max_connections": (7, "7"),
    "http.max_body_bytes": (1000, "1000"),
    "http.max_header_bytes": (2000, "2000"),
    "http.max_headers": (8, "8"),
    "http.max_pipelined": (9, "9"),
    "http.read_timeout_s": (2.5, "2.5"),
    "http.write_timeout_s": (3.5, "3.5"),
    "http.idle_timeout_s": (4.5, "4.5"),
    "grpc.enabled": (False, "false"),
    "grpc.max_message_bytes": (5000, "5000"),
    "grpc.max_metadata_bytes": (6000, "6000"),
    "grpc.max_streams_per_connection": (5, "5"),
    "grpc.max_calls": (6, "6"),
    "model.policy": ("fixed:largest", "fixed:largest"),
    "model.slo_ms": (36.0, "36"),
    "model.timeout_action": ("delay", "delay"),
    "model.max_queued": (10, "10"),
    "model.decisions": (0, "0"),
    "repository.folder": ("/models", "/models"),
    "idle.reprofile": (True, "true"),
    "ledger.share": (0.01, "0.01"),
    "ledger.max_bytes": (4096, "4096"),
    "record.folder": ("/record", "/record"),
    "record.max_bytes": (1000, "1000"),
    "record.segment_s": (1.5, "1.5"),
    "otel.endpoint": ("http://collector:4318", "http://collector:4318"),
    "otel.sampled": (0.5, "0.5"),
    "workers.count": (3, "3"),
    "workers.pool": ("ray", "ray"),
    "workers.ray_address": ("head:6379", "head:6379"),
    "workers.device": ("emulated:r-profile", "emulated:r-profile"),
    "workers.engine": ("compiled", "compiled"),
    "workers.engine_memory": ("200MB", "200MB"),
    "workers.dtype": ("bfloat16", "bfloat16"),
}


def value_of(config: Config, key: str) -> object:
    section, _, field = key.partition(".")
    return getattr(getattr(config, section), field)


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "server.toml"
    path.write_text(text)
    return path


def env_name(key: str) -> str:
    return "SUPERSERVE_" + key.upper().replace(".", "__")


def test_every_key_is_tried_here() -> None:
    """A new key shows up in this file."""
    assert sorted(KEYS) == sorted(OTHER)


def test_without_anything_defaults_hold() -> None:
    """And say that they are defaults."""
    config, provenance = resolve({}, {})
    assert config == Config()
    assert (config.server.host, config.server.http_port) == ("127.0.0.1", 8000)
    assert provenance == dict.fromkeys(KEYS, "default")


@pytest.mark.parametrize("key", KEYS)
def test_every_key_reaches_its_field_from_every_source(key: str, tmp_path: Path) -> None:
    """Flag, environment and file; the provenance names which."""
    value, text = OTHER[key]
    section, _, field = key.partition(".")
    file = toml(tmp_path, f"[{section}]\n{field} = {msgspec.json.encode(value).decode()}\n")
    for resolved, source in (
        (resolve({key: value}, {}), f"flag {flag_of(key)}"),
        (resolve({}, {env_name(key): text}), f"environment {env_name(key)}"),
        (resolve({}, {}, file), f"file {file}"),
    ):
        assert value_of(resolved.config, key) == value
        assert resolved.provenance == dict.fromkeys(KEYS, "default") | {key: source}


def test_a_flag_beats_the_environment_beats_the_file(tmp_path: Path) -> None:
    """And a flag that was not given (None) beats nothing."""
    key = "server.http_port"
    file = toml(tmp_path, "[server]\nhttp_port = 1\n")
    environ = {env_name(key): "2"}
    assert resolve({key: 3}, environ, file).config.server.http_port == 3
    assert resolve({key: None}, environ, file).config.server.http_port == 2
    assert resolve({}, {}, file).config.server.http_port == 1


def test_other_environment_variables_are_none_of_ours() -> None:
    """Neither other programs' nor our own that are no settings."""
    assert resolve({}, {"SUPERSERVE_CACHE": "/x", "A__B": "1"}).config == Config()


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("[server]\nhttp_prot = 1", r"file .*'server.http_prot'.*did you mean 'server.http_port'"),
        ("[sever]\nhttp_port = 1", r"\[sever\].*did you mean 'server'"),
        ("port = 1", r"\[port\]"),
        ("server = 1", "server must be a section"),
        ("[server]\nhttp_port = '80'", "server.http_port = '80'.*int"),
        ("[server]\nhttp_port = 70000", "server.http_port.*65535"),
        ("[server]\nhttp_port = true", "server.http_port"),
        ("[model]\nslo_ms = 0", "model.slo_ms"),
        ("[model]\npolicy = 'slackfitt'", "model.policy.*'slackfitt'.*did you mean 'slackfit'"),
        ("[model]\ntimeout_action = 'drop'", "model.timeout_action"),
        ("[workers]\ncount = 0", "workers.count"),
        ("[workers]\ndevice = 'gpu'", "workers.device.*'gpu'.*emulated:PROFILE"),
        ("[workers]\ndevice = 'emulated:'", "workers.device"),
        ("[server\n", "server.toml"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, text: str, pattern: str) -> None:
    """With the key, the file, and what would fit."""
    file = toml(tmp_path, text)
    with pytest.raises(ConfigError, match=pattern) as caught:
        resolve({}, {}, file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "pattern"),
    [
        ({"SUPERSERVE_SERVER__HTTP_PROT": "1"}, "SUPERSERVE_SERVER__HTTP_PROT.*did you mean 'server.http_port'"),
        ({"SUPERSERVE_SERVER__HTTP_PORT": "eighty"}, "SUPERSERVE_SERVER__HTTP_PORT.*'eighty'"),
        ({"SUPERSERVE_MODEL__POLICY": "best"}, "SUPERSERVE_MODEL__POLICY.*'best'"),
    ],
)
def test_so_is_the_environment(environ: dict[str, str], pattern: str) -> None:
    """With the variable's name."""
    with pytest.raises(ConfigError, match=pattern):
        resolve({}, environ)


def test_so_are_flags() -> None:
    """With the flag's name."""
    with pytest.raises(ConfigError, match=r"flag --workers: workers.count = -1"):
        resolve({"workers.count": -1}, {})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """It was asked for, so it must be there."""
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        resolve({}, {}, tmp_path / "absent.toml")


PER_MODEL = """
[model]
policy = "slackfit"
slo_ms = 40

[models.digits]
slo_ms = 20
source = "digits"

[models."ofa.small"]
policy = "maxacc"
profile = "p.json"
"""


def test_models_have_settings_of_their_own(tmp_path: Path) -> None:
    """What is not said of a model by name, the section for all of them says."""
    config, provenance = resolve({}, {}, toml(tmp_path, PER_MODEL))
    digits, small, other = (config.settings(name) for name in ("digits", "ofa.small", "other"))
    assert (digits.policy, digits.slo_ms, digits.source, digits.profile) == ("slackfit", 20, "digits", None)
    assert (small.policy, small.slo_ms, small.source, small.profile) == ("maxacc", 40, None, "p.json")
    assert (other.policy, other.slo_ms, other.max_queued) == ("slackfit", 40, 20_000)
    assert provenance["models.digits.slo_ms"] == f"file {tmp_path / 'server.toml'}"
    assert "models.digits.policy" not in provenance


def test_what_is_said_later_of_all_models_beats_what_was_said_of_one(tmp_path: Path) -> None:
    """A flag beats the file, whatever the file says it of; the environment can name a model, too."""
    file = toml(tmp_path, PER_MODEL)
    flagged = resolve({"model.slo_ms": 7.0}, {}, file)
    assert [flagged.config.settings(name).slo_ms for name in ("digits", "other")] == [7.0, 7.0]
    assert "models.digits.slo_ms" not in flagged.provenance
    environ = {"SUPERSERVE_MODELS__DIGITS__SLO_MS": "9", "SUPERSERVE_MODEL__SLO_MS": "8"}
    named = resolve({}, environ, file)
    assert [named.config.settings(name).slo_ms for name in ("digits", "other")] == [9.0, 8.0]
    assert named.values["models.digits.slo_ms"] == 9.0
    assert named.values["server.http_port"] == 8000


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("[models.digits]\npolcy = 'x'", "unknown key 'models.digits.polcy'"),
        ("[models]\ndigits = 1", r"\[models.digits\]"),
        ("[models.digits]\npolicy = 'best'", "models.digits.policy.*'best'"),
        ("[models.digits]\nslo_ms = 0", "models.digits.slo_ms"),
    ],
)
def test_mistakes_about_a_model_name_it(tmp_path: Path, text: str, pattern: str) -> None:
    """As those about everything else."""
    with pytest.raises(ConfigError, match=pattern):
        resolve({}, {}, toml(tmp_path, text))


@pytest.mark.parametrize("key", ["http.max_body_bytes", "grpc.max_message_bytes"])
def test_one_body_may_not_have_more_memory_than_all(key: str) -> None:
    """It could never be accepted."""
    with pytest.raises(ConfigError, match=f"{key} = 2000000000 is more than server.max_body_memory_bytes = 1073741824"):
        resolve({key: 2_000_000_000}, {})
    resolve({key: 2_000_000_000, "server.max_body_memory_bytes": 2_000_000_000}, {})


@pytest.mark.parametrize(
    ("flags", "refused"),
    [
        ({}, False),
        ({"server.host": "localhost"}, False),
        ({"server.host": "::1"}, False),
        ({"server.host": "0.0.0.0"}, True),  # noqa: S104
        ({"server.tokens": "tokens"}, True),
        ({"server.host": "0.0.0.0", "server.admin_tokens": "admins"}, False),  # noqa: S104
    ],
)
def test_loading_models_takes_a_token_of_its_own(flags: dict[str, object], refused: bool) -> None:
    """Unless whoever reaches the server is a user of this machine, and nobody is asked for a token."""
    flags = {"repository.folder": "/models", **flags}
    if refused:
        with pytest.raises(ConfigError, match=r"server\.admin_tokens"):
            resolve(flags, {})
    else:
        assert resolve(flags, {}).config.repository.folder == "/models"


def test_only_nodes_of_a_cluster_are_of_several_real_devices() -> None:
    """And emulated ones are of several anywhere."""
    with pytest.raises(ConfigError, match=r"workers\.device = 'cuda,cpu'.*--pool ray"):
        resolve({"workers.device": "cuda,cpu"}, {})
    for device, pool in (("cuda,cpu", "ray"), ("emulated:a,b", "local")):
        assert resolve({"workers.device": device, "workers.pool": pool}, {}).config.workers.device == device


def test_workers_on_ray_hold_what_they_were_started_with() -> None:
    """Nobody can load a model into them: a repository would promise that."""
    with pytest.raises(ConfigError, match=r"repository\.folder.*--model-repository"):
        resolve({"workers.pool": "ray", "repository.folder": "/models"}, {})
    with pytest.raises(ConfigError, match=r"workers\.pool = 'spark'.*local, ray"):
        resolve({"workers.pool": "spark"}, {})
