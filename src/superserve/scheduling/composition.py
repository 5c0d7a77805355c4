"""Two engines behind one plan: some subnets run on a faster engine, the others on the one that runs all of them."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import msgspec

from superserve.profile import PLANNED, Bucket, Profile, SubnetProfile
from superserve.scheduling.buckets import create_policies
from superserve.scheduling.policy import Policy, TimeoutAction


class Composition(NamedTuple):
    """What to plan with while a set of subnets is resident."""

    profile: Profile
    """Each subnet with the times of the engine that runs it. Those outside of ``subnets`` have the times of one that is
    preferred to them."""
    subnets: tuple[int, ...]
    """Those worth running, in rising order of accuracy: all others are no faster than a more accurate one."""


def composed(fallback: Profile, fast: Profile, resident: Collection[int], used: Sequence[int]) -> Composition:
    """Take the times of resident subnets from one profile, and those of the others from another.

    Latency then need not rise with accuracy any more, which policies rely on: a large subnet on the fast engine may
    take less than a smaller one on the other. That smaller one is not worth running while this is so. What remains is
    a front again; where two of it cross between batch sizes, the table is careful, as with any profile
    (`Profile.repaired`).

    Args:
        fallback: of the engine that runs all subnets.
        fast: of the one that runs resident ones; same subnets, batch sizes and lengths.
        resident: indices of subnets.
        used: indices of those that the policy may use, in rising order: `Policy.subnets`.
    """
    mixed = _mixed(fallback, fast, frozenset(resident))
    kept = _front(mixed, used)
    return Composition(_filled(mixed, kept), kept)


def compose_policies(
    name: str, fallback: Profile, fast: Profile, resident: Collection[int], timeout_action: TimeoutAction = "reject"
) -> tuple[Policy, ...]:
    """The policy of a name for what `composed` gives, by bucket: see `create_policies`.

    Raises:
        ConfigError: as `create_policy`.
    """
    used = create_policies(name, fallback, timeout_action)[-1].subnets
    composition = composed(fallback, fast, resident, used)
    policies = create_policies(name, composition.profile, timeout_action)
    for policy in policies:
        policy.restrict(composition.subnets)
    return policies


def _mixed(fallback: Profile, fast: Profile, resident: frozenset[int]) -> Profile:
    def pick(slow_rows: Sequence[SubnetProfile], fast_rows: Sequence[SubnetProfile]) -> tuple[SubnetProfile, ...]:
        pairs = enumerate(zip(slow_rows, fast_rows, strict=True))
        return tuple(quick if number in resident else slow for number, (slow, quick) in pairs)

    shorter = tuple(
        msgspec.structs.replace(slow, subnets=pick(slow.subnets, quick.subnets))
        for slow, quick in zip(fallback.shorter, fast.shorter, strict=True)
    )
    return msgspec.structs.replace(fallback, subnets=pick(fallback.subnets, fast.subnets), shorter=shorter)


def _front(profile: Profile, used: Sequence[int]) -> tuple[int, ...]:
    """Of the used subnets, those that are faster somewhere than every more accurate one, by planned latency."""
    kept: list[int] = []
    least: list[float] = []
    for subnet in reversed(used):
        cells = [cell for bucket in profile.buckets for cell in bucket.subnets[subnet].quantile_us(PLANNED)]
        if not kept or any(cell < best for cell, best in zip(cells, least, strict=True)):
            kept.append(subnet)
        least = [min(pair) for pair in zip(cells, least, strict=True)] if least else cells
    return tuple(reversed(kept))


def _filled(profile: Profile, kept: Sequence[int]) -> Profile:
    """Give what is not kept the times of the next more accurate subnet that is, or of the last one."""
    stand_in = [
        next((subnet for subnet in kept if subnet >= number), kept[-1]) for number in range(len(profile.subnets))
    ]

    def fill(rows: Sequence[SubnetProfile]) -> tuple[SubnetProfile, ...]:
        return tuple(
            msgspec.structs.replace(rows[other], id=own.id, accuracy=own.accuracy)
            for own, other in zip(rows, stand_in, strict=True)
        )

    shorter: list[Bucket] = [msgspec.structs.replace(each, subnets=fill(each.subnets)) for each in profile.shorter]
    return msgspec.structs.replace(profile, subnets=fill(profile.subnets), shorter=tuple(shorter))
