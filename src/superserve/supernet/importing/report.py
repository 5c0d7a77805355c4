"""What an import did."""

from collections.abc import Iterator
from typing import Any

import msgspec


class SubnetRow(msgspec.Struct, frozen=True, kw_only=True):
    """One subnet that was considered."""

    id: str
    macs: int
    """Multiply-accumulates of one row."""
    accuracy: float
    accuracy_n: int
    served: bool
    """Whether it stands in the folder: another one is at least as accurate at no more cost if not."""


class ImportReport(msgspec.Struct, frozen=True, kw_only=True):
    """What was read, changed, left out, computed and written."""

    family: str
    source: str
    architecture: dict[str, Any]
    tensors: int
    """Tensors of the network, all of which came from the checkpoint."""
    renamed: int
    """How many of them went by an older name."""
    ignored: tuple[str, ...]
    """Tensors of the checkpoint that the network does not need."""
    weight_bytes: int
    """The one copy that all subnets and all workers of a machine share."""
    statistics_bytes: int
    """SubnetNorm statistics of all subnets served."""
    small_kernel_bytes: int
    """Kernels computed from larger ones: private memory of each worker, whatever the number of subnets."""
    calibration_rows: int
    measured_on: str
    subnets: tuple[SubnetRow, ...]

    def lines(self) -> Iterator[str]:
        """The report in words."""
        yield f"{self.family} from {self.source}"
        yield f"{self.tensors} tensors, {self.renamed} of them under an older name; {len(self.ignored)} not needed"
        statistics = f"{self.statistics_bytes / 1e6:.2f} MB of statistics"
        kernels = f"{self.small_kernel_bytes / 1e6:.2f} MB of computed kernels per worker"
        yield f"{self.weight_bytes / 1e6:.1f} MB of weights in one copy, {statistics}, {kernels}"
        if self.calibration_rows:
            yield f"statistics of each subnet computed from {self.calibration_rows} examples"
        yield f"accuracies measured on {self.measured_on}"
        for row in self.subnets:
            note = "" if row.served else "  left out: another is at least as accurate at no more cost"
            yield f"{row.id}: {row.macs / 1e6:,.0f} M multiply-accumulates, {row.accuracy:.2f} %{note}"
