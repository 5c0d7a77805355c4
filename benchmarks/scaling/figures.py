"""The figures of the page."""

from collections.abc import Sequence
from typing import Final

from matplotlib.figure import Figure

from scaling.means import Mean, unsharded
from scaling.one_scheduler import POLICIES, SITUATIONS, WORKERS, Cost
from scaling.shards import Sharding
from superserve.plots import LIGHT, styled_axes

_MARKERS: Final = "osD^v"
_TITLES: Final = ("by hash, against one scheduler", "by model, against all models on all workers")


def scheduler_figure(costs: Sequence[Cost]) -> Figure:
    """CPU per request by number of workers: a panel per policy, a line per situation, with the range of the rounds."""
    figure, axes = styled_axes((9.0, 3.4), 1, len(POLICIES), shared=True)
    for ax, policy in zip(axes, POLICIES, strict=True):
        for number, situation in enumerate(SITUATIONS):
            line = [cost for cost in costs if (cost.policy, cost.situation) == (policy, situation)]
            middle = [cost.median_us for cost in line]
            ax.errorbar(
                [cost.workers for cost in line],
                middle,
                yerr=(
                    [cost.median_us - cost.least_us for cost in line],
                    [cost.most_us - cost.median_us for cost in line],
                ),
                fmt=f"{_MARKERS[number]}-",
                color=LIGHT.series[number],
                markersize=5,
                linewidth=1.4,
                capsize=2,
                label=situation,
            )
        ax.set_xscale("log", base=2)
        ax.set_xticks(WORKERS, labels=[f"{workers:,}" for workers in WORKERS])
        ax.set_xlabel("workers", color=LIGHT.ink)
        ax.set_title(policy, color=LIGHT.ink, fontsize=10, loc="left")
    axes[0].set_ylim(bottom=0)
    axes[0].set_ylabel("CPU per request, µs", color=LIGHT.ink)
    axes[0].legend(frameon=False, labelcolor=LIGHT.ink, fontsize=8)
    figure.suptitle("One scheduler alone on a core (measured)", color=LIGHT.ink, fontsize=11, ha="left", x=0.02)
    return figure


def shards_figure(found: Sequence[Mean]) -> Figure:
    """What sharding does to the accuracy over all offered, by number of shards: a line per load, hash beside model."""
    figure, axes = styled_axes((9.6, 5.2), 1, 2, shared=True)
    loads = list(dict.fromkeys(one.load for one in found))
    shards = sorted({one.shards for one in found})
    for ax, sharding, title in zip(axes, (Sharding.HASH, Sharding.MODEL), _TITLES, strict=True):
        for number, load in enumerate(loads):
            line = [one for one in found if (one.load, one.sharding) == (load, sharding)]
            ax.plot(
                [one.shards for one in line],
                [one.accuracy - unsharded(one, found).accuracy for one in line],
                f"{_MARKERS[number % 5]}{'-' if number < 5 else '--'}",
                color=LIGHT.series[number % 5],
                markersize=5,
                linewidth=1.4,
                label=load,
            )
        ax.axhline(0.0, color=LIGHT.muted, linewidth=0.8, zorder=1)
        ax.set_xscale("log", base=2)
        ax.set_xticks(shards, labels=[f"{count}" for count in shards])
        ax.set_xlabel("shards", color=LIGHT.ink)
        ax.set_title(title, color=LIGHT.ink, fontsize=10, loc="left")
    axes[0].set_ylabel("points won or lost", color=LIGHT.ink)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, labelcolor=LIGHT.ink, fontsize=8)
    figure.suptitle("What sharding costs (simulated)", color=LIGHT.ink, fontsize=11, ha="left", x=0.02)
    return figure
