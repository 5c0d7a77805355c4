"""A million requests of several sizes, a fifth of them given up, and what the server holds meanwhile.

    PYTHONPATH=benchmarks python -m memory_soak [--requests N] [--workers N] [--json FILE] [--figure FILE]
    PYTHONPATH=benchmarks python -m memory_soak --minutes M --cancelled 0.6 --every-s 5

A real server (`superserve serve`) with emulated workers, asked over HTTP and gRPC; with ``--every-s``, a worker is
killed, stopped or slowed down so often, and a second model comes and goes all the time. The exit status is 1 if
anything grew by more than a twentieth from the first to the last tenth of the run, or a request that was not given up
failed.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import uvloop

from chaos.counters import read_counters
from chaos.faults import Injector, Kind
from memory_soak.load import Load
from memory_soak.memory import COLUMNS, Growth, Sample, growth, take_sample
from memory_soak.models import OTHER, come_and_go
from memory_soak.requests import MODEL, write_model
from superserve.engine import EngineChoice
from superserve.experiments.demo import until_signalled
from superserve.experiments.server_process import RunningServer, running_server
from superserve.model_folder import ModelFolder, write_json
from superserve.plots import LIGHT, figure_bytes, styled_axes
from superserve.scheduling.policy import DEFAULT_POLICY
from superserve.serving.emulated import ENGINE_NAME as EMULATED

SAMPLE_S = 0.5
SAY_S = 10.0
KINDS: Final[tuple[Kind, ...]] = ("kill", "hang", "slow")
#: Answers that say that all is well.
GOOD = {"200", "OK", "cancelled"}
#: Ends of loads and unloads that say so: one whose new process was killed is given up, and its model unknown.
CHANGED = {"load, 200", "load, 500", "unload, 200", "unload, 500", "unload, 404"}


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a run. ``faults``: how many of which kind; ``changes``: loads and unloads, and how they ended."""

    requests: int
    over_grpc: int
    seconds: float
    cancelled: float = 0.2
    outcomes: dict[str, int]
    growth: list[Growth]
    samples: list[Sample]
    faults: dict[str, int] = {}
    changes: dict[str, int] = {}

    @property
    def holds(self) -> bool:
        """Whether nothing grew and nothing failed."""
        unchanged = set(self.changes) - CHANGED
        return all(one.is_flat for one in self.growth) and not set(self.outcomes) - GOOD and not unchanged


def main() -> int:
    """Run it."""
    options = _options()
    result = uvloop.run(until_signalled(soak(options)))
    print("\n".join(lines(result)))
    if options.json is not None:
        write_json(options.json, result)
    if options.figure is not None:
        options.figure.write_bytes(figure_bytes(figure(result.samples), "png"))
    return 0 if result.holds else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="memory_soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, help="how long to make requests, instead of how many to make")
    parser.add_argument("--cancelled", type=float, default=0.2, help="share of them that is given up")
    parser.add_argument("--every-s", type=float, help="between faults; default: there are none, nor other models")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where the result goes")
    parser.add_argument("--figure", type=Path, help="where the figure goes")
    return parser.parse_args()


async def soak(options: argparse.Namespace) -> Result:
    """Serve, ask, sample."""
    load = Load(options.requests if options.minutes is None else sys.maxsize, options.seed, options.cancelled)
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory(prefix="superserve-soak-") as name:
        folder = Path(name)
        model, profile = write_model(folder)
        repository = folder / "repository"
        shutil.copytree(ModelFolder.resolve(OTHER).path, repository / OTHER)
        async with running_server(
            str(model),
            policy=DEFAULT_POLICY,
            workers=options.workers,
            choice=EngineChoice(f"emulated:{profile}", EMULATED, "none"),
            profile=None,
            log=folder / "server.log",
            repository=repository if options.every_s else None,
        ) as server:
            assert server.grpc is not None, "it serves gRPC, too"
            injector = Injector(server.pid, server.url, MODEL, KINDS, options.seed)
            changes: Counter[str] = Counter()
            began_s = time.monotonic()
            beside = [asyncio.create_task(_watch(server, load, samples, began_s))]
            if options.every_s:
                beside.append(asyncio.create_task(injector.run(sys.maxsize * 1e-9, options.every_s)))
                beside.append(asyncio.create_task(come_and_go(server.url, changes)))
            if options.minutes is not None:
                asyncio.get_running_loop().call_later(60 * options.minutes, load.stop)
            await load.run(server.url, server.grpc)
            seconds = time.monotonic() - began_s
            for task in beside:
                task.cancel()
            for ended in await asyncio.gather(*beside, return_exceptions=True):
                if isinstance(ended, Exception):
                    raise ended
    return Result(
        requests=load.begun,
        over_grpc=load.begun_grpc,
        seconds=seconds,
        cancelled=options.cancelled,
        outcomes=dict(load.outcomes),
        growth=growth(samples),
        samples=samples,
        faults=dict(Counter(fault.kind for fault in injector.done)),
        changes=dict(changes),
    )


async def _watch(server: RunningServer, load: Load, samples: list[Sample], began_s: float) -> None:
    said_s = 0.0
    while True:
        await asyncio.sleep(SAMPLE_S)
        tasks = (await read_counters(server.metrics)).tasks
        sample = take_sample(server.pid, load.begun, time.monotonic() - began_s, tasks, load.cancelled_grpc)
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
        f"gRPC, {result.cancelled:.0%} to be given up"
    )
    beside = [f"  {count} times {what}" for what, count in sorted((result.faults | result.changes).items())]
    return [f"{head}: {ends}", *beside, *map(_growth_line, result.growth)]


def _growth_line(one: Growth) -> str:
    words = f"{COLUMNS[one.what]:<24} first tenth {one.first:8.1f}, last {one.last:8.1f}, {one.share:+.1%}"
    if one.known:
        words += f" without {one.known:.1f} that grpc loses with cancelled calls"
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
