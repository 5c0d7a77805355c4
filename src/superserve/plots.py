"""Figures of runs, drawn with matplotlib's object interface: no global state, no display.

Colours are those of Okabe and Ito, which people with any common form of colour blindness can tell apart; lines also
differ in their dashes, markers in their shapes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from superserve.experiments.dynamics import Series, dynamics
from superserve.metrics import ResultRow, RunLog

DPI: Final = 150


@dataclass(frozen=True)
class Theme:
    """Colours of a figure; ``series`` holds those of the data, in order of use."""

    name: str
    background: str
    ink: str
    muted: str
    grid: str
    series: tuple[str, ...]


LIGHT: Final = Theme(
    "light", "#ffffff", "#1b1f24", "#59636e", "#d8dee4", ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00")
)
DARK: Final = Theme(
    "dark", "#14171a", "#e6e9ec", "#9aa4ae", "#333a41", ("#56b4e9", "#e69f00", "#2fbf94", "#e296c4", "#f0e442")
)
THEMES: Final = (LIGHT, DARK)

_DASHES: Final = ("-", (0, (4, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.2, 1.2, 1.2)), (0, (8, 2)))
_MARKERS: Final = "osD^v"
_FIXED: Final = "one fixed subnet each"
_HOLLOW: Final[dict[str, Any]] = {"markersize": 13, "markerfacecolor": "none", "markeredgewidth": 1.4}


@dataclass(frozen=True)
class NamedRun:
    """A run and what a legend calls it; ``number`` picks its colour, so that figures of one report agree."""

    name: str
    log: RunLog
    number: int = 0


def dynamics_figure(runs: Sequence[NamedRun], *, title: str, theme: Theme = LIGHT) -> Figure:
    """How runs of one trace went over time: load, accuracy, batch size, requests in the system, misses."""
    figure = _figure((9.0, 8.6), theme)
    axes = figure.subplots(5, 1, sharex=True, gridspec_kw={"height_ratios": (1.25, 1.1, 1, 1, 1)})
    series = [dynamics(run.log) for run in runs]
    panels = (
        ("offered\nrequests/s", "offered"),
        ("accuracy of\nanswers in time, %", "accuracy"),
        ("mean batch", "batch"),
        ("waiting\nor running", "waiting"),
        ("missed\nrequests/s", "missed"),
    )
    for ax, (label, column) in zip(axes, panels, strict=True):
        _style(ax, theme)
        ax.set_ylabel(label, color=theme.ink, fontsize=9)
        if column == "offered":
            ax.fill_between(series[0].time_s, series[0].offered, step="mid", color=theme.muted, alpha=0.35, linewidth=0)
        else:
            _draw_panel(ax, runs, series, column, theme)
        if column != "accuracy":
            ax.set_ylim(0, max(1.0, ax.get_ylim()[1]))
    axes[-1].set_xlabel("time, s", color=theme.ink)
    axes[-1].set_xlim(0, float(series[0].time_s[-1]))
    axes[0].set_title(title, color=theme.ink, fontsize=11, loc="left", pad=26)
    handles, labels = axes[1].get_legend_handles_labels()
    axes[0].legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        borderaxespad=0.2,
        ncols=len(runs),
        frameon=False,
        labelcolor=theme.ink,
        fontsize=9,
    )
    figure.align_ylabels(list(axes))
    return figure


def tradeoff_figure(
    live: Sequence[ResultRow], simulated: Sequence[ResultRow], *, title: str, theme: Theme = LIGHT
) -> Figure:
    """Attainment against accuracy, a point per policy: filled as measured, hollow as simulated."""
    figure = _figure((6.4, 4.4), theme)
    ax = figure.subplots()
    _style(ax, theme)
    by_policy = {row.policy: row for row in simulated}
    for number, row in enumerate(live):
        color, marker = theme.series[number % 5], _MARKERS[number % 5]
        ax.plot(row.slo_attainment, _height(row), marker, color=color, markersize=8, label=row.policy)
        if twin := by_policy.get(row.policy):
            ax.plot(twin.slo_attainment, _height(twin), marker, color=color, **_HOLLOW)
    ax.plot([], [], "o", color=theme.muted, label="the same, simulated", **_HOLLOW)
    ax.axvline(1.0, color=theme.muted, linewidth=0.8, zorder=1)
    ax.set_xlabel("SLO attainment", color=theme.ink)
    ax.set_ylabel("mean serving accuracy, %", color=theme.ink)
    ax.margins(0.12)
    ax.set_title(title, color=theme.ink, fontsize=11, loc="left")
    ax.legend(loc="best", frameon=False, labelcolor=theme.ink, fontsize=9)
    return figure


@dataclass(frozen=True)
class Point:
    """A policy in a panel: SLO attainment 0..1, mean serving accuracy in per cent or None.

    ``fixed``: it serves one subnet, which its accuracy tells: such points share one look and are joined by a line.
    """

    policy: str
    attainment: float
    accuracy: float | None
    fixed: bool = False


@dataclass(frozen=True)
class Panel:
    """One situation: what each policy made of it."""

    title: str
    points: Sequence[Point]


def panels_figure(panels: Sequence[Panel], *, columns: int, title: str, theme: Theme = LIGHT) -> Figure:
    """Attainment against accuracy, a panel per situation and a mark per policy: as the paper's Fig. 8 to 10.

    Up and to the right is better.
    """
    rows = -(-len(panels) // columns)
    figure, axes = styled_axes((3.1 * columns + 1.6, 2.5 * rows + 0.9), rows, columns, theme, shared=True)
    policies = list(dict.fromkeys(point.policy for panel in panels for point in panel.points if not point.fixed))
    for ax, panel in zip(axes, panels, strict=False):
        ax.set_title(panel.title, color=theme.ink, fontsize=9, loc="left")
        _draw_fixed(ax, [point for point in panel.points if point.fixed], theme)
        # The first one is filled, the others are rings of growing size: what lies in one place is seen all the same.
        for point in reversed([point for point in panel.points if not point.fixed]):
            number = policies.index(point.policy)
            # Colours and shapes cycle together, shifted once per turn: 25 policies before two look alike.
            marker = _MARKERS[(number + number // 5) % 5]
            ax.plot(
                point.attainment,
                _known(point),
                marker,
                color=theme.series[number % 5],
                markerfacecolor=None if number == 0 else "none",
                markeredgewidth=1.5,
                markersize=6 + 2.5 * (number % 5),
                label=point.policy,
                clip_on=False,
                zorder=4,
            )
        ax.margins(0.1)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    handles = {handle.get_label(): handle for ax in axes for handle in ax.get_lines()}
    names = [*policies, *(name for name in handles if name == _FIXED)]
    figure.legend(
        [handles[name] for name in names],
        names,
        loc="outside right upper",
        frameon=False,
        labelcolor=theme.ink,
        fontsize=9,
    )
    figure.supxlabel("SLO attainment", color=theme.ink, fontsize=10)
    figure.supylabel("mean serving accuracy, %", color=theme.ink, fontsize=10)
    figure.suptitle(title, color=theme.ink, fontsize=11, ha="left", x=0.02)
    return figure


def _draw_fixed(ax: Axes, points: Sequence[Point], theme: Theme) -> None:
    known = sorted((_known(point), point.attainment) for point in points if point.accuracy is not None)
    if known:
        heights, places = zip(*known, strict=True)
        ax.plot(places, heights, "o-", color=theme.muted, markersize=4, linewidth=0.8, label=_FIXED, clip_on=False)


def _known(point: Point) -> float:
    return np.nan if point.accuracy is None else point.accuracy


def front_figure(
    points: Sequence[tuple[float, float]],
    front: Sequence[tuple[float, float]],
    served: Sequence[tuple[float, float]],
    *,
    title: str,
    cost: str,
    theme: Theme = LIGHT,
) -> Figure:
    """Accuracy over cost, on a logarithmic axis: all subnets measured, those that nothing beats, those served.

    Args:
        points: (cost, accuracy in per cent) of each subnet measured.
        front: those of the Pareto front, in rising order.
        served: those that a model folder serves.
        title: of the figure.
        cost: label of the cost axis.
        theme: colours.
    """
    figure, (ax,) = styled_axes((6.4, 4.4), 1, 1, theme)
    ax.plot(*zip(*points, strict=True), ".", color=theme.muted, markersize=4, label="measured", alpha=0.6)
    ax.plot(*zip(*front, strict=True), "-", color=theme.series[0], linewidth=1.2, label="front", drawstyle="steps-post")
    ax.plot(*zip(*served, strict=True), "o", color=theme.series[0], markersize=6, label="served")
    ax.set_xscale("log")
    ax.set_xlabel(cost, color=theme.ink)
    ax.set_ylabel("validation accuracy, %", color=theme.ink)
    ax.set_title(title, color=theme.ink, fontsize=11, loc="left")
    ax.legend(loc="lower right", frameon=False, labelcolor=theme.ink, fontsize=9)
    return figure


def styled_axes(
    size: tuple[float, float], rows: int, columns: int, theme: Theme = LIGHT, *, shared: bool = False
) -> tuple[Figure, list[Axes]]:
    """An empty figure of a size in inches with a grid of axes in a theme, row by row."""
    figure = _figure(size, theme)
    axes = list(figure.subplots(rows, columns, sharex=shared, sharey=shared, squeeze=False).flat)
    for ax in axes:
        _style(ax, theme)
    return figure, axes


def figure_bytes(figure: Figure, kind: Literal["png", "svg"]) -> bytes:
    """A figure as the content of a file. The same figure gives the same bytes."""
    # matplotlib stamps the date and its version into files otherwise, and draws the ids in an SVG at random.
    metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
    buffer = BytesIO()
    with rc_context({"svg.hashsalt": "superserve"}):
        figure.savefig(buffer, format=kind, dpi=DPI, facecolor=figure.get_facecolor(), metadata=metadata)
    return buffer.getvalue()


def _figure(size: tuple[float, float], theme: Theme) -> Figure:
    figure = Figure(figsize=size, layout="constrained", facecolor=theme.background)
    FigureCanvasAgg(figure)
    return figure


def _style(ax: Axes, theme: Theme) -> None:
    ax.set_facecolor(theme.background)
    ax.grid(visible=True, color=theme.grid, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(colors=theme.muted, labelsize=9, length=0)
    for side, spine in ax.spines.items():
        spine.set_visible(side in {"left", "bottom"})
        spine.set_color(theme.grid)


def _draw_panel(ax: Axes, runs: Sequence[NamedRun], series: Sequence[Series], column: str, theme: Theme) -> None:
    for run, one in zip(runs, series, strict=True):
        values = getattr(one, column)
        color, dashes = theme.series[run.number % 5], _DASHES[run.number % 5]
        if column == "missed":
            ax.fill_between(one.time_s, values, step="mid", color=color, alpha=0.6, linewidth=0, label=run.name)
            continue
        known = np.isfinite(values)  # a bin without answers is bridged: policies that answer rarely stay visible
        ax.plot(one.time_s[known], values[known], color=color, linestyle=dashes, linewidth=1.6, label=run.name)


def _height(row: ResultRow) -> float:
    return np.nan if row.mean_serving_accuracy is None else row.mean_serving_accuracy
