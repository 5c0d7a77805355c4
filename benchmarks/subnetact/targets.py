"""Each target of the project beside the figure that a run reached."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any, Final

from subnetact.families import CASES, Case

Rows = Sequence[dict[str, Any]]

#: What a compiled subnet of one copy may take, over the extracted one compiled alike.
_TAX: Final = {"ImageNet": 1.05, "32x32": 1.10}
#: What the packed engine may take, over the best static runtime at equal precision.
_PACKED: Final = {"ImageNet": 1.15, "32x32": 1.50}
_RIVALS: Final = {"fp32": ("onnxruntime fp32", "openvino fp32"), "bf16": ("openvino bf16",)}
_ACTUATION_US: Final = 50.0
_LOADS: Final = (100, 1000)
_MEMORY: Final = 4.0
_STATISTICS: Final = 0.25
_LOST_POINTS: Final = 0.05


def table(results: dict[str, Any]) -> Iterator[str]:
    """Lines of Markdown: target, figures by family, and whether it is met."""
    yield "| target | reached | met |"
    yield "|---|---|---|"
    if "switch" in results:
        yield from _switching(results["switch"])
    if "latency" in results:
        yield from _taxes(results["latency"])
        yield from _runtimes(results["latency"])
    if "packed" in results:
        yield from _packed(results["packed"])
    if "memory" in results:
        ratios = {one.name: memory_ratio(part["rows"], 2) for one, part in measured(results["memory"])}
        yield _row(
            f"six operating points, two workers: memory at least {_MEMORY:g} times below six extracted in each",
            _listed(ratios, "{:.2f}x"),
            all(value >= _MEMORY for value in ratios.values()),
        )
    if "hundreds" in results:
        yield from _hundreds(results["hundreds"]["all"])


def measured(found: dict[str, Any]) -> Iterator[tuple[Case, dict[str, Any]]]:
    """The families that a part was measured on, in their order."""
    return ((one, found[one.name]) for one in CASES if one.name in found)


def tax(rows: Rows, engine: str) -> float:
    """Median over subnets and batches of actuated over extracted latency, for an engine and dtype."""
    return _median_ratio(rows, (f"actuated {engine}",), (f"extracted {engine}",))


def memory_ratio(rows: Rows, workers: int) -> float:
    """Memory of six extracted subnets in each worker over that of one supernet."""
    used = {row["mode"]: row["model_mb"] for row in rows if row["workers"] == workers}
    return float(used["zoo"] / used["supernet"])


def _switching(found: dict[str, Any]) -> Iterator[str]:
    medians = {one.name: _way(part["rows"], "actuation")[0] for one, part in measured(found)}
    yield _row(
        f"actuation of a bound subnet within {_ACTUATION_US:g} us (median)",
        _listed(medians, "{:.1f} us"),
        all(value <= _ACTUATION_US for value in medians.values()),
    )
    for place, (end, least) in enumerate(zip(("smallest", "largest"), _LOADS, strict=True)):
        times = {
            one.name: _way(part["rows"], "load extracted, warm cache")[place] / medians[one.name]
            for one, part in measured(found)
        }
        yield _row(
            f"at least {least:,} times faster than loading the {end} extracted subnet from a warm page cache",
            _listed(times, "{:,.0f}x"),
            all(value >= least for value in times.values()),
        )


def _way(rows: Rows, way: str) -> list[float]:
    """Medians of a way of switching: of the smallest and the largest subnet, or of any."""
    return [row["median_us"] for row in rows if row["way"] == way]


def _taxes(found: dict[str, Any]) -> Iterator[str]:
    for scale, most in _TAX.items():
        parts = {one.name: part["rows"] for one, part in measured(found) if one.scale == scale}
        compiled = {name: tax(rows, "compiled fp32") for name, rows in parts.items()}
        eager = {name: tax(rows, "eager fp32") for name, rows in parts.items()}
        if compiled:
            yield _row(
                f"actuated over extracted, compiled, batch 1 and 16, {scale} scale: at most {most:g}",
                f"{_listed(compiled, '{:.3f}')} (eager: {_listed(eager, '{:.3f}')})",
                all(value <= most for value in compiled.values()),
            )


def _runtimes(found: dict[str, Any]) -> Iterator[str]:
    for dtype, rivals in _RIVALS.items():
        ratios = {
            one.name: _median_ratio(part["rows"], [f"actuated compiled {dtype}"], rivals)
            for one, part in measured(found)
            if any(row["alternative"] == rivals[0] for row in part["rows"])
            and any(row["alternative"] == f"actuated compiled {dtype}" for row in part["rows"])
        }
        if ratios:
            yield _row(
                f"compiled {dtype} over the best of {' and '.join(rivals)}: reported", _listed(ratios, "{:.2f}"), None
            )


def _packed(found: dict[str, Any]) -> Iterator[str]:
    """The engine that a server runs: each batch where it is fastest."""
    for scale, most in _PACKED.items():
        for dtype, rivals in _RIVALS.items():
            packed = [f"packed {dtype}"]
            for batch in (1, 8):
                parts = {
                    one.name: [row for row in part["rows"] if row["batch"] == batch]
                    for one, part in measured(found)
                    if one.scale == scale and {row["alternative"] for row in part["rows"]}.issuperset(rivals)
                }
                ratios = {name: _median_ratio(rows, _served(rows, dtype), rivals) for name, rows in parts.items()}
                alone = {name: _median_ratio(rows, packed, rivals) for name, rows in parts.items()}
                if ratios:
                    yield _row(
                        f"packed {dtype}, in a static runtime or compiled where that is faster, over the best of "
                        f"{' and '.join(rivals)}, batch {batch}, {scale} scale: at most {most:g}",
                        f"{_listed(ratios, '{:.2f}')} (packed alone: {_listed(alone, '{:.2f}')})",
                        all(value <= most for value in ratios.values()),
                    )


def _served(rows: Rows, dtype: str) -> list[str]:
    """What a server runs: with static runtimes the packed engine as it is, else that beside compiled code."""
    engine = f"packed + runtimes {dtype}"
    if any(row["alternative"] == engine for row in rows):
        return [engine]
    return [f"packed {dtype}", f"compiled {dtype}"]


def _median_ratio(rows: Rows, of: Sequence[str], over: Sequence[str]) -> float:
    """Median over subnets and batches of the best of some alternatives' times over the best of some others."""
    cells: dict[tuple[str, int], dict[str, float]] = {}
    for row in rows:
        cells.setdefault((row["subnet"], row["batch"]), {})[row["alternative"]] = row["median_us"]

    def best(times: dict[str, float], names: Sequence[str]) -> float:
        return min(times[name] for name in names if name in times)

    return float(statistics.median(best(times, of) / best(times, over) for times in cells.values()))


def _hundreds(found: dict[str, Any]) -> Iterator[str]:
    share = found["statistics_mb"] / found["weights_mb"]
    lost = found["digits"]["mean_points_lost"]
    yield _row(
        f"{found['subnets']} subnets of OFA-ResNet50: statistics in half precision at most {_STATISTICS:.0%} of the "
        f"weights, {_LOST_POINTS} points lost",
        f"{share:.1%}; {lost:.3f} points (digits' own statistics halved: OFA's weights are random here)",
        share <= _STATISTICS and lost <= _LOST_POINTS,
    )
    total = found["weights_mb"] + found["statistics_mb"]
    yield _row(
        "their bytes against six extracted subnets, and against four hand-tuned ResNets (the paper: 2.6x): stated",
        f"{found['six_extracted_mb'] / total:.2f}x; {found['resnets_mb'] / total:.2f}x",
        None,
    )


def _row(target: str, reached: str, met: bool | None) -> str:  # noqa: FBT001 (a cell of a table)
    return f"| {target} | {reached} | {'-' if met is None else 'yes' if met else '**no**'} |"


def _listed(figures: dict[str, float], form: str) -> str:
    return ", ".join(f"{name} {form.format(value)}" for name, value in figures.items())
