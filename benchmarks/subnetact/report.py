"""The tables of a run as Markdown, each target beside what was reached."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from subnetact import graphs
from subnetact.families import Case
from subnetact.figure import draw
from subnetact.targets import measured, memory_ratio, table, tax


def write_page(results: dict[str, Any], path: Path) -> None:
    """Write the page, and its figure into ``images/`` beside it."""
    figure = path.parent / "images" / f"{path.stem}.png"
    figure.parent.mkdir(parents=True, exist_ok=True)
    draw(results, figure)
    path.write_text("\n".join(_page(results, figure.relative_to(path.parent))) + "\n")


def _page(results: dict[str, Any], figure: Path) -> Iterator[str]:
    machine = results["machine"]
    yield "# SubNetAct: what it costs, and what it saves"
    yield ""
    yield "Written by `make bench-subnetact`. One thread pinned to one core, alternatives interleaved,"
    yield "medians (their ranges are in the JSON), memory managed as in workers. All weights but those of digits are"
    yield f"random. torch {machine['torch']}, {machine['cores']} cores of {machine['cpu']}."
    yield ""
    yield f"![Latency, memory and switching]({figure})"
    yield "\n## Targets\n"
    yield from table(results)
    yield "\nActuated subnets may be faster than extracted ones: below 16 rows they hand large 1x1 convolutions to"
    yield "oneDNN, where torch takes another library for the plain modules that `extract` gives."
    for title, key, part in (
        ("Latency", "latency", _latency),
        ("The packed engine", "packed", _packed),
        ("Memory", "memory", _memory),
        ("Switching", "switch", _switching),
        ("Start", "start", _start),
        ("CUDA graphs", "graphs", graphs.lines),
    ):
        if key in results:
            yield f"\n## {title}\n"
            yield from part(results[key])
    if "hundreds" in results:
        yield f"\n## {results['hundreds']['all']['subnets']} subnets of OFA-ResNet50\n"
        yield from _hundreds(results["hundreds"]["all"])


def _latency(found: dict[str, Any]) -> Iterator[str]:
    for one, part in measured(found):
        rows = part["rows"]
        yield from _cells(one, part)
        taxes = ", ".join(f"{engine} {tax(rows, engine):.3f}" for engine in ("eager fp32", "compiled fp32"))
        compiled = ", ".join(f"{seconds:.0f} s in {dtype}" for dtype, seconds in part["compile_s"].items())
        yield f"\nActuated over extracted, median over the rows: {taxes}. Compiling these {part['compiled_subnets']}"
        yield f"subnets took {compiled} of one core.\n"


def _packed(found: dict[str, Any]) -> Iterator[str]:
    yield "A part of its own: alternatives share a core's caches with those that they are interleaved with.\n"
    for one, part in measured(found):
        yield from _cells(one, part)
        for dtype, subnets in part["packing"].items():
            sizes = ", ".join(f"{subnet['mb']:g}" for subnet in subnets)
            seconds = ", ".join(f"{subnet['seconds']:g}" for subnet in subnets)
            yield f"\nPacked in {dtype}: {sizes} MB beside the one copy, in {seconds} s of one core, check included."
            yield from _runtimes(list(dict.fromkeys(row["subnet"] for row in part["rows"])), subnets)
        yield ""


def _runtimes(ids: list[str], subnets: list[dict[str, Any]]) -> Iterator[str]:
    """Which static runtimes the subnets run in, for how many rows, and what that takes in each worker."""
    for of, subnet in zip(ids, subnets, strict=True):
        if subnet.get("each_mb"):
            by_name: dict[str, list[str]] = {}
            for rows, name in subnet["runs"].items():
                by_name.setdefault(name, []).append(rows)
            runs = "; ".join(f"{', '.join(rows)} rows: {name}" for name, rows in by_name.items())
            yield f"With static runtimes {of} takes {subnet['each_mb']:g} MB in each worker ({runs})."


def _cells(one: Case, part: dict[str, Any]) -> Iterator[str]:
    """The medians of a family."""
    rows, missing = part["rows"], part["missing"]
    names = list(dict.fromkeys(row["alternative"] for row in rows))
    yield f"### {one.title}, milliseconds per batch\n"
    yield "| subnet, batch | " + " | ".join([*names, *missing]) + " |"
    yield "|---" * (len(names) + len(missing) + 1) + "|"
    for subnet, batch in dict.fromkeys((row["subnet"], row["batch"]) for row in rows):
        cells = {
            r["alternative"]: f"{r['median_us'] / 1000:.3g}"
            for r in rows
            if (r["subnet"], r["batch"]) == (subnet, batch)
        }
        yield f"| {subnet}, {batch} | " + " | ".join([*cells.values(), *missing.values()]) + " |"


def _memory(found: dict[str, Any]) -> Iterator[str]:
    yield "PSS of all workers together, MB: weights and statistics; in brackets whole processes, Python and torch"
    yield "included, after every subnet ran once.\n"
    yield "| family | workers | one supernet | six extracted in each | the largest, reloaded | six / one |"
    yield "|---|---|---|---|---|---|"
    for one, part in measured(found):
        for workers in dict.fromkeys(row["workers"] for row in part["rows"]):
            rows = [row for row in part["rows"] if row["workers"] == workers]
            cells = " | ".join(f"{row['model_mb']:.1f} ({row['total_mb']:.0f})" for row in rows)
            yield f"| {one.title} | {workers} | {cells} | {memory_ratio(rows, workers):.2f} |"


def _switching(found: dict[str, Any]) -> Iterator[str]:
    yield "| family | way | subnet | milliseconds | actuations in that time |"
    yield "|---|---|---|---|---|"
    for one, part in measured(found):
        (actuation,) = (row for row in part["rows"] if row["way"] == "actuation")
        for row in part["rows"]:
            times = row["median_us"] / actuation["median_us"]
            yield f"| {one.title} | {row['way']} | {row['subnet']} | {row['median_us'] / 1000:.4g} | {times:,.0f} |"


def _start(found: dict[str, Any]) -> Iterator[str]:
    yield "From the start of a worker process to its first batch, milliseconds:\n"
    yield "| family | interpreter | torch and model | warm-up, every subnet once |"
    yield "|---|---|---|---|"
    for one, part in measured(found):
        yield f"| {one.title} | " + " | ".join(f"{value:.0f}" for value in part.values()) + " |"


def _hundreds(found: dict[str, Any]) -> Iterator[str]:
    total = found["weights_mb"] + found["statistics_mb"]
    half, digits = found["half"], found["digits"]
    yield "| what | figure |"
    yield "|---|---|"
    yield f"| weights | {found['weights_mb']:.1f} MB |"
    share = found["statistics_mb"] / found["weights_mb"]
    yield f"| statistics, halved, equal sets once | {found['statistics_mb']:.1f} MB, {share:.1%} of the weights |"
    yield f"| the same in single precision | {found['statistics_single_mb']:.1f} MB |"
    yield f"| the same, nothing shared | {found['statistics_unshared_single_mb']:.1f} MB |"
    yield f"| six extracted subnets | {found['six_extracted_mb']:.0f} MB, {found['six_extracted_mb'] / total:.2f}x |"
    yield f"| ResNet18, 34, 50 and 101, by shape | {found['resnets_mb']:.0f} MB, {found['resnets_mb'] / total:.2f}x |"
    private = found["private"]
    yield f"| private memory of loading, of binding | {private['load_mb']:.1f}, {private['bind_mb']:.1f} MB |"
    yield f"| actuation, median | {found['actuation']['median_us']:.1f} us |"
    yield (
        f"| half against single precision, {half['subnets']} subnets, {half['images']} random images, random weights | "
        f"largest difference {half['largest_difference']:.4f} standard deviations of the logits; same class in "
        f"{half['same_class']:.2%} |"
    )
    yield (
        f"| the same on digits, {digits['subnets']} subnets, {digits['images']} test images | "
        f"{digits['mean_points_lost']:.3f} points lost on average, {digits['worst_points_lost']:.2f} at worst "
        f"(one image is {100 / digits['images']:.2f}) |"
    )
