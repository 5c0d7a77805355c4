"""The page of the documentation."""

from collections.abc import Iterator, Sequence
from math import ceil
from pathlib import Path
from typing import Final

from scaling.figures import scheduler_figure, shards_figure
from scaling.front_end import FrontEnd
from scaling.loads import PAPER_WORKERS, RATE
from scaling.means import Mean, means, unsharded
from scaling.one_scheduler import POLICIES, SITUATIONS, WORKERS, Cost
from scaling.results import Results
from scaling.shards import Outcomes, Sharding
from superserve.plots import figure_bytes

#: What the summary has of shards by hash.
SUMMARISED: Final = (1, 32)
SUMMARISED_LOAD: Final = "bursts of CV² 16 as on eight workers"
#: A core that is to answer soon is to be no busier than this.
BUSY: Final = 0.7

_HEAD: Final = """# Scaling

What one front end, one scheduler and one cluster sustain; when to shard, how, and what it costs. Of each figure it is
said whether it was **measured** or **simulated**. {machine}

    make scaling                                            # all of it, with DATA=DIR under recorded loads, too
    PYTHONPATH=benchmarks python -m scaling --only shards   # a part of it: front-end, scheduler or shards

Simulated: the server's own scheduler in virtual time, with R-PROFILE, an SLO of 36 ms, 1 ms of dispatch overhead and
`{policy}`. In virtual time a scheduler has all the time that it needs to decide.
"""

_SCHEDULER: Final = """
## One scheduler

Measured: the events of a simulated run (arrivals, ends of batches, timers) are told again to a fresh scheduler, one
after the other, without simulator, sockets or workers. CPU per request offered, median of {rounds} rounds (least to
most), what a core so keeps up with, and batches as the policy chooses them. *Under load*: 1,000 requests/s per
worker, a fifth of them evenly spaced and the rest in bursts (CV² 4, seed 0); one batch in a hundred takes longer than
planned. *One worker slow*: its batches take 1.3 times as long. *In overload*: 2,500 requests/s per worker, 1.3 times
what the fastest subnet carries. *Requests*: of a round. *Of a core*: what the process had of one; less than all says
that others used the machine and its caches meanwhile, and that ratios are what to read.
"""

_GROWS: Final = """
![CPU per request by number of workers](images/scaling-scheduler.png)

What grows with the workers are searches in sorted lists of them, and what processor caches no longer hold. Two things
were linear in them before this page was made: drift is the median of all workers', and slow ones are told by
comparing all of them, which was done anew for each batch; and in overload an arrival counted the batches that every
worker would start."""

_WHEN: Final = """
## When to shard, and how

A server is one process: front end, router and scheduler share a core, and the front end ends first. The sum of both
measured figures, with `{policy}` and {workers:,} workers, is {sum:.1f} µs (the front end's was measured with a fixed
subnet, whose scheduler costs least). With the core busy for {busy:.0%} a server so sustains some {sustained:,.0f}
requests/s of 3 KB, and a million requests/s take {servers} servers: arithmetic on figures of one machine, no run on
that many.

- **By hash**: several `superserve serve` with the same models and workers of their own, behind any load balancer that
  spreads requests evenly: by a hash of their ids, at random or in turn. A burst in one of them cannot use idle
  workers of another one; as long as a shard has some workers that costs nothing to speak of (the next table).
- **By model**: each server has some of the models, where workers have no memory for all of them. Bursts of one model
  do not even out with those of others, which costs something once the workers are nearly saturated (the last table,
  in which each model's mean load fits its workers). What is not in it is a model that outgrows them for long: no
  server gives workers to another one.

Several front ends that feed one scheduler are not built. What they could win over shards by hash is the cost in the
next table."""

_HASH: Final = """
## What shards by hash cost

Simulated: {workers:,} workers, {rate:,.0f} requests/s, {seconds:g} s (four deadlines), seed 0; the arrivals are the
same for every number of shards, and each goes to one at random. Accuracy over all that was offered, in per cent, and
in brackets the share answered in time; from the second column on what is lost or won to the first.

*Gaps at the full rate*: a fifth evenly spaced, the rest with independent gamma gaps, as in the paper. At such a rate
they leave no bursts to speak of, whatever their CV². *Bursts as on eight workers*: the paper's load for eight workers
with each request turned into {factor:.0f}, so that bursts are those of eight workers, and everybody comes at once;
*at 1.6 times the rate* the fastest subnet could do a fifth more, at 1.9 times (means of seeds 0 to 2) a hundredth.
Recordings: squeezed into 120 s, as in the paper a day is, and of that the busiest {seconds:g} s, at the same mean
rate.
"""

_MODEL: Final = """
![What sharding costs](images/scaling-shards.png)

## What shards by model cost

Simulated, at the same total load: as many models as shards, all of them with R-PROFILE, an equal part of the requests
and bursts of their own as on eight workers. Once with a scheduler and a part of the workers for each model, once with
all models on all workers, as one server has them. Accuracy over all that was offered, and in brackets the share in
time.
"""


def write(docs: Path, results: Results) -> None:
    """``scaling.md``, ``scaling.json`` and the figures."""
    results.write(docs)
    images = docs / "images"
    images.mkdir(parents=True, exist_ok=True)
    if results.scheduler:
        (images / "scaling-scheduler.png").write_bytes(figure_bytes(scheduler_figure(results.scheduler), "png"))
    if results.shards:
        (images / "scaling-shards.png").write_bytes(figure_bytes(shards_figure(means(results.shards)), "png"))
    (docs / "scaling.md").write_text("\n".join(lines(results)) + "\n")


def lines(results: Results) -> Iterator[str]:
    """The page; without the parts that have not been run."""
    machine = results.machine
    words = "" if machine is None else f"Times: {machine.cores} cores of an {machine.cpu}, {machine.python}."
    found = means(results.shards)
    yield _HEAD.format(machine=words, policy=POLICIES[0])
    yield from _summary(results.front_end, results.scheduler, found)
    if results.scheduler:
        yield _SCHEDULER.format(rounds=results.scheduler[0].rounds)
        yield from _scheduler_table(results.scheduler)
        yield _GROWS
    if results.front_end is not None and results.scheduler:
        yield _when(results.front_end, _usual(results.scheduler)[-1])
    if results.shards:
        yield from _hash(results.shards, found)
        yield _MODEL
        yield from _model_table(found)


def _usual(costs: Sequence[Cost]) -> list[Cost]:
    """Of the default policy under an ordinary load, by number of workers."""
    return [cost for cost in costs if cost.policy == POLICIES[0] and cost.situation == next(iter(SITUATIONS))]


def _summary(front_end: FrontEnd | None, costs: Sequence[Cost], found: Sequence[Mean]) -> Iterator[str]:
    yield "| what | sustains | |\n|---|---|---|"
    if front_end is not None:
        yield (
            f"| one front end with router and scheduler, HTTP, 3 KB a request | {front_end.requests_per_s:,.0f} "
            f"requests/s on a core: {front_end.median_us:.1f} µs each ({front_end.least_us:.1f}-"
            f"{front_end.most_us:.1f}, {front_end.runs} runs) | measured: `benchmarks/http_path.py --seconds 3` |"
        )
    yield "| the same and a worker process on one core; over gRPC | [peers.md](peers.md) | measured |"
    yield "| the same with workers of a Ray cluster | [ray.md](ray.md) | measured |"
    for cost in _usual(costs)[:: len(WORKERS) - 1]:
        yield (
            f"| one scheduler alone, `{cost.policy}`, {cost.workers:,} workers | {cost.requests_per_s:,.0f} "
            f"requests/s on a core: {cost.median_us:.1f} µs each | measured: below |"
        )
    for one in found:
        if one.sharding is Sharding.HASH and one.load == SUMMARISED_LOAD and one.shards in SUMMARISED:
            yield (
                f"| one cluster of {one.workers:,} workers, {one.offered / one.seconds:,.0f} requests/s in bursts, "
                f"{_schedulers(one.shards)} | {one.attainment:.4f} in time, accuracy over all offered "
                f"{one.accuracy:.2f} % | simulated: below |"
            )


def _schedulers(shards: int) -> str:
    return "one scheduler" if shards == 1 else f"{shards} shards by hash"


def _scheduler_table(costs: Sequence[Cost]) -> Iterator[str]:
    yield from _head(
        "", "workers", "µs per request", "requests/s", "rows per batch", "decisions/s", "requests", "of a core"
    )
    for cost in costs:
        yield _row(
            f"`{cost.policy}`, {cost.situation}",
            f"{cost.workers:,}",
            f"{cost.median_us:.1f} ({cost.least_us:.1f}-{cost.most_us:.1f})",
            f"{cost.requests_per_s:,.0f}",
            f"{cost.mean_batch:.1f}",
            f"{cost.decisions_per_s:,.0f}",
            f"{cost.requests:,}",
            f"{min(1.0, cost.core_share):.0%}",
        )


def _when(front_end: FrontEnd, cost: Cost) -> str:
    sum_us = front_end.median_us + cost.median_us
    sustained = BUSY * 1e6 / sum_us
    return _WHEN.format(
        policy=cost.policy,
        workers=cost.workers,
        sum=sum_us,
        busy=BUSY,
        sustained=round(sustained, -2),
        servers=ceil(1e6 / sustained),
    )


def _hash(outcomes: Sequence[Outcomes], found: Sequence[Mean]) -> Iterator[str]:
    first = outcomes[0]
    yield _HASH.format(
        workers=first.workers,
        rate=RATE * first.workers,
        seconds=first.seconds,
        factor=first.workers / PAPER_WORKERS,
    )
    rows = [one for one in found if one.sharding is Sharding.HASH]
    counts = sorted({one.shards for one in rows})
    yield from _head("load", "one scheduler", *(f"{shards}" for shards in counts[1:]))
    for load in dict.fromkeys(one.load for one in rows):
        whole, *parts = sorted((one for one in rows if one.load == load), key=lambda one: one.shards)
        changes = (f"{part.accuracy - whole.accuracy:+.2f} ({part.attainment:.4f})" for part in parts)
        yield _row(load, f"{whole.accuracy:.2f} ({whole.attainment:.4f})", *changes)
    yield _worst(rows, found)


def _model_table(found: Sequence[Mean]) -> Iterator[str]:
    rows = [one for one in found if one.sharding is Sharding.MODEL]
    yield from _head("load", "models", "all on all workers", "a scheduler each", "lost or won")
    for apart in rows:
        together = unsharded(apart, found)
        cells = (f"{one.accuracy:.2f} ({one.attainment:.4f})" for one in (together, apart))
        yield _row(apart.load, f"{apart.shards}", *cells, f"{apart.accuracy - together.accuracy:+.2f}")
    yield _worst(rows, found)


def _worst(rows: Sequence[Mean], found: Sequence[Mean]) -> str:
    """What was lost at most."""
    worst = min(rows, key=lambda one: one.accuracy - unsharded(one, found).accuracy)
    whole = unsharded(worst, found)
    points, share = whole.accuracy - worst.accuracy, whole.attainment - worst.attainment
    where = f"{worst.load}, {worst.shards} shards of {worst.workers // worst.shards} workers"
    return f"\nAt most {points:.2f} points were lost, and {share:.4f} of the answers in time: {where}."


def _head(*names: str) -> Iterator[str]:
    yield _row(*names)
    yield _row("---", *["--:"] * (len(names) - 1))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
