"""What a faster engine gives the headline: the same load and deadlines, one engine after the other.

Each bundled model is served by one worker under recorded traces, at the load and with the deadline that the first
engine's profile gives (``headline_loads.py``). Engines take turns within each trace, round by round, so that drift of
the machine hits all alike; each has a profile of its own and plans with it.

Run: ``python benchmarks/engine_headline.py --data DIR [--engines E...] [--only MODEL...] [--seconds S] [--rounds N]
[--json FILE]``. Wants the machine to itself, for about two minutes per model and trace.
"""

import asyncio
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Final

import msgspec

from headline import Measured, contender, prepare
from headline_loads import TRACES, parser_of
from superserve.experiments.demo import until_signalled
from superserve.model_folder import write_json

_DEFAULT_ENGINES: Final = ("eager", "packed")


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """A model under a trace, by engine: every round."""

    model: str
    trace: str
    rate: float
    slo_ms: float
    rounds: Mapping[str, Sequence[Measured]]


class Report(msgspec.Struct, frozen=True):
    """Every model under every trace."""

    cells: Sequence[Cell]


def main() -> int:
    """Measure, print a table of medians; the exit status is 1 if a run is void."""
    parser = parser_of(__doc__, seconds=20.0)
    parser.add_argument("--engines", nargs="+", default=list(_DEFAULT_ENGINES), metavar="ENGINE", help="before, after")
    parser.add_argument("--rounds", type=int, default=3, help="of each engine and trace")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    cells: list[Cell] = []
    for model in options.only:
        work = _measure(model, options.engines, options.data, options.seconds, options.rounds)
        cells += asyncio.run(until_signalled(work))
        if options.json is not None:
            write_json(options.json, Report(cells))
    print("\n".join(table(cells)))
    return 1 if any(one.void for cell in cells for each in cell.rounds.values() for one in each) else 0


async def _measure(model: str, engines: Sequence[str], data: Path, seconds: float, rounds: int) -> list[Cell]:
    with tempfile.TemporaryDirectory(prefix="superserve-engines-") as scratch:
        for engine in engines:
            (Path(scratch) / engine).mkdir()
        first = await prepare(model, data, Path(scratch) / engines[0], engines[0])
        others = [await prepare(model, data, Path(scratch) / engine, engine, like=first) for engine in engines[1:]]
        cells = []
        for name, source_of in TRACES.items():
            trace = source_of(data, first.rate, seconds).trace(0)
            found: dict[str, list[Measured]] = {engine: [] for engine in engines}
            for _ in range(rounds):
                for engine, bench in zip(engines, (first, *others), strict=True):
                    found[engine].append(await contender(bench, name, trace))
            cells.append(Cell(model=model, trace=name, rate=first.rate, slo_ms=first.slo_ms, rounds=found))
    return cells


def table(cells: Sequence[Cell]) -> Iterator[str]:
    """Medians over the rounds with their range, a line of Markdown per model, trace and engine."""
    yield "| model | trace | requests/s, SLO | engine | in time | accuracy, % | measured against labels, % | p99 ms |"
    yield "|---|---|--:|---|--:|--:|--:|--:|"
    for cell in cells:
        for engine, rounds in cell.rounds.items():
            rows = [one.live for one in rounds]
            yield (
                f"| {cell.model} | {cell.trace} | {cell.rate:.0f}, {cell.slo_ms:.1f} ms | {engine} "
                f"| {_spread([row.slo_attainment for row in rows], 4)} "
                f"| {_spread([row.mean_serving_accuracy for row in rows], 2)} "
                f"| {_spread([row.measured_accuracy for row in rows], 2)} "
                f"| {_spread([row.p99_ms for row in rows], 1)} |"
            )


def _spread(values: Sequence[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    low, high = min(known), max(known)
    return f"{median(known):.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


if __name__ == "__main__":
    sys.exit(main())
