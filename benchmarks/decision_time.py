"""What a scheduling decision costs, by policy, queue depth and number of subnets; and what a simulated request costs.

Run: ``python benchmarks/decision_time.py [--json FILE]``.
"""

import time
from collections.abc import Callable

import numpy as np

from side_by_side import json_argument, measure, table, write
from superserve.clock import NS_PER_MS
from superserve.profile import LatencyTable, Profile, SubnetProfile
from superserve.request import Request
from superserve.scheduling import EDFQueue, SchedulerView, create_policy
from superserve.simulator import simulate
from superserve.traces.arrivals import base_plus_gamma

POLICIES = ("slackfit", "maxbatch", "maxacc", "fixed:middle")
DECISIONS = 500


def dense_profile(subnets: int) -> Profile:
    """R-PROFILE with ``subnets`` subnets interpolated between its fastest and its slowest."""
    base = Profile.load("r-profile")
    low, high = base.subnets[0], base.subnets[-1]

    def blend(share: float) -> SubnetProfile:
        row = tuple((1 - share) * a + share * b for a, b in zip(low.p95_us, high.p95_us, strict=True))
        accuracy = (1 - share) * low.accuracy + share * high.accuracy
        return SubnetProfile(id=f"b{share:.4f}", accuracy=accuracy, p50_us=row, p95_us=row, p99_us=row)

    blended = tuple(blend(share) for share in np.linspace(0, 1, subnets))
    return Profile(
        device=base.device, model_hash="blend", batches=base.batches, dispatch_overhead_us=0.0, subnets=blended
    )


def decisions(policy_name: str, profile: Profile, depth: int) -> Callable[[], int]:
    """Decide with a queue of that depth whose head has 5 to 35 ms of slack."""
    policy = create_policy(policy_name, LatencyTable(profile))
    queue = EDFQueue()
    for number in range(depth):
        queue.push(Request(number, 0, 35 * NS_PER_MS + number * 1000))
    view = SchedulerView(policy.table, queue, 0, workers_idle=1, workers_total=8)
    nows = np.linspace(0, 30 * NS_PER_MS, DECISIONS).astype(np.int64).tolist()

    def work() -> int:
        for now_ns in nows:
            view.now_ns = now_ns
            policy.decide(view)
        return DECISIONS

    return work


def main() -> None:
    """Print microseconds per decision, and simulated requests per second."""
    path = json_argument(main.__doc__ or "")
    tables = []
    for subnets in (6, 1000):
        profile = dense_profile(subnets)
        for depth in (1, 100, 10_000):
            alternatives = {name: decisions(name, profile, depth) for name in POLICIES}
            tables.append(table(f"one decision, {subnets} subnets, depth {depth}", measure(alternatives)))
    profile = Profile.load("r-profile")
    trace = base_plus_gamma(1500, 5550, 8, 10, np.random.default_rng(0))
    for policy in POLICIES:
        start = time.perf_counter()
        simulate(trace, profile, policy=policy, workers=8, slo_ms=36)
        rate = len(trace) / (time.perf_counter() - start)
        print(f"  simulated requests/s, {policy}: {rate:,.0f}")
        tables.append({"title": f"simulated requests/s, {policy}", "rate": rate})
    write(path, tables)


if __name__ == "__main__":
    main()
