"""The arguments of OFA's ``set_active_subnet``."""

from collections.abc import Sequence

from superserve.errors import IllegalSubnetError


def per_entry(name: str, value: float | Sequence[float], count: int) -> tuple[float, ...]:
    """One value per entry; a scalar stands for all of them (``val2list`` of OFA).

    Raises:
        IllegalSubnetError: if a sequence has another length.
    """
    values = tuple(value) if isinstance(value, Sequence) else (value,) * count
    if len(values) != count:
        raise IllegalSubnetError(f"{name} has {len(values)} values; give {count}, or one for all")
    return values
