"""What a user may choose about a conversion."""

from itertools import pairwise

import msgspec

from superserve.errors import ConversionError
from superserve.subnet import KeepRule


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which dimensions become elastic, and which values they may take."""

    width_ratios: tuple[float, ...] = (0.5, 0.75, 1.0)
    """Shares of the channels, neurons or heads of a group that may be kept; rising, the last is 1."""
    depth_ratios: tuple[float, ...] = (0.5, 0.75, 1.0)
    """Shares of the blocks of a stage that may be kept; rising, the last is 1."""
    depth_rule: KeepRule | None = None
    """Which blocks a depth keeps; None: ``spread`` for transformers, ``first`` for convolutional networks."""
    divisor: int = 8
    """Numbers of channels and neurons are multiples of this where the full number is one."""
    streams: bool = False
    """Whether residual streams, the channels between blocks, become elastic too."""

    def check(self) -> None:
        """Raise a ConversionError that names the first option that cannot be used."""
        for name in ("width_ratios", "depth_ratios"):
            ratios = getattr(self, name)
            if not ratios or ratios[0] <= 0 or ratios[-1] != 1 or any(a >= b for a, b in pairwise(ratios)):
                raise ConversionError(f"{name} {ratios} must rise strictly from above 0 to 1")
        if self.divisor < 1:
            raise ConversionError(f"divisor {self.divisor} must be positive")
