import numpy as np
import pytest
import torch

from superserve.evaluate import evaluate
from superserve.supernet.engine import EagerEngine
from superserve.supernet.machine import measure_machine
from superserve.supernet.probes import Examples, Probes
from support.supernets import pixels, small_supernet

SUPERNET = small_supernet()
SPACE = SUPERNET.network.space
SPECS = {"small": SPACE.smallest(), "large": SPACE.largest()}
ROWS = [pixels(8)]


def probes() -> Probes:
    return Probes(SUPERNET.network, SUPERNET.config, SPECS, ROWS)


def test_every_run_is_timed_in_every_round() -> None:
    """At least three rounds, whatever the time; aligned, so that they can be compared one by one."""
    seen: list[tuple[float, float, str]] = []
    runs = [("small", 1), ("small", 4), ("large", 1)]
    rng = np.random.default_rng(0)
    found = probes().time_us(runs, seconds=0.0, rng=rng, report=lambda *step: seen.append(step))
    assert list(found) == runs
    assert {len(times) for times in found.values()} == {3}
    assert all((times > 0).all() for times in found.values())
    assert len(seen) == 4


def test_what_is_right_is_what_evaluation_says() -> None:
    """Of each example, the same ones for all."""
    rng = np.random.default_rng(0)
    examples = Examples([rng.integers(0, 256, (120, 9, 9, 2), dtype=np.uint8)], rng.integers(0, 5, 120))
    tried = probes()
    hits = tried.hits(examples, seconds=1e9, report=lambda *_: None)
    rows = evaluate(tried.engine, examples.inputs, examples.labels)
    assert [100 * hits[name].mean() for name in tried.names] == pytest.approx([row.accuracy for row in rows])
    assert {len(found) for found in hits.values()} == {120}
    short = tried.hits(examples, seconds=0.0, report=lambda *_: None)
    for name in tried.names:
        np.testing.assert_array_equal(short[name], hits[name][:10])


def test_a_batch_repeats_the_rows_that_there_are() -> None:
    (batch,) = probes().batch(11)
    np.testing.assert_array_equal(batch, np.concatenate([ROWS[0], ROWS[0][:3]]))


def test_probes_are_calibrated_and_leave_the_supernet_as_it_was() -> None:
    """A subnet of the front runs as before."""
    engine = EagerEngine(SUPERNET)
    before = engine.run(0, ROWS)[0].copy()
    other = probes().engine.run(0, ROWS)[0]
    assert np.isfinite(other).all()
    np.testing.assert_array_equal(engine.run(0, ROWS)[0], before)


def test_a_machine_sustains_something() -> None:
    """On one thread, which is given back; float32 is measured by the test of the report."""
    threads = torch.get_num_threads()
    machine = measure_machine("bfloat16")
    assert machine.macs_per_s > 1e8
    assert 0.01 < machine.launch_us < 1000
    sizes = [stream.bytes for stream in machine.streams]
    assert sizes == sorted(sizes)
    assert all(stream.bytes_per_s > 1e7 for stream in machine.streams)
    assert torch.get_num_threads() == threads
