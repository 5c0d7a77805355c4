"""The figure of a run: latency, memory, switching."""

from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from subnetact.families import CASES
from superserve.plots import DPI, LIGHT

#: One for each family: there are fewer colours.
_MARKERS: Final = "osD^vPX*"


def draw(results: dict[str, Any], path: Path) -> None:
    """Write the figure; a part that was not measured leaves its panel empty."""
    figure = Figure((13.0, 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    latency, memory, switch = figure.subplots(1, 3)
    for axes, part, panel in (
        (latency, "latency", _latency),
        (memory, "memory", _memory),
        (switch, "switch", _switching),
    ):
        if part in results:
            panel(axes, results[part])
    figure.savefig(path, dpi=DPI)


def _latency(axes: Axes, found: dict[str, Any]) -> None:
    """Batch 1, every alternative over the extracted subnet in eager float32."""
    axes.set_title("Latency at batch 1, extracted eager = 1", fontsize=9)
    cases = [case for case in CASES if case.name in found]
    thickness = 0.72 / max(1, len(cases))
    for number, one in enumerate(cases):
        rows = [row for row in found[one.name]["rows"] if row["batch"] == 1]
        last = rows[-1]["subnet"]
        times = {row["alternative"]: row["median_us"] for row in rows if row["subnet"] == last}
        ratios = [value / times["extracted eager fp32"] for value in times.values()]
        places = [place + thickness * number for place in range(len(times))]
        axes.barh(places, ratios, thickness, label=f"{one.name}, {last}", color=_color(number))
        axes.set_yticks(
            [place + thickness * (len(cases) - 1) / 2 for place in range(len(times))], list(times), fontsize=7
        )
    axes.invert_yaxis()
    axes.axvline(1, color=LIGHT.muted, linewidth=0.8)
    axes.legend(fontsize=7, loc="lower right")


def _memory(axes: Axes, found: dict[str, Any]) -> None:
    axes.set_title("Weights and statistics in memory, MB", fontsize=9)
    for number, one in enumerate(case for case in CASES if case.name in found):
        for mode, dash in (("supernet", "-"), ("zoo", ":")):
            rows = [row for row in found[one.name]["rows"] if row["mode"] == mode]
            workers, used = [row["workers"] for row in rows], [row["model_mb"] for row in rows]
            label = one.name if mode == "supernet" else None
            axes.plot(workers, used, dash, marker="o", color=_color(number), label=label)
            axes.set_xticks(workers)
    axes.set_yscale("log")
    axes.set_xlabel("worker processes; dotted: six extracted in each", fontsize=8)
    axes.legend(fontsize=7, loc="upper left")


def _switching(axes: Axes, found: dict[str, Any]) -> None:
    axes.set_title("Switching to the largest subnet, ms", fontsize=9)
    for number, one in enumerate(case for case in CASES if case.name in found):
        rows = found[one.name]["rows"]
        last = rows[-1]["subnet"]
        shown = [row for row in rows if row["subnet"] in {"any", last}]
        names = [row["way"].replace("load extracted, ", "load,\n").replace(" session", "\nsession") for row in shown]
        times = [row["median_us"] / 1000 for row in shown]
        axes.plot(names, times, _MARKERS[number], color=_color(number), label=one.name)
    axes.set_yscale("log")
    axes.tick_params(axis="x", labelsize=6)
    axes.legend(fontsize=7)


def _color(number: int) -> str:
    return LIGHT.series[number % len(LIGHT.series)]
