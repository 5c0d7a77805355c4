import numpy as np
import pytest

from superserve.plots import DARK, LIGHT, NamedRun, Theme, dynamics_figure, figure_bytes, tradeoff_figure
from support.rows import make_log, make_row

RUNS = [NamedRun("slackfit", make_log(0)), NamedRun("fixed:m", make_log(1), 2)]
ROWS = [make_row("slackfit", 0.99, 90.0), make_row("fixed:l", 0.3, 95.0), make_row("fixed:n", 0.0, None)]


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_dynamics_has_a_panel_per_quantity_and_a_line_per_run(theme: Theme) -> None:
    figure = dynamics_figure(RUNS, title="Title", theme=theme)
    assert [ax.get_ylabel().replace("\n", " ") for ax in figure.axes] == [
        "offered requests/s",
        "accuracy of answers in time, %",
        "mean batch",
        "waiting or running",
        "missed requests/s",
    ]
    assert [len(ax.get_lines()) for ax in figure.axes] == [0, 2, 2, 2, 0]
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["slackfit", "fixed:m"]
    assert figure.get_facecolor() == pytest.approx(_rgba(theme.background))
    assert [line.get_color() for line in figure.axes[1].get_lines()] == [theme.series[0], theme.series[2]]


def test_bins_without_answers_are_left_out_of_lines() -> None:
    lines = dynamics_figure(RUNS[:1], title="t").axes[1].get_lines()
    assert np.isfinite(np.asarray(lines[0].get_ydata(), float)).all()


def test_tradeoff_draws_measured_filled_and_simulated_hollow() -> None:
    figure = tradeoff_figure(ROWS, [make_row("slackfit", 0.98, 90.0)], title="t")
    points = [line for line in figure.axes[0].get_lines() if line.get_marker() not in {"None", ""}]
    filled = [line for line in points if line.get_markerfacecolor() != "none"]
    assert [line.get_label() for line in filled] == ["slackfit", "fixed:l", "fixed:n"]
    assert np.asarray(filled[0].get_xdata(), float).tolist() == [0.99]
    hollow = [line for line in points if line.get_markerfacecolor() == "none" and len(np.asarray(line.get_xdata()))]
    assert [np.asarray(line.get_xdata(), float).tolist() for line in hollow] == [[0.98]]


def test_files_are_reproducible() -> None:
    png = [figure_bytes(tradeoff_figure(ROWS, ROWS, title="t"), "png") for _ in range(2)]
    svg = [figure_bytes(tradeoff_figure(ROWS, ROWS, title="t"), "svg") for _ in range(2)]
    assert png[0] == png[1]
    assert svg[0] == svg[1]
    assert png[0].startswith(b"\x89PNG")
    assert b"<svg" in svg[0]


def test_lines_of_a_theme_stand_out_from_its_background() -> None:
    """WCAG asks a contrast of 3 for graphics."""
    for theme in (LIGHT, DARK):
        for color in (*theme.series, theme.ink, theme.muted):
            assert _contrast(color, theme.background) >= 3.0, (theme.name, color)


def _rgba(color: str) -> tuple[float, float, float, float]:
    red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue, 1.0


def _contrast(one: str, other: str) -> float:
    def luminance(color: str) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in _rgba(color)[:3]]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)
