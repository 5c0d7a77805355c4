"""The policies that the paper compares SlackFit with."""

from typing import ClassVar

from superserve.errors import ConfigError, ProfileError
from superserve.profile import LatencyTable
from superserve.request import Request
from superserve.scheduling.policy import HeadPolicy, Placement, Policy, TimeoutAction, register_policy


class MaxAcc(HeadPolicy):
    """Paper, appendix A.5: the most accurate subnet that meets the head's deadline alone, then its largest batch."""

    name: ClassVar[str] = "maxacc"

    def place(self, head: Request, slack_ns: int, waiting_rows: int) -> Placement | None:  # noqa: ARG002
        """See `HeadPolicy.place`."""
        subnet = self.table.most_accurate(head.rows, slack_ns, self.usable(head.min_accuracy))
        return None if subnet is None else Placement(subnet, self.table.largest_batch(subnet, slack_ns))


class MaxBatch(HeadPolicy):
    """Paper, appendix A.5: the largest batch that the fastest subnet finishes in time.

    Then the most accurate subnet that does so at this batch.
    """

    name: ClassVar[str] = "maxbatch"

    def place(self, head: Request, slack_ns: int, waiting_rows: int) -> Placement | None:  # noqa: ARG002
        """See `HeadPolicy.place`."""
        usable = self.usable(head.min_accuracy)
        rows = self.table.largest_batch(usable[0], slack_ns)
        if rows < head.rows:
            return None
        subnet = self.table.most_accurate(rows, slack_ns, usable)
        assert subnet is not None, "the fastest subnet fits by the choice of rows"
        return Placement(subnet, rows)


class Fixed(HeadPolicy):
    """One subnet for everything, with the largest batch that meets the head's deadline: the paper's Clipper+.

    Stands for Clipper, Clockwork and TF Serving (paper section 6.1). How Clipper+ behaves in overload is not stated
    there and decides the ratio to it: ``timeout_action`` says which rule applies.
    """

    name: ClassVar[str] = "fixed"

    def __init__(self, table: LatencyTable, timeout_action: TimeoutAction, subnet: int) -> None:
        super().__init__(table, timeout_action)
        self.subnets = (subnet,)

    def place(self, head: Request, slack_ns: int, waiting_rows: int) -> Placement | None:  # noqa: ARG002
        """See `HeadPolicy.place`."""
        subnet = self.subnets[0]
        rows = self.table.largest_batch(subnet, slack_ns)
        return Placement(subnet, rows) if rows >= head.rows else None


class INFaaS(HeadPolicy):
    """The cheapest subnet that reaches the accuracy floor and meets the deadline (paper section 6.1).

    INFaaS looks through its variants in rising order of accuracy from the floor on and takes the first that meets the
    SLO (`gpar_acc_bin` and `queryfe_server.cc` in its sources). Latency rises with accuracy, so without a floor, as
    the paper runs it, that is always the least accurate subnet. A request's own floor holds, too.
    """

    name: ClassVar[str] = "infaas"

    def __init__(self, table: LatencyTable, timeout_action: TimeoutAction, min_accuracy: float = 0.0) -> None:
        super().__init__(table, timeout_action)
        self.subnets = range(table.floor_index(min_accuracy), len(table))

    def place(self, head: Request, slack_ns: int, waiting_rows: int) -> Placement | None:  # noqa: ARG002
        """See `HeadPolicy.place`."""
        subnet = self.usable(head.min_accuracy)[0]
        rows = self.table.largest_batch(subnet, slack_ns)
        return Placement(subnet, rows) if rows >= head.rows else None


def _create_infaas(table: LatencyTable, timeout_action: TimeoutAction, argument: str) -> Policy:
    try:
        floor = float(argument or 0.0)
    except ValueError:
        raise ConfigError(f"policy infaas:{argument}: the part after the colon is an accuracy in per cent") from None
    if not table.accuracies[-1] >= floor:
        raise ConfigError(f"policy infaas:{argument}: no subnet reaches it; the best has {table.accuracies[-1]:g}")
    return INFaaS(table, timeout_action, floor)


def _create_fixed(table: LatencyTable, timeout_action: TimeoutAction, argument: str) -> Policy:
    named = {"smallest": 0, "middle": len(table) // 2, "largest": len(table) - 1}
    try:
        return Fixed(table, timeout_action, named[argument] if argument in named else table.index(argument))
    except ProfileError:
        choices = ", ".join((*named, *table.ids))
        raise ConfigError(f"policy fixed:{argument}: the part after the colon must be one of {choices}") from None


def _reject_argument(kind: type[MaxAcc | MaxBatch]) -> None:
    def create(table: LatencyTable, timeout_action: TimeoutAction, argument: str) -> Policy:
        if argument:
            raise ConfigError(f"policy {kind.name}:{argument}: {kind.name} takes nothing after a colon")
        return kind(table, timeout_action)

    register_policy(kind.name, create)


_reject_argument(MaxAcc)
_reject_argument(MaxBatch)
register_policy(Fixed.name, _create_fixed)
register_policy(INFaaS.name, _create_infaas)
