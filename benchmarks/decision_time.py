"""What the scheduler costs: a decision, by policy, queue depth and number of subnets; an arrival; a simulated request.

Run: ``python benchmarks/decision_time.py [--json FILE]``.
"""

import time
from collections.abc import Callable

import numpy as np

from side_by_side import json_argument, measure, table, write
from superserve.clock import NS_PER_MS, NS_PER_S
from superserve.profile import LatencyTable, Profile, SubnetProfile
from superserve.request import Request
from superserve.scheduling import EDFQueue, Scheduler, SchedulerView, create_policy
from superserve.scheduling.policy import DEFAULT_POLICY
from superserve.simulator import simulate
from superserve.traces.arrivals import base_plus_gamma

POLICIES = tuple(
    dict.fromkeys(
        ("slackfit", DEFAULT_POLICY, "slackfit-42", "maxbatch", "maxacc", "fixed:middle", "infaas", "coarse", "proteus")
    )
)
DECISIONS = 500
ARRIVALS = 100
#: The head's slack goes from the largest of these down to the smallest.
SLACKS_MS = (35, 5)
RATE = 7000.0


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
    """Decide with a queue of that depth whose head has 35 to 5 ms of slack, on one idle worker of eight.

    What came before is 7,000 requests/s for a second. Every round plays the same 30 ms again.
    """
    policy = create_policy(policy_name, LatencyTable(profile))
    slack_ns = SLACKS_MS[0] * NS_PER_MS
    queue = EDFQueue()
    requests = [Request(number, 0, slack_ns + number * 1000) for number in range(depth)]
    for request in requests:
        queue.push(request)
    view = SchedulerView(policy.table, queue, 0, workers_idle=1, workers_total=8, workers=set(range(8)), idle=(0,))
    for arrival_ns in np.linspace(-NS_PER_S, 0, int(RATE)).astype(np.int64).tolist():
        view.arrivals.observe(arrival_ns, 1, slack_ns)
    for worker in range(1, 8):
        view.commitments.add(worker, (SLACKS_MS[0] + worker) * NS_PER_MS)
    nows = np.linspace(0, (SLACKS_MS[0] - SLACKS_MS[1]) * NS_PER_MS, DECISIONS).astype(np.int64).tolist()

    def work() -> int:
        for now_ns in nows:
            view.now_ns = now_ns
            policy.decide(view)
        return DECISIONS

    return work


def arrivals(policy_name: str, profile: Profile, slo_ms: int) -> Callable[[], int]:
    """Let requests arrive at a scheduler with one worker, which is busy: each is looked at, admitted and queued."""
    policy = create_policy(policy_name, LatencyTable(profile))

    def work() -> int:
        scheduler = Scheduler(policy, overhead_ns=0)
        scheduler.on_worker_ready(0, 0)
        for number in range(ARRIVALS):
            scheduler.on_arrival(number, Request(number, number, number + slo_ms * NS_PER_MS))
        return ARRIVALS

    return work


def main() -> None:
    """Print microseconds per decision and arrival, and simulated requests per second."""
    path = json_argument(main.__doc__ or "")
    tables = []
    for subnets in (6, 1000):
        profile = dense_profile(subnets)
        for depth in (1, 100, 10_000):
            alternatives = {name: decisions(name, profile, depth) for name in POLICIES}
            tables.append(table(f"one decision, {subnets} subnets, depth {depth}", measure(alternatives)))
    profile = Profile.load("r-profile")
    deadlines = {f"{slo_ms} ms": arrivals(DEFAULT_POLICY, profile, slo_ms) for slo_ms in (1000, 36)}
    tables.append(table(f"one arrival, {DEFAULT_POLICY}, up to {ARRIVALS} waiting, by deadline", measure(deadlines)))
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
