import msgspec
import pytest

from superserve.clock import NS_PER_US
from superserve.conditions import Conditions
from superserve.errors import UnavailableError
from superserve.levers import LeverReport, Machine, Stream
from superserve.profile import Profile
from superserve.profiler.estimate import cell_quantiles
from superserve.serving.remeasured import Cell, ratios, remeasured
from support.profiles import make_profile, with_shorter

BUSY = Conditions(worker_waited=0.4)


def profile_with(conditions: Conditions | None) -> Profile:
    """Tails are ten times the median, and so is what is planned with over what was found at rest."""
    plain = make_profile([[1.0, 2.0], [4.0, 8.0]], batches=(1, 4))
    subnets = tuple(
        msgspec.structs.replace(
            subnet,
            p95_us=tuple(5 * value for value in subnet.p50_us),
            p99_us=tuple(10 * value for value in subnet.p50_us),
            quiet_p50_us=tuple(0.5 * value for value in subnet.p50_us),
        )
        for subnet in plain.subnets
    )
    return msgspec.structs.replace(plain, subnets=subnets, conditions=conditions)


def taken(us: float) -> list[int]:
    return [round(us * NS_PER_US)] * 9


@pytest.mark.parametrize("conditions", [None, Conditions(worker_waited=0.01)])
def test_a_sound_profile_keeps_the_shape_of_its_cells(conditions: Conditions | None) -> None:
    """Samples of idle time are held against the median at rest."""
    profile = profile_with(conditions)
    samples = {Cell(0, 1): taken(1000), Cell(0, 4): taken(1000), Cell(1, 1): taken(2000)}
    assert ratios(profile, samples) == {Cell(0, 1): 2.0, Cell(0, 4): 1.0, Cell(1, 1): 1.0}
    small, large = remeasured(profile, samples, cell_quantiles).subnets
    assert [small.p50_us, small.p99_us, small.quiet_p50_us] == [(2000, 2000), (20_000, 20_000), (1000, 1000)]
    assert [large.p50_us, large.p95_us, large.p99_us] == [(4000, 8000), (20_000, 40_000), (40_000, 80_000)]


def test_a_doubtful_profile_gets_its_tails_from_the_samples() -> None:
    """Those that it has are another program's; a cell without samples gets those of the nearest."""
    samples = {Cell(0, 1): taken(500), Cell(0, 4): taken(1000), Cell(1, 1): taken(1000)}
    found = remeasured(profile_with(BUSY), samples, cell_quantiles)
    small, large = found.subnets
    assert {small.p50_us, small.p95_us, small.p99_us, small.quiet_p50_us} == {(500.0, 1000.0)}
    assert {large.p50_us, large.p99_us} == {(1000.0, 2000.0)}
    assert found.doubts == []


def test_what_a_second_busy_machine_did_is_doubtful_again() -> None:
    samples = {Cell(0, 1): [500_000] * 6 + [900_000] * 3}
    found = remeasured(profile_with(BUSY), samples, cell_quantiles)
    assert found.conditions == Conditions(spread=0.8)
    assert found.doubts


@pytest.mark.parametrize(("conditions", "kept"), [(None, True), (BUSY, False)])
def test_a_lever_report_of_doubtful_latencies_is_not_kept(conditions: Conditions | None, *, kept: bool) -> None:
    machine = Machine(macs_per_s=1.0, launch_us=1.0, streams=(Stream(bytes=1, bytes_per_s=1.0),))
    report = LeverReport(machine=machine, work={}, cells=(), steps=(), examples=0)
    profile = msgspec.structs.replace(profile_with(conditions), levers=report)
    found = remeasured(profile, {Cell(0, 1): taken(500)}, cell_quantiles)
    assert found.levers == (report if kept else None)


def test_shorter_texts_follow_the_longest() -> None:
    profile = with_shorter(profile_with(BUSY), (8, 0.3, 0.5))
    samples = {Cell(subnet, rows): taken(500) for subnet in (0, 1) for rows in (1, 4)}
    (bucket,) = remeasured(profile, samples, cell_quantiles).shorter
    assert [subnet.p99_us for subnet in bucket.subnets] == [(250, 250), (250, 250)]


def test_nothing_comes_of_no_samples() -> None:
    with pytest.raises(UnavailableError, match="no samples"):
        remeasured(profile_with(None), {}, cell_quantiles)
