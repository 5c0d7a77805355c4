from superserve.lever_figure import lever_figure
from superserve.levers import LeverReport, LeverStep, Machine, Stream, Work, costs
from superserve.plots import figure_bytes

MACHINE = Machine(macs_per_s=1e9, launch_us=10.0, streams=(Stream(bytes=1000, bytes_per_s=1e9),))
WORK = Work(operators=10, weight_bytes=1000, activation_bytes=1000, macs=1_000_000)


def test_every_cell_and_every_step_is_drawn() -> None:
    """Lines per subnet, a mark per cell and per step, hollow where a step saves nothing for certain."""
    steps = tuple(
        LeverStep(subnet="s0", batch=1, lever=lever, saved_us=10.0, saved_share=0.1, error_us=error, lost=lost)
        for lever, error, lost in (("batch", 1.0, 0.0), ("depth", 9.0, None))
    )
    cells = tuple(cell for name in ("s0", "s1") for cell in costs(name, (1, 4), (200.0, 500.0), WORK, MACHINE))
    report = LeverReport(machine=MACHINE, work={"s0": WORK, "s1": WORK}, cells=cells, steps=steps, examples=0)
    figure = lever_figure(report, title="model")
    times, drawn = figure.axes
    assert sum(len(line.get_xdata()) == 2 for line in times.get_lines()) == 2  # type: ignore[arg-type]
    assert sum(len(line.get_xdata()) == 1 for line in times.get_lines()) == 4  # type: ignore[arg-type]
    marks = [line for line in drawn.get_lines() if len(line.get_xdata()) == 1]  # type: ignore[arg-type]
    assert [mark.get_markerfacecolor() == "none" for mark in marks] == [False, True]
    assert {text.get_text() for text in drawn.get_legend().get_texts()} == {  # type: ignore[union-attr]
        "batch: twice the rows",
        "depth: one step down",
    }
    assert figure_bytes(figure, "png").startswith(b"\x89PNG")
