"""Results as text, as a figure, and as the page of the documentation."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from chaos.run import Result
from superserve.metrics import RunLog
from superserve.plots import LIGHT, NamedRun, dynamics_figure, figure_bytes

_JSON: Final = "chaos.json"
#: What the page and the terminal say of a promise: kept, broken, or not made.
_ON_PAGE: Final = {True: "yes", False: "**no**", None: "not promised"}
_SAID: Final = {True: "kept  ", False: "BROKEN", None: "told  "}
_HEAD: Final = """# Promises under faults

A real server, real processes and sockets, an open-loop load, and faults on a schedule (`benchmarks/chaos`):

    make chaos                                        # 7 minutes; exit code 1 if a promise is broken
    make chaos CHAOS_ARGS="--only real --seconds 30"  # one of them, for a shorter time

A worker that is lost takes the batch that it runs with it. Its requests wait again under their own deadlines; those
that have less time left than the fastest cell and the dispatch overhead take fail at once. They are run alone, so that
an input that workers die of is found; where there is no time for that, together. Where deadlines leave time for it,
none of them is to be lost. With deadlines of 36 ms and batches of many, each may have had time left for itself, but not
all of them together: there it is told how many were lost, and the promise is the share of all that are in time.

*Killed* is SIGKILL. *Stopped* is SIGSTOP: the worker is missed after two seconds. *Slow* is an emulated worker that
takes ten times as long for four seconds. *Poison* is an input that emulated workers die of.

Two shared cores of an AMD EPYC; router, generator and all workers share them.
"""


def lines(result: Result) -> Iterator[str]:
    """The table of a run."""
    row = result.row
    yield (
        f"{result.title}: {result.rate:.0f} requests/s for {result.seconds:.0f} s, SLO {result.slo_ms:.0f} ms, "
        f"{len(result.faults)} faults"
    )
    yield (
        f"attainment {row.slo_attainment:.4f}, mean serving accuracy {row.mean_serving_accuracy or 0:.2f} %; of "
        f"{row.offered}: {row.served} served, {row.late} late, {row.expired} expired, {row.rejected} rejected, "
        f"{row.failed} failed; send lateness p99 {result.p99_lateness_ms:.1f} ms"
    )
    if result.void is not None:
        yield f"VOID: {result.void}"
    for promise in result.promises:
        yield f"  {_SAID[promise.kept]}  {promise.words}: {promise.seen}"


def figure(result: Result, log: RunLog) -> bytes:
    """The run over time, with a line for each fault."""
    drawn = dynamics_figure([NamedRun("live", log, 0)], title=f"{result.title} (dotted lines)")
    for ax in drawn.axes:
        for fault in result.faults:
            ax.axvline(fault.at_s, color=LIGHT.muted, linestyle=":", linewidth=0.8)
    return figure_bytes(drawn, "png")


def write(docs: Path, result: Result, log: RunLog) -> None:
    """Put a run into the page, in place of an earlier one of its scenario."""
    (docs / "images").mkdir(parents=True, exist_ok=True)
    (docs / "images" / _image(result)).write_bytes(figure(result, log))
    kept = {each.scenario: each for each in _read(docs)} | {result.scenario: result}
    (docs / _JSON).write_bytes(msgspec.json.format(msgspec.json.encode(list(kept.values()))) + b"\n")
    (docs / "chaos.md").write_text("\n".join(_page(list(kept.values()))) + "\n")


def _read(docs: Path) -> list[Result]:
    path = docs / _JSON
    return msgspec.json.decode(path.read_bytes(), type=list[Result]) if path.exists() else []


def _page(results: Sequence[Result]) -> Iterator[str]:
    yield _HEAD
    for result in results:
        title, numbers, *_ = lines(result)
        yield f"## {result.title}\n\n{title.removeprefix(f'{result.title}: ')}. {numbers[0].upper()}{numbers[1:]}.\n"
        yield "| promise | seen | kept |\n|---|---|---|"
        for promise in result.promises:
            yield f"| {promise.words} | {promise.seen} | {_ON_PAGE[promise.kept]} |"
        if result.void is not None:
            yield f"\nVoid: {result.void}."
        yield f"\n![{result.title}: load, accuracy and misses over time](images/{_image(result)})\n"


def _image(result: Result) -> str:
    return f"chaos-{result.scenario}.png"
