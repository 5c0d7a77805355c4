"""Each target of the project beside what a run reached."""

from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Final

from peers.catalog import PEERS
from peers.figures import CnnFigures, NoopFigures, Own, Pair

SATURATION: Final = 30_000.0
OVER_MOSEC: Final = 1.1
OVER_PYTHON: Final = 10.0
P50_MS: Final = 0.4
P99_MS: Final = 3.0
OF_IN_PROCESS: Final = 0.9
BELOW_SIMULATED: Final = 0.02
OVER_GRPC_AIO: Final = 3.0
#: Servers whose own request path is Python's, Triton's wheel among them.
PYTHON_SERVERS: Final = ("litserve", "mlserver", "mlserver-rest", "bentoml", "ray", "kserve", "triton")
#: Servers on `grpc.aio`, the one by hand apart: it is the library itself.
GRPC_AIO: Final = ("kserve", "mlserver")


def table(pairs: Sequence[Pair], own: Own | None) -> Iterator[str]:
    """Lines of Markdown: target, what was reached, and whether that meets it."""
    yield "## Targets\n"
    yield "| target | reached | |"
    yield "|---|---|---|"
    by_name = {pair.peer: pair for pair in pairs}
    yield from _noop([pair.noop_ours for pair in pairs if pair.noop_ours is not None])
    yield _over(by_name, ("mosec",), f"(A) saturation at least {OVER_MOSEC:g}x that of mosec", OVER_MOSEC, noop_ratio)
    python = f"(A) saturation at least {OVER_PYTHON:g}x the best of the Python servers and Triton's wheel"
    yield _over(by_name, PYTHON_SERVERS, python, OVER_PYTHON, noop_ratio)
    yield _over(by_name, tuple(PEERS), "(B) saturation at least that of every peer", 1.0, cnn_ratio)
    yield from _own(own)
    yield from _grpc(by_name, own)
    yield ""


def noop_ratio(pair: Pair) -> float | None:
    """SuperServe's saturation over the peer's in job (A), in the same rounds."""
    return _ratio(pair.noop_ours, pair.noop)


def cnn_ratio(pair: Pair) -> float | None:
    """The same of job (B)."""
    return _ratio(pair.cnn_ours, pair.cnn)


def _ratio(ours: NoopFigures | CnnFigures | None, theirs: NoopFigures | CnnFigures | None) -> float | None:
    return None if ours is None or theirs is None else _rate(ours) / _rate(theirs)


def _rate(figures: NoopFigures | CnnFigures) -> float:
    return median(figures.saturation.rates)


def _noop(ours: Sequence[NoopFigures]) -> Iterator[str]:
    rates = [rate for figures in ours for rate in figures.saturation.rates]
    target = f"(A) saturation at least {SATURATION:,.0f} requests/s"
    yield _row(target, f"{median(rates):,.0f}", median(rates) >= SATURATION) if rates else _unmeasured(target)
    for words, most, values in (
        ("p50", P50_MS, [value for figures in ours for value in figures.p50_ms]),
        ("p99", P99_MS, [value for figures in ours for value in figures.p99_ms]),
    ):
        target = f"(A) added latency at half of saturation, {words}: at most {most:g} ms"
        yield _row(target, f"{median(values):.2f} ms", median(values) <= most) if values else _unmeasured(target)


def _over(
    pairs: dict[str, Pair], names: Sequence[str], target: str, least: float, ratio: Callable[[Pair], float | None]
) -> str:
    """The smallest ratio counts, and none may be missing."""
    found = {name: value for name in names if name in pairs and (value := ratio(pairs[name])) is not None}
    missing = [PEERS[name].title for name in names if name not in found]
    if not found:
        return _unmeasured(target)
    nearest = min(found, key=lambda name: found[name])
    reached = f"{found[nearest]:.2f}x ({PEERS[nearest].title})"
    reached += f"; not measured: {', '.join(missing)}" if missing else ""
    return _row(target, reached, found[nearest] >= least and not missing)


def _own(own: Own | None) -> Iterator[str]:
    target = f"(B) saturation at least {OF_IN_PROCESS:g} of the model's own in process, on the same core"
    if own is not None and own.served:
        share = median(own.served) / median(own.in_process)
        yield _row(target, f"{share:.2f}", share >= OF_IN_PROCESS)
    else:
        yield _unmeasured(target)
    target = f"(B) goodput at 1.3x, CV² 16, default policy: at least the simulator's less {BELOW_SIMULATED:g}"
    if own is not None and own.elastic is not None and own.elastic.live:
        live, simulated = median(own.elastic.live), median(own.elastic.simulated)
        yield _row(target, f"{live:.3f}, simulated {simulated:.3f}", live >= simulated - BELOW_SIMULATED)
    else:
        yield _unmeasured(target)


def _grpc(pairs: dict[str, Pair], own: Own | None) -> Iterator[str]:
    """Ours was measured beside the bare library, the servers on it beside ours over HTTP."""
    target = f"gRPC, (A): at least {OVER_GRPC_AIO:g}x the servers on `grpc.aio`"
    ceiling = "gRPC, (A): the library's own ceiling is shown"
    if own is None or own.grpc is None or own.grpc_bare is None:
        yield _unmeasured(target)
        yield _unmeasured(ceiling)
        return

    found = own.grpc
    yield _over(pairs, GRPC_AIO, target, OVER_GRPC_AIO, lambda pair: _ratio(found, pair.noop))
    bare, ours = _rate(own.grpc_bare), _rate(found)
    yield f"| {ceiling} | {ours:,.0f}/s; {PEERS['grpc'].title}: {bare:,.0f}/s ({ours / bare:.2f}x) | shown |"


def _row(target: str, reached: str, met: bool) -> str:  # noqa: FBT001  (a column of the table)
    return f"| {target} | {reached} | {'met' if met else '**not met**'} |"


def _unmeasured(target: str) -> str:
    return f"| {target} | | not measured |"
