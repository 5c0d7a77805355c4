"""What is written of the results."""

from pathlib import Path

import msgspec

from scaling.figures import scheduler_figure, shards_figure
from scaling.front_end import FrontEnd
from scaling.means import means
from scaling.one_scheduler import POLICIES, SITUATIONS, WORKERS, Cost
from scaling.page import lines, write
from scaling.results import Machine, Results
from scaling.shards import Outcomes, Sharding

FRONT_END = FrontEnd(runs=3, median_us=20.0, least_us=19.0, most_us=22.0)


def cost(policy: str, situation: str, workers: int) -> Cost:
    return Cost(
        policy=policy,
        situation=situation,
        workers=workers,
        requests=1_000,
        rounds=3,
        median_us=8.0,
        least_us=7.5,
        most_us=9.0,
        core_share=0.97,
        batches=80,
        mean_batch=12.0,
        slo_attainment=1.0,
    )


def outcomes(sharding: Sharding, shards: int, seed: int, accuracy: float) -> Outcomes:
    return Outcomes(
        load="some load",
        sharding=sharding,
        shards=shards,
        workers=1_024,
        seconds=0.5,
        seed=seed,
        offered=512_000,
        slo_attainment=0.99 + 0.01 * seed,
        mean_serving_accuracy=accuracy,
        goodput_weighted_accuracy=accuracy,
    )


ALL = Results(
    machine=Machine(cpu="Some CPU", cores=2, python="CPython 3.11.7"),
    front_end=FRONT_END,
    scheduler=tuple(
        cost(policy, situation, workers) for policy in POLICIES for situation in SITUATIONS for workers in WORKERS
    ),
    shards=(
        *(outcomes(Sharding.HASH, 1, seed, 77.0 + seed) for seed in (0, 1)),
        *(outcomes(Sharding.HASH, 32, seed, 76.75 + seed) for seed in (0, 1)),
        outcomes(Sharding.MODEL, 32, 0, 75.0),
        outcomes(Sharding.HOSTED, 32, 0, 77.0),
    ),
)


def test_costs_of_sharding_are_means_over_seeds() -> None:
    """By hash over one scheduler, by model over the same models together."""
    page = "\n".join(lines(ALL))
    assert "| some load | 77.50 (0.9950) | -0.25 (0.9950) |" in page
    assert "| some load | 32 | 77.00 (0.9900) | 75.00 (0.9900) | -2.00 |" in page
    assert (
        "At most 2.00 points were lost, and 0.0000 of the answers in time: some load, 32 shards of 32 workers." in page
    )


def test_a_scheduler_is_told_by_requests_and_decisions() -> None:
    """8 us a request, 80 batches for 1,000 of them."""
    assert "| `drainfit`, under load | 8 | 8.0 (7.5-9.0) | 125,000 | 12.0 | 10,000 | 1,000 | 97% |" in list(lines(ALL))


def test_a_server_costs_what_front_end_and_scheduler_do() -> None:
    """20 and 8 us, the core busy for 70 %: 25,000 requests/s."""
    page = " ".join("\n".join(lines(ALL)).split())
    assert "is 28.0 µs" in page
    assert "some 25,000 requests/s" in page
    assert "take 40 servers" in page


def test_what_is_missing_is_left_out(tmp_path: Path) -> None:
    """A part can be run alone, and the others are kept."""
    assert Results.read(tmp_path) == Results()
    write(tmp_path, Results())
    assert "## One scheduler" not in (tmp_path / "scaling.md").read_text()
    ALL.write(tmp_path)
    assert Results.read(tmp_path) == ALL
    without = msgspec.structs.replace(ALL, front_end=None)
    assert "## When to shard" not in "\n".join(lines(without))


def test_figures_have_a_line_per_situation_and_load() -> None:
    for ax in scheduler_figure(ALL.scheduler).axes:
        assert [text.get_text() for text in ax.get_xticklabels()] == ["8", "64", "256", "1,024"]
        assert len(ax.containers) == len(SITUATIONS)
    by_hash, by_model = shards_figure(means(ALL.shards)).axes
    assert [len(ax.get_lines()) for ax in (by_hash, by_model)] == [2, 2]
