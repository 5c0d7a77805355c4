"""SubNetAct: run any subnet of a weight-shared network in place. Torch lives here."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from superserve.supernet.conversion import Conversion, convert

__all__ = ["Conversion", "convert"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 (a function or a class)
    """Import the tracer only for those who convert: a worker that serves has no use for it."""
    if name in __all__:
        from superserve.supernet import conversion  # noqa: PLC0415 (see above)

        return getattr(conversion, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
