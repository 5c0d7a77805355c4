"""The figure of a lever report: where the time goes, and what a step of each lever saves and loses."""

from collections.abc import Mapping
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from superserve.levers import BATCH, LeverReport, Region
from superserve.plots import LIGHT, Theme, styled_axes

_MARKERS: Final[Mapping[Region, str]] = {"launch": "o", "memory": "s", "compute": "^"}
_STEP_MARKERS: Final = "osD^vP*X"


def lever_figure(report: LeverReport, *, title: str, theme: Theme = LIGHT) -> Figure:
    """Time per row against batch with the region of each cell; points lost against time saved of each step."""
    figure, (times, steps) = styled_axes((11.0, 4.4), 1, 2, theme)
    _draw_times(times, report, theme)
    _draw_steps(steps, report, theme)
    figure.suptitle(title, color=theme.ink, fontsize=11, ha="left", x=0.02)
    return figure


def _draw_times(ax: Axes, report: LeverReport, theme: Theme) -> None:
    for number, subnet in enumerate(report.work):
        cells = [cell for cell in report.cells if cell.subnet == subnet]
        color = theme.series[number % len(theme.series)]
        ax.plot([cell.batch for cell in cells], [_row_ms(cell.taken_us, cell.batch) for cell in cells], color=color)
        for cell in cells:
            ax.plot(cell.batch, _row_ms(cell.taken_us, cell.batch), _MARKERS[cell.region], color=color, markersize=6)
        ax.annotate(
            subnet, (cells[-1].batch, _row_ms(cells[-1].taken_us, cells[-1].batch)), color=theme.ink, fontsize=8
        )
    for region, marker in _MARKERS.items():
        ax.plot([], [], marker, color=theme.muted, label=f"{region}-bound")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("{x:g}")
    ax.tick_params(which="minor", colors=theme.muted, labelsize=9, length=0)
    ax.set_xlabel("rows in a batch", color=theme.ink)
    ax.set_ylabel("ms per row, median", color=theme.ink)
    ax.legend(frameon=False, labelcolor=theme.ink, fontsize=9)


def _draw_steps(ax: Axes, report: LeverReport, theme: Theme) -> None:
    """Filled if the step saves time beyond doubt."""
    levers = list(dict.fromkeys(step.lever for step in report.steps))
    for step in report.steps:
        number = levers.index(step.lever)
        ax.plot(
            100 * step.saved_share,
            step.lost or 0.0,
            _STEP_MARKERS[number % len(_STEP_MARKERS)],
            color=theme.series[number % len(theme.series)],
            markerfacecolor=None if step.pays else "none",
            markersize=7,
        )
    for number, lever in enumerate(levers):
        name = "batch: twice the rows" if lever == BATCH else f"{lever}: one step down"
        color, marker = theme.series[number % len(theme.series)], _STEP_MARKERS[number % len(_STEP_MARKERS)]
        ax.plot([], [], marker, color=color, label=name)
    ax.set_xlabel("time per row saved, %", color=theme.ink)
    ax.set_ylabel("points of accuracy lost" if report.examples else "points lost: not known", color=theme.ink)
    ax.legend(loc="best", frameon=False, labelcolor=theme.ink, fontsize=9)


def _row_ms(taken_us: float, rows: int) -> float:
    return taken_us / rows / 1000
