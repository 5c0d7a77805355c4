"""Which static runtimes are installed here, found without importing any."""

from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Final

from superserve.errors import ConfigError

#: By name, which is that of their distribution, too: the dtypes that they compute in as well as we ask.
DTYPES: Final[Mapping[str, tuple[str, ...]]] = {
    "onnxruntime": ("float32",),  # on processors its bfloat16 kernels are few
    "openvino": ("float32", "bfloat16"),
}

#: Writes what both of them read.
_EXPORTER: Final = "onnx"


def version(name: str) -> str | None:
    """The version of a distribution; None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def installed(dtype: str) -> dict[str, str]:
    """The version of each runtime that is installed and computes in a dtype; none if nothing can be exported."""
    if version(_EXPORTER) is None:
        return {}
    found = {name: version(name) for name, dtypes in DTYPES.items() if dtype in dtypes}
    return {name: found_version for name, found_version in found.items() if found_version is not None}


def chosen(names: Sequence[str] | None, dtype: str) -> dict[str, str]:
    """The version of each runtime of these names; of all that are installed if there are none.

    Raises:
        ConfigError: if one is unknown, does not compute in the dtype, or is not installed.
    """
    here = installed(dtype)
    if names is None:
        return here
    for name in names:
        if name not in DTYPES:
            raise ConfigError(f"runtime {name!r} is not one of {', '.join(DTYPES)}")
        if dtype not in DTYPES[name]:
            raise ConfigError(f"runtime {name} is not used in {dtype}: leave it out, or pack in {DTYPES[name][0]}")
        if name not in here:
            raise ConfigError(f"runtime {name}, or {_EXPORTER}, is not installed: pip install 'superserve[runtimes]'")
    return {name: here[name] for name in names}
