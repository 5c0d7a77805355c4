"""The ledger: what it samples, how much it keeps, and what it says, against the same computed directly."""

import struct
from typing import Any

import msgspec
import numpy as np
import pytest

from superserve.clock import NS_PER_MS, ManualClock
from superserve.errors import ConfigError
from superserve.intervals import wilson95
from superserve.model_folder import ModelConfig, TensorSpec
from superserve.profile import LatencyTable
from superserve.serving.comparison import comparison
from superserve.serving.fake_pool import FakePool
from superserve.serving.idle_work import LOOK_NS
from superserve.serving.ledger import Ledger, LedgerRow
from superserve.serving.pool import Batch
from superserve.serving.router import Router
from superserve.serving.shared_pool import SharedPool
from support.profiles import make_profile
from support.serving import MODEL, Recorder, make_router

#: Three subnets; a request with 5 ms gets the smallest one, with 9 ms the middle one, with more the largest.
PROFILE = make_profile([[1.0, 1.5], [2.0, 3.0], [4.0, 4.5]], batches=(1, 4))
CLASSES = 10
LABELLED = msgspec.structs.replace(
    MODEL,
    labels=tuple("abcdefghij"),
    outputs=(TensorSpec("scores", "FP32", (-1, CLASSES)), TensorSpec("factor", "FP32", (-1,))),
)


def answer_of(number: int, subnet: int) -> int:
    """The class that a subnet says for a row: the smaller it is, the more often another one than the largest."""
    right = number * 7 % CLASSES
    return (right + 1) % CLASSES if number % (3 + 4 * subnet) == 0 and subnet < 2 else right


def classify(batch: Batch) -> list[bytes]:
    """A worker that answers as `answer_of` says."""
    numbers = np.concatenate([np.frombuffer(scale, "<f4") for _, scale in batch.inputs]).astype(int)
    scores = np.zeros((len(numbers), CLASSES), np.float32)
    for row, number in enumerate(numbers):
        scores[row, answer_of(int(number), batch.subnet)] = 1.0
    return [scores.tobytes(), bytes(4 * len(numbers))]


class Bench:
    """A router with a ledger; requests are numbered by their content."""

    def __init__(
        self, share: float = 1.0, max_bytes: int = 1 << 20, config: ModelConfig = LABELLED, **options: Any
    ) -> None:
        self.clock = ManualClock(start_ns=1_000 * NS_PER_MS)
        self.pool = FakePool(1, classify)
        table = LatencyTable(PROFILE)
        rng = np.random.default_rng(0)
        self.ledger = Ledger(config, table, share=share, max_bytes=max_bytes, rng=rng, **options)
        self.shared = SharedPool(self.pool, self.clock)
        self.router: Router = make_router(
            self.shared, self.clock, profile=PROFILE, policy="maxacc", config=config, ledger=self.ledger
        )

    async def started(self) -> "Bench":
        await self.router.start()
        return self

    def ask(self, number: int, timeout_ms: float = 2.5, rows: int = 1) -> None:
        """A request and its answer; with 2.5 ms by the middle subnet."""
        recorder = Recorder()
        now_ns = self.clock.now_ns()
        self.router.submit(
            arrival_ns=now_ns,
            deadline_ns=now_ns + round(timeout_ms * NS_PER_MS),
            rows=rows,
            min_accuracy=0.0,
            priority=0,
            inputs=[bytes(4 * rows), struct.pack("<f", number) * rows],
            responder=recorder,
        )
        self.pool.finish(0)
        assert len(recorder.answers) == 1

    def rest(self) -> None:
        """No requests until all samples have been run."""
        for _ in range(10_000):
            if not self.ledger.pending and not self.pool.running:
                return
            self.clock.advance(LOOK_NS)
            if self.pool.running:
                self.pool.finish(0)
        raise AssertionError("it never ends")

    def rows(self) -> dict[str, LedgerRow]:
        return {row.subnet: row for row in self.ledger.report().rows}


async def test_agreement_is_that_of_a_direct_comparison() -> None:
    """Per subnet, with its interval; requests of the largest subnet are none of its business."""
    bench = await Bench().started()
    asked = {0: range(40), 1: range(100, 300), 2: range(300, 320)}
    for subnet, numbers in asked.items():
        for number in numbers:
            bench.ask(number, timeout_ms=(1.6, 2.5, 20.0)[subnet])
    bench.rest()
    rows = bench.rows()
    assert set(rows) == {"s0", "s1"}
    for subnet in (0, 1):
        row, numbers = rows[f"s{subnet}"], asked[subnet]
        agreed = sum(answer_of(number, subnet) == answer_of(number, 2) for number in numbers)
        assert (row.answered, row.compared, row.agreed) == (len(numbers), len(numbers), agreed)
        assert row.agreement == pytest.approx(100 * agreed / len(numbers))
        assert row.ci95 == pytest.approx(wilson95(agreed, len(numbers)))
    idle = [batch for _, batch in bench.pool.launched if batch.subnet == 2]
    assert sum(batch.rows for batch in idle) == 240 + 20


async def test_a_share_is_sampled() -> None:
    """Of degraded requests alone, each with the same probability: no more than a coin would give."""
    bench = await Bench(share=0.1).started()
    for number in range(2_000):
        bench.ask(number)
    taken = bench.ledger.waiting
    assert abs(taken - 200) < 4 * np.sqrt(2_000 * 0.1 * 0.9)
    assert bench.ledger.answered == [0, 2_000, 0]


async def test_of_a_request_one_row_is_run_again() -> None:
    """Its rows are not independent; the row's own answer is what counts."""
    bench = await Bench().started()
    for number in range(21):
        bench.ask(number, timeout_ms=3.5, rows=2)
    bench.rest()
    row = bench.rows()["s1"]
    assert (row.compared, row.agreed) == (21, sum(number % 7 != 0 for number in range(21)))


async def test_it_keeps_no_more_than_it_may() -> None:
    """And then a fair sample of all that came: none of them is likelier to be in it than others."""
    bench = await Bench(max_bytes=50 * 448).started()
    for number in range(2_000):
        bench.ask(number)
    kept = bench.ledger.waiting
    assert kept == 50
    assert bench.ledger.dropped == 2_000 - kept
    numbers = sorted(struct.unpack("<f", sample.inputs[1])[0] for sample in bench.ledger._waiting)
    assert numbers[0] < 300
    assert 600 < np.mean(numbers) < 1_400
    bench.rest()
    assert (bench.ledger.waiting, bench.ledger._in_stream) == (0, 0)


async def test_a_sample_is_run_once_whatever_comes_of_it() -> None:
    """One that kills its worker must not kill another; nothing of it is kept."""
    bench = await Bench().started()
    bench.ask(1)
    bench.clock.advance(2 * LOOK_NS)
    bench.pool.lose(0)
    bench.pool.revive(0)
    bench.clock.advance(10 * LOOK_NS)
    assert (bench.pool.running, bench.ledger.dropped, bench.ledger._running) == ({}, 1, [])
    bench.ask(2)
    bench.rest()
    assert bench.rows()["s1"].compared == 1


async def test_rows_that_are_too_long_for_idle_time_are_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """Which the log says, once."""
    bench = await Bench().started()
    bench.router._slo_ns = 20 * NS_PER_MS
    for number in range(3):
        bench.ask(number)
        bench.clock.advance(3 * LOOK_NS)
    assert (bench.ledger.waiting, bench.ledger.dropped, bench.pool.running) == (0, 3, {})
    assert caplog.text.count("nothing is compared") == 1
    assert bench.shared.idle_work._timer is None


def test_a_budget_for_no_sample_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"ledger.max_bytes = 100: a sample of tiny takes \d+ bytes"):
        Bench(max_bytes=100)


def test_what_agrees_depends_on_the_output() -> None:
    """Classes where there are labels, of each position; else elements, exactly or nearly."""

    def agree(spec: TensorSpec, labels: int, one: Any, other: Any) -> bool:
        config = msgspec.structs.replace(MODEL, outputs=(spec,), labels=tuple(map(str, range(labels))))
        served, reference = (np.array(each, spec.dtype).tobytes() for each in (one, other))
        return comparison(config).agree(served, memoryview(reference))

    scores = TensorSpec("scores", "FP32", (-1, 3))
    assert agree(scores, 3, [0.1, 0.9, 0.0], [0.3, 0.4, 0.3])
    assert not agree(scores, 3, [0.1, 0.9, 0.0], [0.5, 0.4, 0.3])
    tokens = TensorSpec("tokens", "FP16", (-1, 2, 3))
    assert agree(tokens, 3, [[1, 0, 0], [0, 1, 0]], [[2, 0, 0], [0, 3, 0]])
    assert not agree(tokens, 3, [[1, 0, 0], [0, 1, 0]], [[2, 0, 0], [0, 0, 3]])
    halves = TensorSpec("scores", "BF16", (-1, 2))
    assert agree(halves, 2, [0x3F80, 0xBF80], [0x4000, 0x0000])  # 1 and -1, 2 and 0
    assert not agree(halves, 2, [0x3F80, 0xBF80], [0xBF80, 0x0000])
    assert agree(scores, 0, [1.0, 2.0, 100.0], [1.5, 2.0, 100.0])
    assert not agree(scores, 0, [1.0, 2.0, 100.0], [1.0, 4.0, 100.0])
    whole = TensorSpec("ids", "INT32", (-1, 3))
    assert agree(whole, 0, [1, 2, 3], [1, 2, 3])
    assert not agree(whole, 0, [1, 2, 3], [1, 2, 4])
