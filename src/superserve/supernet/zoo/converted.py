"""Converted models in model folders: family ``converted``.

Such a folder holds weights and the plan of the conversion, but not the Python code of the model: that is the user's.
Loading one therefore imports and runs a function that ``config.json`` names, and does so only where the user allows
that very name: whoever can write a model folder must not get to run code by it.
"""

import importlib
import os
from typing import Any, Final

import msgspec
import torch
from torch import nn

from superserve.errors import ConfigError, ConversionError
from superserve.supernet.conversion.network import ConvertedNetwork, insert
from superserve.supernet.conversion.plan import Plan
from superserve.supernet.zoo.registry import register

#: Environment variable: names of builders that may run, ``package.module:function``, separated by commas.
ALLOW: Final = "SUPERSERVE_ALLOW_BUILDERS"


class ConvertedConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``architecture`` of a converted model; `Conversion.architecture` makes it."""

    builder: str
    """``package.module:function`` of the user's function that makes the unconverted model."""
    kwargs: dict[str, Any] = {}
    """Its arguments."""
    plan: Plan


@register("converted", ConvertedConfig)
def converted(config: ConvertedConfig) -> ConvertedNetwork:
    """Build a converted model with the user's own code.

    Raises:
        ConfigError: if the builder is not allowed to run, cannot be imported, or does not make the model that the
            plan was made for.
    """
    build = _resolve(config.builder)
    # Buffers that are computed and not stored need memory; weights get theirs from the file.
    with torch.device("cpu"):
        try:
            model = build(**config.kwargs)
        except Exception as error:
            raise ConfigError(f"builder {config.builder!r} failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"builder {config.builder!r} returned {type(model).__name__}, not a torch module")
    try:
        return insert(model.eval(), config.plan)
    except ConversionError as error:
        raise ConfigError(f"builder {config.builder!r}: {error}") from None


def _resolve(builder: str) -> Any:  # noqa: ANN401 (any callable)
    allowed = [name.strip() for name in os.environ.get(ALLOW, "").split(",")]
    if builder not in allowed:
        raise ConfigError(
            f"this model is built by code of yours, {builder!r}, which is not allowed to run: set {ALLOW}={builder} "
            "if you trust it"
        )
    module, _, function = builder.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"builder {builder!r} cannot be imported: {error}: install its package") from error
