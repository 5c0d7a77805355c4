"""The page and the figure: one row per peer, SuperServe's row being the median over all of them."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from peers import targets
from peers.catalog import OURS, OURS_GRPC, PEERS, Peer
from peers.figures import CELLS, CnnFigures, Compiled, NoopFigures, Own, Pair, read_own, read_pair
from peers.jobs import CNN, NOOP
from superserve import __version__
from superserve.plots import LIGHT, figure_bytes, styled_axes

_NONE: Final = "-"

_HEAD: Final = """# Peers, side by side

{machine}. All processes of a server share the first core, the generator
(`benchmarks/peers/loadgen.c`) has the other. Each peer was measured in interleaved rounds with SuperServe, the one
stopped while the other ran, so that drift of the machine hits both; a figure is the median of its rounds. Absolute
figures are of this machine; the ratios are what to read.
{quick}
    make bench-peers        # BENCH_ARGS="--quick --only mosec grpc"

- **(A)** a model that does nothing, one 32x32x3 UINT8 tensor (3 KB) per request, ten floats back. Saturation: closed
  loop, the best of 16, 64 and 256 connections. Latency: Poisson arrivals at half of that server's own saturation.
- **(B)** the middle subnet of the bundled digits model; the peers run it extracted, as plain torch, SuperServe inside
  the supernet as `fixed:middle`. Goodput: the share of all requests answered within 50 ms under gamma arrivals, at a
  share of that server's own saturation. SuperServe is told the deadline (`x-slo-ms`); the peers have no such thing.
  It plans with a profile measured before the first round, in which the worker had a core without the router.

"Per CPU s": requests per second of CPU time of all of the server's processes.

Latency counts from the scheduled arrival. A run is void, and made again, if the generator itself was more than 5 ms
late (p99). Every server's answer was compared with the model's.
"""


def machine() -> str:
    """What the figures were taken on."""
    return "Two shared cores of an AMD EPYC"


def write_report(folder: Path, docs: Path) -> None:
    """Write ``peers.md`` and ``images/peers.png`` from the files in a folder."""
    pairs = [pair for name in PEERS if (pair := read_pair(folder, name)) is not None]
    own = read_own(folder)
    quick = any(pair.quick for pair in pairs) or (own is not None and own.quick)
    note = "\n**Taken with `--quick`: too short to be quoted.**\n" if quick else ""
    parts = [_HEAD.format(machine=machine(), quick=note), *targets.table(pairs, own)]
    parts += [*_table_a(pairs), *_table_b(pairs), "![Beside each peer](images/peers.png)\n"]
    parts += [*own_rows(own), *_settings(pairs), *_missing(pairs, own)]
    (docs / "images").mkdir(parents=True, exist_ok=True)
    (docs / "peers.md").write_text("\n".join(parts) + "\n")
    (docs / "images" / "peers.png").write_bytes(figure_bytes(_figure(pairs), "png"))


def _table_a(pairs: Sequence[Pair]) -> Iterator[str]:
    yield f"## {NOOP.title}\n"
    yield "| server | requests/s | (range) | SuperServe, same rounds | ratio | per CPU s | p50 ms at half | p99 ms |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    ours = [pair.noop_ours for pair in pairs if pair.noop_ours is not None]
    if ours:
        yield _row_a(OURS.title, _together(ours), None)
    for pair in sorted(pairs, key=lambda pair: -_rate(pair.noop)):
        if pair.noop is not None:
            yield _row_a(PEERS[pair.peer].title, pair.noop, pair.noop_ours)
    yield ""


def _row_a(title: str, figures: NoopFigures, ours: NoopFigures | None) -> str:
    rates = figures.saturation.rates
    beside = f"{_rate(ours):,.0f} | {_rate(ours) / _rate(figures):.1f}x" if ours is not None else f"{_NONE} | {_NONE}"
    spread = f"{min(rates):,.0f}-{max(rates):,.0f}"
    per_cpu = f"{median(figures.saturation.per_cpu_s):,.0f}"
    latency = f"{_median(figures.p50_ms, 2)} | {_median(figures.p99_ms, 2)}"
    return f"| {title} | {_rate(figures):,.0f} | {spread} | {beside} | {per_cpu} | {latency} |"


def _table_b(pairs: Sequence[Pair]) -> Iterator[str]:
    yield f"## {CNN.title}\n"
    heads = " | ".join(f"CV² {cv2}, {load}x" for cv2, load in CELLS)
    yield f"| server | images/s | SuperServe, same rounds | per CPU s | p99 ms at half | {heads} |"
    yield "|---|--:|--:|--:|--:|" + "--:|" * len(CELLS)
    ours = [pair.cnn_ours for pair in pairs if pair.cnn_ours is not None]
    if ours:
        yield _row_b(OURS.title, ours, None)
    for pair in sorted(pairs, key=lambda pair: -_rate(pair.cnn)):
        if pair.cnn is not None:
            yield _row_b(PEERS[pair.peer].title, [pair.cnn], pair.cnn_ours)
    yield ""


def _row_b(title: str, many: Sequence[CnnFigures], ours: CnnFigures | None) -> str:
    rate = median(rate for figures in many for rate in figures.saturation.rates)
    beside = f"{_rate(ours):,.0f}" if ours is not None else _NONE
    p99 = _median([value for figures in many for value in figures.cells[0].p99_ms], 1)
    columns = [[value for figures in many for value in figures.cells[index].goodput] for index in range(len(CELLS))]
    cells = " | ".join(_median(column, 2) for column in columns)
    per_cpu = median(rate for figures in many for rate in figures.saturation.per_cpu_s)
    return f"| {title} | {rate:,.0f} | {beside} | {per_cpu:,.0f} | {p99} | {cells} |"


def own_rows(own: Own | None) -> Iterator[str]:
    """SuperServe beside what is no peer, in lines of Markdown."""
    if own is None:
        return
    yield "## SuperServe beside its own bounds\n"
    yield "| what | figure | beside |"
    yield "|---|--:|---|"
    if own.served:
        served, alone = median(own.served), median(own.in_process)
        yield f"| (B) served, images/s | {served:,.0f} | {served / alone:.2f} of the model in process, {alone:,.0f} |"
    if own.compiled is not None:
        yield from _compiled(own.compiled, own.served)
    if own.elastic is not None:
        found = own.elastic
        live, simulated, fixed = (_median(values, 3) for values in (found.live, found.simulated, found.fixed))
        yield (
            f"| goodput at 1.3x, CV² 16, default policy ({found.policy}) | {live} | simulated {simulated}; "
            f"`fixed:middle` in the same rounds {fixed} |"
        )
    if own.grpc is not None and own.grpc_bare is not None:
        bare, latency = (
            own.grpc_bare,
            f"p50 {_median(own.grpc.p50_ms, 2)}, p99 {_median(own.grpc.p99_ms, 2)} ms at half",
        )
        yield (
            f"| {OURS_GRPC.title}, (A) | {_rate(own.grpc):,.0f}/s, {latency} | "
            f"{PEERS['grpc'].title}, no router and no worker process: {_rate(bare):,.0f}/s in the same rounds |"
        )
    if own.wrk:
        ours, theirs = median(own.generator), median(own.wrk)
        yield f"| the generator, closed loop, 64 connections, (A) | {ours:,.0f}/s | `wrk`: {theirs:,.0f}/s |"
    yield ""


def _compiled(found: Compiled, served_eager: Sequence[float]) -> Iterator[str]:
    served, theirs = median(found.served.rates), median(found.theirs.rates)
    eager, compiled = median(found.eager_in_process), median(found.compiled_in_process)
    share = f"{median(served_eager) / eager:.2f} of it is served" if served_eager else _NONE
    yield f"| (B) in process, inside the supernet, images/s | {eager:,.0f} | {share} |"
    yield (
        f"| (B) served with compiled code (`superserve compile`) | {served:,.0f} | {served / compiled:.2f} of that in "
        f"process, {compiled:,.0f}; {served / theirs:.2f}x {PEERS[found.peer].title}, which runs plain torch |"
    )


def _settings(pairs: Sequence[Pair]) -> Iterator[str]:
    yield "## Settings\n"
    yield "Every server has one thread for torch, and the malloc settings of SuperServe's workers.\n"
    yield "| server | version | (A) batches | (B) batches | otherwise |"
    yield "|---|---|---|---|---|"
    versions = {OURS.name: __version__} | {pair.peer: pair.version for pair in pairs}
    for peer in (OURS, *PEERS.values()):
        if peer.name in versions:
            yield _setting(peer, versions[peer.name])
    yield ""


def _setting(peer: Peer, version: str) -> str:
    batches = f"{peer.tuning[NOOP.name]} | {peer.tuning[CNN.name]}"
    return f"| {peer.title} | {version} | {batches} | {peer.settings} |"


def _missing(pairs: Sequence[Pair], own: Own | None) -> Iterator[str]:
    known = {pair.peer: pair for pair in pairs}
    lines = [f"- {peer.title}: not measured in this run" for name, peer in PEERS.items() if name not in known]
    lines += [f"- {PEERS[pair.peer].title}: {error.splitlines()[0]}" for pair in pairs for error in pair.errors]
    lines += [f"- {OURS.title}: {error.splitlines()[0]}" for error in (own.errors if own is not None else ())]
    if lines:
        yield "## Not measured\n"
        yield from lines


def _median(values: Sequence[float], digits: int) -> str:
    return f"{median(values):.{digits}f}" if values else "void"


def _rate(figures: NoopFigures | CnnFigures | None) -> float:
    return median(figures.saturation.rates) if figures is not None else 0.0


def _together(many: Sequence[NoopFigures]) -> NoopFigures:
    """All rounds of SuperServe, whichever peer they were beside."""
    first = many[0]
    return NoopFigures(
        saturation=type(first.saturation)(
            rates=[rate for figures in many for rate in figures.saturation.rates],
            per_cpu_s=[rate for figures in many for rate in figures.saturation.per_cpu_s],
            connections=first.saturation.connections,
        ),
        p50_ms=[value for figures in many for value in figures.p50_ms],
        p99_ms=[value for figures in many for value in figures.p99_ms],
        late_ms=[value for figures in many for value in figures.late_ms],
    )


def _figure(pairs: Sequence[Pair]) -> Any:  # noqa: ANN401  (matplotlib's)
    """Saturation of both jobs, peer and SuperServe in the same rounds; and goodput at 1.3x, CV^2 = 16."""
    figure, axes = styled_axes((11.0, 4.8), 1, 3)
    panels: tuple[tuple[str, Callable[[Pair], tuple[float, float]]], ...] = (
        ("(A) no-op, requests/s", lambda pair: (_rate(pair.noop), _rate(pair.noop_ours))),
        ("(B) CNN, images/s", lambda pair: (_rate(pair.cnn), _rate(pair.cnn_ours))),
        ("(B) goodput, 0.9x, CV² 16", lambda pair: (_good(pair.cnn), _good(pair.cnn_ours))),
    )
    ordered = sorted(pairs, key=lambda pair: _rate(pair.noop))
    places = np.arange(len(ordered))
    for ax, (title, values) in zip(axes, panels, strict=True):
        for offset, index, label in ((0.2, 0, "peer"), (-0.2, 1, "SuperServe, same rounds")):
            color = LIGHT.series[1 - index]
            ax.barh(places + offset, [values(pair)[index] for pair in ordered], 0.38, color=color, label=label)
        ax.set_title(title, fontsize=10, loc="left", color=LIGHT.ink)
        ax.set_yticks(places, [PEERS[pair.peer].title for pair in ordered] if ax is axes[0] else [""] * len(ordered))
    handles, words = axes[0].get_legend_handles_labels()
    figure.legend(handles, words, loc="outside upper left", ncols=2, frameon=False, labelcolor=LIGHT.ink, fontsize=9)
    return figure


def _good(figures: CnnFigures | None) -> float:
    if figures is None:
        return 0.0
    cell = next(cell for cell in figures.cells if (cell.cv2, cell.load) == (16, 0.9))
    return median(cell.goodput) if cell.goodput else 0.0
