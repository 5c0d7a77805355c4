"""A million requests of several sizes, a fifth of them given up, and what the server holds meanwhile.

    PYTHONPATH=benchmarks python -m memory_soak [--requests N] [--workers N] [--json FILE] [--figure FILE]

A real server (`superserve serve`) with emulated workers, asked over HTTP and gRPC. The exit status is 1 if anything
grew by more than a twentieth from the first to the last tenth of the run, or a request that was not given up failed.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from memory_soak.load import CANCELLED_SHARE, Load
from memory_soak.memory import COLUMNS, Growth, Sample, growth, take_sample
from memory_soak.requests import write_model
from superserve.engine import EngineChoice
from superserve.experiments.demo import until_signalled
from superserve.experiments.server_process import RunningServer, running_server
from superserve.model_folder import write_json
from superserve.plots import LIGHT, figure_bytes, styled_axes
from superserve.scheduling.policy import DEFAULT_POLICY
from superserve.serving.emulated import ENGINE_NAME as EMULATED

SAMPLE_S = 0.5
SAY_S = 10.0
#: Answers that say that all is well.
GOOD = {"200", "OK", "cancelled"}


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a run."""

    requests: int
    over_grpc: int
    seconds: float
    outcomes: dict[str, int]
    growth: list[Growth]
    samples: list[Sample]

    @property
    def holds(self) -> bool:
        """Whether nothing grew and nothing failed."""
        return all(one.is_flat for one in self.growth) and not set(self.outcomes) - GOOD


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(prog="memory_soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where the result goes")
    parser.add_argument("--figure", type=Path, help="where the figure goes")
    options = parser.parse_args()
    result = uvloop.run(until_signalled(soak(options.requests, options.workers, options.seed)))
    print("\n".join(lines(result)))
    if options.json is not None:
        write_json(options.json, result)
    if options.figure is not None:
        options.figure.write_bytes(figure_bytes(figure(result.samples), "png"))
    return 0 if result.holds else 1


async def soak(requests: int, workers: int, seed: int) -> Result:
    """Serve, ask, sample."""
    load = Load(requests, seed)
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory(prefix="superserve-soak-") as name:
        model, profile = write_model(Path(name))
        choice = EngineChoice(f"emulated:{profile}", EMULATED, "none")
        async with running_server(
            str(model),
            policy=DEFAULT_POLICY,
            workers=workers,
            choice=choice,
            profile=None,
            log=Path(name) / "server.log",
        ) as server:
            assert server.grpc is not None, "it serves gRPC, too"
            began_s = time.monotonic()
            watching = asyncio.create_task(_watch(server, load, samples, began_s))
            await load.run(server.url, server.grpc)
            seconds = time.monotonic() - began_s
            watching.cancel()
    return Result(
        requests=load.begun,
        over_grpc=load.begun_grpc,
        seconds=seconds,
        outcomes=dict(load.outcomes),
        growth=growth(samples),
        samples=samples,
    )


async def _watch(server: RunningServer, load: Load, samples: list[Sample], began_s: float) -> None:
    said_s = 0.0
    while True:
        await asyncio.sleep(SAMPLE_S)
        sample = take_sample(server.pid, load.begun, time.monotonic() - began_s)
        samples.append(sample)
        if sample.seconds - said_s >= SAY_S:
            said_s = sample.seconds
            print(
                f"{sample.seconds:5.0f} s  {sample.requests:9,} requests  router {sample.router_mb:.1f} MB, "
                f"{sample.router_files} descriptors; workers {sample.workers_mb:.1f} MB; "
                f"shared {sample.shared_mb:.1f} MB",
                flush=True,
            )


def lines(result: Result) -> list[str]:
    """The result in words."""
    ends = ", ".join(f"{count:,} {name}" for name, count in sorted(result.outcomes.items()))
    rate = result.requests / result.seconds
    head = (
        f"{result.requests:,} requests in {result.seconds:.0f} s ({rate:,.0f}/s), {result.over_grpc:,} of them over "
        f"gRPC, {CANCELLED_SHARE:.0%} to be given up"
    )
    return [f"{head}: {ends}", *map(_growth_line, result.growth)]


def _growth_line(one: Growth) -> str:
    words = f"{COLUMNS[one.what]:<24} first tenth {one.first:8.1f}, last {one.last:8.1f}, {one.share:+.1%}"
    return f"  {words}: {'flat' if one.is_flat else 'GREW'}"


def figure(samples: Sequence[Sample]) -> Any:  # noqa: ANN401  (matplotlib's)
    """Memory and descriptors over the requests."""
    drawn, axes = styled_axes((9.0, 4.2), 1, 2)
    millions = [sample.requests / 1e6 for sample in samples]
    for ax, part, label in ((axes[0], "_mb", "MB"), (axes[1], "_files", "open descriptors")):
        for number, what in enumerate(what for what in COLUMNS if what.endswith(part)):
            values = [getattr(sample, what) for sample in samples]
            ax.plot(millions, values, color=LIGHT.series[number], linewidth=1.2, label=COLUMNS[what].partition(",")[0])
        ax.set_ylim(0, None)
        ax.set_xlabel("requests, millions", color=LIGHT.ink)
        ax.set_ylabel(label, color=LIGHT.ink)
        ax.legend(frameon=False, fontsize=9, labelcolor=LIGHT.ink)
    return drawn


if __name__ == "__main__":
    sys.exit(main())
