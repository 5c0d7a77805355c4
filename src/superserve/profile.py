"""How long each (subnet, batch size) takes on a named device.

`Profile` is the file that `superserve profile` writes; `LatencyTable` is what the scheduler plans with.
"""

import bisect
from collections.abc import Sequence
from importlib import resources
from itertools import chain, pairwise
from pathlib import Path
from typing import Final, Literal

import msgspec

from superserve.clock import NS_PER_MS, NS_PER_US
from superserve.conditions import Conditions
from superserve.errors import ProfileError
from superserve.levers import LeverReport

FORMAT: Final = 1

Quantile = Literal["p50", "p95", "p99"]

QUANTILES: Final[tuple[Quantile, ...]] = ("p50", "p95", "p99")

#: What batches are planned with. Policies use the slack up, so that the share of batches beyond the plan is about that
#: of late answers: served live, ``drainfit`` answered 0.975 in time with the p95 and 0.991 with the p99
#: (docs/performance.md).
PLANNED: Final[Quantile] = "p99"

#: Profiles that come with the package, by name.
BUNDLED: Final = ("r-profile",)


class Device(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a profile was measured on."""

    name: str
    """The processor, as it calls itself."""
    kind: str
    """``cpu``, ``cuda``, or ``fixture`` for numbers that no device measured."""
    threads: int
    """Of a worker."""
    engine: str
    """``eager``, ``compiled`` or ``graphs``: a profile is of one engine."""
    dtype: str
    """``float32``, ``bfloat16`` or ``int8``."""
    torch: str
    """Its version."""
    overlaps: bool = False
    """Whether a worker takes its next batch while it runs one, as one does that has a GPU."""


class SubnetProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Latency quantiles of one subnet, in microseconds, one value per profiled batch size."""

    id: str
    """That of the front."""
    accuracy: float
    """That of the front, in per cent."""
    p50_us: tuple[float, ...]
    """Medians."""
    p95_us: tuple[float, ...]
    """95th percentiles."""
    p99_us: tuple[float, ...]
    """99th percentiles: what is planned with."""
    quiet_p50_us: tuple[float, ...] = ()
    """Medians with the rest of the machine idle, for comparison; empty where not measured."""
    device_p50_us: tuple[float, ...] = ()
    """Medians by the clock of a GPU: what of these latencies it computes; empty where there is none."""

    def quantile_us(self, quantile: Quantile) -> tuple[float, ...]:
        """The latencies of one quantile."""
        return {"p50": self.p50_us, "p95": self.p95_us, "p99": self.p99_us}[quantile]


class Bucket(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Batches of texts that are padded to one of the shorter lengths of their model."""

    length: int
    """In word pieces."""
    share: float
    """How many of the model's test texts are padded to it when alone, 0..1: what simulated requests draw."""
    subnets: tuple[SubnetProfile, ...]
    """Those of the profile, in the same order."""


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Latency quantiles per (subnet, batch size) on a device, and the accuracy of each subnet.

    Subnets stand in rising order of accuracy; batch sizes count rows.
    """

    format: int = FORMAT
    """1."""
    device: Device
    """What was measured, and how."""
    model_hash: str
    """SHA-256 of the model's files: a profile of other weights is not used."""
    batches: tuple[int, ...]
    """Batch sizes in rows; what lies between two costs the larger."""
    dispatch_overhead_us: float
    """From the decision to launch to the start of the forward, plus from its end to the answer; p95: for planning."""
    dispatch_overhead_mean_us: float | None = None
    """The same on average, which is what capacity loses: what simulated batches take. None: `dispatch_overhead_us`."""
    dispatch_overhead_p99_us: float | None = None
    """Its p99. None: simulated batches take the mean, all of them."""
    subnets: tuple[SubnetProfile, ...]
    """Of text models: with the longest texts."""
    shorter: tuple[Bucket, ...] = ()
    """The same with shorter texts, in rising order of length; empty where rows are alike or were not told apart."""
    conditions: Conditions | None = None
    """What else the machine did meanwhile; None in profiles of releases that did not look."""
    levers: LeverReport | None = None
    """Where the time goes and which lever pays; None where that was not measured."""

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ProfileError(f"profile format {self.format} is not {FORMAT}: profile again")
        if not self.subnets or not self.batches:
            raise ProfileError("a profile needs at least one subnet and one batch size")
        if list(self.batches) != sorted(set(self.batches)) or self.batches[0] < 1:
            raise ProfileError(f"batches {self.batches} must be distinct, positive and rising")
        ids = [subnet.id for subnet in self.subnets]
        if len(set(ids)) != len(ids):
            raise ProfileError(f"subnet ids {ids} must be distinct")
        self._check_shorter(ids)
        for subnet in chain(self.subnets, *(bucket.subnets for bucket in self.shorter)):
            for row in (subnet.p50_us, subnet.p95_us, subnet.p99_us):
                if len(row) != len(self.batches) or any(value <= 0 for value in row):
                    raise ProfileError(
                        f"subnet {subnet.id!r} needs one positive latency for each of the batches {self.batches}"
                    )

    def _check_shorter(self, ids: list[str]) -> None:
        for bucket in self.shorter:
            if [subnet.id for subnet in bucket.subnets] != ids:
                raise ProfileError(f"shorter: length {bucket.length} must have the subnets {ids}, in this order")
        lengths, shares = [bucket.length for bucket in self.shorter], [bucket.share for bucket in self.shorter]
        if lengths != sorted(set(lengths)):
            raise ProfileError(f"shorter: lengths {lengths} must rise")
        if not all(share >= 0 for share in shares) or sum(shares) > 1 + 1e-6:
            raise ProfileError(f"shorter: shares {shares} must be at least 0, and at most 1 together")

    @classmethod
    def load(cls, name_or_path: str | Path) -> "Profile":
        """Read a bundled profile by name, or a profile file.

        Raises:
            ProfileError: if it cannot be read; the message names the file and the field.
        """
        path = _bundled_path(str(name_or_path)) or Path(name_or_path)
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except OSError as error:
            known = ", ".join(BUNDLED)
            raise ProfileError(f"profile {str(name_or_path)!r} is neither a file nor one of {known}: {error}") from None
        except (msgspec.MsgspecError, ProfileError) as error:
            raise ProfileError(f"{path}: {error}") from None

    @property
    def typical_overhead_us(self) -> float:
        """The dispatch overhead that a batch takes on average."""
        typical = self.dispatch_overhead_mean_us
        return self.dispatch_overhead_us if typical is None else typical

    @property
    def usual_overhead_us(self) -> float:
        """The dispatch overhead of the luckier half of simulated batches: what no simulated batch undercuts.

        A quantile function that is this up to the median, then linear through p95 to p99, and p99 above, has the
        profiled mean (a larger one where that would take less than no time).
        """
        mean, p95, p99 = self.typical_overhead_us, self.dispatch_overhead_us, self.dispatch_overhead_p99_us
        if p99 is None:
            return mean
        return max(0.0, (mean - 0.245 * p95 - 0.03 * p99) / 0.725)

    @property
    def doubts(self) -> list[str]:
        """Why these figures are doubtful, each with its figure; none if they are not, or nobody looked."""
        return [] if self.conditions is None else self.conditions.doubts()

    @property
    def longest(self) -> "Profile":
        """The one of the longest texts alone: what holds whatever comes."""
        return msgspec.structs.replace(self, shorter=()) if self.shorter else self

    @property
    def buckets(self) -> tuple["Profile", ...]:
        """A profile of each length that texts are padded to, the shortest first; of other models, itself alone."""
        shorter = (msgspec.structs.replace(self, subnets=bucket.subnets, shorter=()) for bucket in self.shorter)
        return *shorter, self.longest

    @property
    def shares(self) -> tuple[float, ...]:
        """Of each of `buckets`: how many requests of one row are of it, 0..1."""
        shorter = [bucket.share for bucket in self.shorter]
        return *shorter, max(0.0, 1.0 - sum(shorter))

    def largest_cell_ms(self, quantile: Quantile = "p95") -> float:
        """The slowest cell, in milliseconds."""
        return max(max(subnet.quantile_us(quantile)) for subnet in self.subnets) * NS_PER_US / NS_PER_MS

    def default_slo_ms(self) -> float:
        """The SLO of a model that states none: 1.17 x the largest cell (paper section 6: 36 ms over 30.7), >= 50 ms."""
        return max(50.0, 1.17 * self.largest_cell_ms())

    def violations(self) -> list[str]:
        """Where latency does not rise with batch size or accuracy (paper section 4.2, P1 and P2), or with length."""
        found: list[str] = []
        for number, bucket in enumerate(self.buckets):
            where = f" with texts of {self.shorter[number].length} pieces" if number < len(self.shorter) else ""
            found += [f"{violation}{where}" for violation in _violations(bucket)]
        for quantile in QUANTILES:
            for below, above in pairwise(self.buckets):
                for subnet, other in zip(below.subnets, above.subnets, strict=True):
                    pairs = zip(self.batches, subnet.quantile_us(quantile), other.quantile_us(quantile), strict=True)
                    found += [
                        f"{quantile} of {subnet.id} at batch {batch} is below that of shorter texts"
                        for batch, short, long in pairs
                        if long < short
                    ]
        return found

    def repaired(self) -> "Profile":
        """A profile without violations: each cell raised to the largest that it must not be below."""
        repaired: list[tuple[SubnetProfile, ...]] = []
        for bucket in self.buckets:
            repaired.append(_raised(bucket.subnets, repaired[-1] if repaired else None))
        shorter = zip(self.shorter, repaired[:-1], strict=True)
        return msgspec.structs.replace(
            self,
            subnets=repaired[-1],
            shorter=tuple(msgspec.structs.replace(bucket, subnets=subnets) for bucket, subnets in shorter),
        )


class LatencyTable:
    """A profile as the scheduler plans with it: integer nanoseconds at one quantile, monotone, O(1) to look up.

    Args:
        profile: repaired on the way in, so that latency rises with rows and with accuracy. Of a text model it is the
            one of the longest texts, unless it is one of `Profile.buckets`.
        quantile: which latencies to plan with.

    Attributes:
        ids, accuracies: per subnet, in rising order of accuracy.
        batches: the profiled batch sizes; ``max_rows`` is the largest.
        latency_ns: ``latency_ns[subnet][rows]`` for 0 <= rows <= ``max_rows``; a partial batch costs the next larger
            profiled size.
        typical_ns: the same at the median, interpolated between profiled sizes: what batches take, where
            ``latency_ns`` is what is planned for them. Never more than that.
    """

    def __init__(self, profile: Profile, quantile: Quantile = PLANNED) -> None:
        profile = profile.repaired()
        self.ids = tuple(subnet.id for subnet in profile.subnets)
        self.accuracies = tuple(subnet.accuracy for subnet in profile.subnets)
        self.batches = profile.batches
        self.max_rows = profile.batches[-1]
        cell = [bisect.bisect_left(profile.batches, rows) for rows in range(self.max_rows + 1)]
        self.latency_ns = tuple(
            tuple(round(subnet.quantile_us(quantile)[index] * NS_PER_US) for index in cell)
            for subnet in profile.subnets
        )
        self.typical_ns = tuple(
            tuple(
                min(planned, round(_interpolated(profile.batches, subnet.p50_us, rows) * NS_PER_US))
                for rows, planned in enumerate(row)
            )
            for subnet, row in zip(profile.subnets, self.latency_ns, strict=True)
        )

    def __len__(self) -> int:
        return len(self.ids)

    def index(self, subnet_id: str) -> int:
        """The position of a subnet.

        Raises:
            ProfileError: if the profile has no such subnet.
        """
        try:
            return self.ids.index(subnet_id)
        except ValueError:
            raise ProfileError(f"subnet {subnet_id!r} is not in the profile; it has {', '.join(self.ids)}") from None

    def floor_index(self, min_accuracy: float) -> int:
        """The least accurate subnet at or above a floor; ``len(self)`` if there is none."""
        return bisect.bisect_left(self.accuracies, min_accuracy)

    def largest_batch(self, subnet: int, slack_ns: int) -> int:
        """The largest profiled batch whose latency is below the slack; 0 if there is none."""
        row = self.latency_ns[subnet]
        best = 0
        for batch in self.batches:
            if row[batch] >= slack_ns:
                break
            best = batch
        return best

    def most_accurate(self, rows: int, slack_ns: int, subnets: Sequence[int]) -> int | None:
        """The most accurate of ``subnets`` (rising) that runs ``rows`` rows in less than the slack."""
        count = bisect.bisect_left(subnets, slack_ns, key=lambda subnet: self.latency_ns[subnet][rows])
        return subnets[count - 1] if count else None


def _interpolated(batches: Sequence[int], latency_us: Sequence[float], rows: int) -> float:
    """Linear between two profiled sizes; below the smallest as long as that."""
    above = bisect.bisect_left(batches, rows)
    if above == 0:
        return latency_us[0]
    low, high = batches[above - 1], batches[above]
    return latency_us[above - 1] + (latency_us[above] - latency_us[above - 1]) * (rows - low) / (high - low)


def _violations(profile: Profile) -> list[str]:
    """Those of one table."""
    found: list[str] = []
    for quantile in QUANTILES:
        rows = [subnet.quantile_us(quantile) for subnet in profile.subnets]
        for subnet, row in zip(profile.subnets, rows, strict=True):
            for batch, before, after in zip(profile.batches[1:], row, row[1:], strict=False):
                if after < before:
                    found.append(
                        f"{quantile} of {subnet.id} falls from {before:.0f} to {after:.0f} us at batch {batch}"
                    )
        for subnet, below, row in zip(profile.subnets[1:], rows, rows[1:], strict=False):
            for batch, slow, fast in zip(profile.batches, below, row, strict=True):
                if fast < slow:
                    found.append(f"{quantile} of {subnet.id} at batch {batch} is below that of a less accurate subnet")
    return found


def _raised(subnets: Sequence[SubnetProfile], shorter: Sequence[SubnetProfile] | None) -> tuple[SubnetProfile, ...]:
    """Subnets without violations, no cell below that of shorter texts."""
    raised: list[SubnetProfile] = []
    floor: dict[Quantile, list[float]] = {}
    for number, subnet in enumerate(subnets):
        lower: list[float] = [0.0] * len(subnet.p50_us)
        for quantile in QUANTILES:
            least = shorter[number].quantile_us(quantile) if shorter else None
            row = _running_max(subnet.quantile_us(quantile), floor.get(quantile), lower, least)
            floor[quantile] = lower = row
        raised.append(
            msgspec.structs.replace(
                subnet, p50_us=tuple(floor["p50"]), p95_us=tuple(floor["p95"]), p99_us=tuple(floor["p99"])
            )
        )
    return tuple(raised)


def _running_max(row: Sequence[float], *floors: Sequence[float] | None) -> list[float]:
    result: list[float] = []
    best = 0.0
    for index, value in enumerate(row):
        best = max(best, value, *(floor[index] for floor in floors if floor is not None))
        result.append(best)
    return result


def _bundled_path(name: str) -> Path | None:
    if name not in BUNDLED:
        return None
    return Path(str(resources.files("superserve"))) / "profiles" / f"{name}.json"
