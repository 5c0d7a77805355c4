"""A load that moves through a front while its subnets are packed, mapped and evicted: nothing of that may be felt.

One worker serves the bundled CIFAR-10 model with a budget of two packed subnets. Requests ask for eight subnets one
after the other, by accuracy floors; half of them have been packed before, the others are packed meanwhile. Every answer
is compared with eager float32's. The same load goes to servers with other budgets: with none, all runs eager.

Run: ``make bench-packing``, or in parts that take less than a minute each, since it wants the machine to itself:
``python benchmarks/packing.py --work DIR --part prepare|none|one|two|four|all|report``.
"""

import argparse
import asyncio
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from prometheus_client.parser import text_string_to_metric_families

from superserve.client import AsyncClient
from superserve.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from superserve.errors import SuperServeError
from superserve.experiments.children import ChildProcess
from superserve.memory_sizes import told
from superserve.model_folder import ModelFolder, write_json
from superserve.plots import LIGHT, figure_bytes, styled_axes
from superserve.serving.choice import choose_engine
from superserve.serving.engines import load_engine
from superserve.serving.residency.pack_ahead import pack_model
from superserve.supernet.accuracy import TOLERANCE, relative_error
from superserve.supernet.packed_store import find_packs, pack_path

MODEL: Final = "cifar10"
#: Those that the load asks for, one after the other.
SUBNETS: Final = (0, 1, 2, 3, 5, 6, 8, 9)
#: Those that have been packed before; the others are packed while they are asked for.
AHEAD: Final = (0, 2, 5, 8)
PHASE_S: Final = 5.0
RATE: Final = 30.0
SLO_MS: Final = 500.0
IMAGES: Final = 64
WINDOW_S: Final = 1.0
#: Budgets by name: how many of the largest subnets they hold beside the smallest; None: all.
BUDGETS: Final[dict[str, int | None]] = {"none": -1, "one": 0, "two": 1, "four": 3, "all": None}

_EVENTS: Final = {
    "packing": re.compile(r"packing subnet (\S+) in the background"),
    "resident": re.compile(r"packed subnets are resident: (.+)"),
    "evicted": re.compile(r"giving up packed subnets: (.+)"),
}


class Run(msgspec.Struct, kw_only=True):
    """What became of the load on one server."""

    name: str
    at_s: list[float]
    """When each request was sent, from the first on."""
    latency_ms: list[float]
    """Until its answer was there; -1: refused, or failed."""
    subnets: list[str]
    wrong: int
    """Answers that differ from eager float32's by more than the tolerance."""
    worst_difference: float
    events: list[tuple[float, str, str]]
    """Seconds, kind, subnets."""
    metrics: dict[str, float]

    @property
    def served(self) -> list[float]:
        """Latencies of answered requests."""
        return [each for each in self.latency_ms if each >= 0]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The same in numbers."""

    name: str
    budget_bytes: int
    bytes: int
    packed_share: float
    p50_ms: float
    p99_ms: float
    requests: int
    late: int
    wrong: int
    worst_difference: float
    events: list[tuple[float, str, str]]


class Report(msgspec.Struct, frozen=True):
    """The content of docs/packing.json."""

    rows: list[Result]


def main() -> None:
    """Run one part, or all of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/packing"), help="where parts leave what others need")
    parser.add_argument("--part", default="everything", help="see above")
    parser.add_argument("--figure", type=Path, default=Path("docs/images/packing.png"))
    parser.add_argument("--json", type=Path, default=Path("docs/packing.json"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    parts = ("prepare", *BUDGETS, "report") if args.part == "everything" else (args.part,)
    for part in parts:
        if part == "prepare":
            prepare(args.work)
        elif part == "report":
            report(args.work, args.figure, args.json)
        else:
            found = asyncio.run(run(part, args.work))
            write_json(args.work / f"{part}.json", found)
            print(row(result(found)))


def prepare(work: Path) -> None:
    """Pack every subnet and measure the profile of the engine behind, into a cache of their own."""
    folder = ModelFolder.resolve(MODEL)
    os.environ["SUPERSERVE_CACHE"] = str((work / "cache").resolve())
    pack_model(folder, choose_engine(folder, engine="packed"))
    command = [sys.executable, "-m", "superserve", "profile", MODEL, "--quick", "--engine", "eager"]
    subprocess.run(command, check=True)


async def run(name: str, work: Path) -> Run:
    """Serve, send the load, and compare every answer."""
    folder = ModelFolder.resolve(MODEL)
    cache = (work / f"cache-{name}").resolve()
    shutil.rmtree(cache, ignore_errors=True)
    shutil.copytree(work / "cache", cache)
    os.environ["SUPERSERVE_CACHE"] = str(cache)
    choice = choose_engine(folder, engine="packed")
    sizes = {n: kept.record.nbytes_on(1) for n, kept in find_packs(folder, choice.dtype, choice.fallback).items()}
    for number in sizes:
        if number not in AHEAD:
            shutil.rmtree(pack_path(folder, choice.dtype, number))
    arguments = ["serve", MODEL, "--engine", "packed", "--engine-memory", budget_of(name, sizes)]
    arguments += ["--policy", "infaas"]
    ready = work / "ready.json"
    ready.unlink(missing_ok=True)
    arguments += ["--workers", "1", "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    log = work / f"{name}.log"
    async with ChildProcess("superserve", [*arguments, "--ready-file", str(ready)], log=log) as child:
        while not ready.exists():
            if child.ended:
                raise SuperServeError(f"the server has ended: {log.read_text()[-1000:]}")
            await asyncio.sleep(0.05)
        server = msgspec.json.decode(ready.read_bytes())
        began = datetime.now(UTC).timestamp()
        found = await send(name, folder, server["url"])
        found.metrics = await asyncio.to_thread(metrics, server["metrics"])
    found.events = list(events(log.read_text(), began))
    return found


def budget_of(name: str, sizes: dict[int, int]) -> str:
    """A budget as ``--engine-memory`` takes it, from what each subnet takes."""
    count = BUDGETS[name]
    if count is None:
        return "all"
    largest = sorted(sizes.values(), reverse=True)[: max(0, count)]
    return str(1 if count < 0 else sizes[0] + sum(largest))


async def send(name: str, folder: ModelFolder, url: str) -> Run:
    """Requests at random instants, each with the floor of its phase."""
    images, sent_s, floors = load(folder)
    engine = load_engine(folder, choose_engine(folder, engine="eager"))
    expected = {
        engine.subnet_ids[number]: engine.run(number, [images])[0].copy() for number in range(len(engine.subnet_ids))
    }
    found = Run(
        name=name, at_s=sent_s.tolist(), latency_ms=[-1.0] * len(sent_s), subnets=[""] * len(sent_s),
        wrong=0, worst_difference=0.0, events=[], metrics={},
    )  # fmt: skip
    output = folder.config.outputs[0].name
    async with AsyncClient(url, max_connections=64) as client:

        async def ask(number: int, at_s: float) -> None:
            await asyncio.sleep(max(0.0, at_s - (monotonic_ns() - began_ns) / NS_PER_S))
            row = number % IMAGES
            sent_ns = monotonic_ns()
            try:
                inputs = {folder.config.inputs[0].name: images[row : row + 1]}
                reply = await client.infer(MODEL, inputs, slo_ms=SLO_MS, min_accuracy=floors[number])
            except SuperServeError:
                return
            found.latency_ms[number] = round((monotonic_ns() - sent_ns) / NS_PER_MS, 2)
            found.subnets[number] = reply.parameters.subnet
            wanted = expected[reply.parameters.subnet][row : row + 1]
            difference = relative_error([reply.outputs[output]], [wanted])
            found.worst_difference = max(found.worst_difference, difference)
            found.wrong += difference > TOLERANCE["float32"]

        began_ns = monotonic_ns()
        await asyncio.gather(*(ask(number, at) for number, at in enumerate(found.at_s)))
    return found


def load(folder: ModelFolder) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64], list[float]]:
    """Images, and of each request when it is sent, in seconds, and its accuracy floor, in per cent."""
    rng = np.random.default_rng(0)
    images = np.asarray(folder.example_inputs(IMAGES, rng)[0])
    seconds = PHASE_S * len(SUBNETS)
    at_s = np.sort(rng.uniform(0, seconds, round(RATE * seconds))).round(3)
    phases = (at_s / PHASE_S).astype(int).clip(max=len(SUBNETS) - 1)
    return images, at_s, [folder.front.subnets[SUBNETS[phase]].accuracy for phase in phases.tolist()]


def metrics(url: str) -> dict[str, float]:
    """What the server tells of packed subnets."""
    from urllib.request import urlopen  # noqa: PLC0415  (one use)

    with urlopen(url) as page:  # noqa: S310  (our own server)
        families = text_string_to_metric_families(page.read().decode())
        return {sample.name: sample.value for family in families for sample in family.samples if "pack" in sample.name}


def events(log: str, began: float) -> Any:  # noqa: ANN401  (an iterator of triples)
    """What the log says of packing, in seconds from an instant on."""
    for line in log.splitlines():
        for kind, pattern in _EVENTS.items():
            found = pattern.search(line)
            if found:
                stamp = datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").astimezone().timestamp()
                yield round(stamp - began, 2), kind, found[1]


def result(found: Run) -> Result:
    """What docs/performance.md tells of a run."""
    served = found.served
    p50, p99 = np.quantile(served, [0.5, 0.99])
    return Result(
        name=found.name,
        budget_bytes=int(found.metrics["superserve_packed_budget_bytes"]),
        bytes=int(found.metrics["superserve_packed_bytes"]),
        packed_share=round(found.metrics["superserve_packed_requests_total"] / len(served), 3),
        p50_ms=round(float(p50), 2),
        p99_ms=round(float(p99), 2),
        requests=len(found.latency_ms),
        late=sum(each > SLO_MS for each in served) + len(found.latency_ms) - len(served),
        wrong=found.wrong,
        worst_difference=found.worst_difference,
        events=found.events,
    )


def row(found: Result) -> str:
    """A line of the table in docs/performance.md."""
    bound = told(found.budget_bytes) if found.budget_bytes < sys.maxsize else "all"
    return (
        f"| {found.name} | {bound} | {told(found.bytes)} | {found.packed_share:.2f} | {found.p50_ms:.1f} | "
        f"{found.p99_ms:.1f} | {found.late} | {found.wrong} |"
    )


def report(work: Path, figure: Path, file: Path) -> None:
    """The table, and p99 over time with what happened when."""
    runs = [
        msgspec.json.decode((work / f"{name}.json").read_bytes(), type=Run)
        for name in BUDGETS
        if (work / f"{name}.json").exists()
    ]
    for each in runs:
        print(row(result(each)))
    write_json(file, Report([result(each) for each in runs]))
    by_name = {each.name: each for each in runs}
    figure.parent.mkdir(parents=True, exist_ok=True)
    figure.write_bytes(figure_bytes(drawn(by_name["none"], by_name["two"]), "png"))


def drawn(none: Run, packed: Run) -> Figure:
    """Largest and median latency of each second, with and without packing."""
    figure, (ax,) = styled_axes((9.0, 4.2), 1, 1)
    compared = ((none, "no memory for it: all eager"), (packed, "memory for two packed subnets"))
    for number, (found, label) in enumerate(compared):
        served = np.array([each >= 0 for each in found.latency_ms])
        at_s, latency = np.array(found.at_s)[served], np.array(found.latency_ms)[served]
        windows = (at_s / WINDOW_S).astype(int)
        seconds = np.unique(windows)
        for quantile, width in ((0.99, 1.6), (0.5, 0.8)):
            values = [np.quantile(latency[windows == second], quantile) for second in seconds]
            name = f"{label}, p{round(100 * quantile)} of each second"
            ax.plot((seconds + 0.5) * WINDOW_S, values, color=LIGHT.series[number], linewidth=width, label=name)
    marks = {"packing": (":", "packing begins"), "resident": ("-", "mapped"), "evicted": ("--", "evicted")}
    seen: set[str] = set()
    for at, kind, _ in packed.events:
        dash, name = marks[kind]
        ax.axvline(at, color=LIGHT.muted, linestyle=dash, linewidth=0.9, label="" if kind in seen else name)
        seen.add(kind)
    ax.set_xlim(0, PHASE_S * len(SUBNETS))
    ax.set_ylim(0, 40)
    ax.set_xlabel("seconds; every five another subnet is asked for")
    ax.set_ylabel("latency, ms")
    ax.legend(fontsize=7, ncols=2)
    return figure


if __name__ == "__main__":
    main()
