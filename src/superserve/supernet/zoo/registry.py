"""Architecture families by name: what ``family`` in ``config.json`` may say."""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec

from superserve.errors import ConfigError
from superserve.supernet.network import ElasticNetwork

C = TypeVar("C", bound=msgspec.Struct)
Builder = Callable[[Mapping[str, Any]], ElasticNetwork]

_FAMILIES: Final[dict[str, Builder]] = {}


def register(family: str, config: type[C]) -> Callable[[Callable[[C], ElasticNetwork]], Callable[[C], ElasticNetwork]]:
    """Register a builder under a family name; its config struct checks ``architecture`` of ``config.json``."""

    def decorate(build: Callable[[C], ElasticNetwork]) -> Callable[[C], ElasticNetwork]:
        assert family not in _FAMILIES, f"family {family!r} is registered twice"
        _FAMILIES[family] = lambda architecture: build(msgspec.convert(architecture, config))
        return build

    return decorate


def families() -> tuple[str, ...]:
    """The registered names."""
    return tuple(sorted(_FAMILIES))


def build_network(family: str, architecture: Mapping[str, Any]) -> ElasticNetwork:
    """Build a network with freshly initialised weights.

    Raises:
        ConfigError: for an unknown family, or an architecture with an unknown, missing or impossible key.
    """
    if family not in _FAMILIES:
        raise ConfigError(f"family {family!r} is not one of {', '.join(families())}")
    try:
        return _FAMILIES[family](architecture)
    except msgspec.ValidationError as error:
        raise ConfigError(f"architecture of family {family!r}: {error}") from None
