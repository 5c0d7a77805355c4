"""From samples to a profile, and the rows that are measured with."""

from pathlib import Path

import numpy as np
import pytest

from superserve.conditions import Conditions
from superserve.model_folder import ModelFolder, TensorSpec
from superserve.profiler.measure import build_profile, example_rows
from superserve.profiler.sampling import CellSamples
from superserve.profiler.texts import Texts
from support.folders import write_digits_like_folder
from support.profiles import DEVICE


def test_cells_become_rows_of_the_table() -> None:
    samples = CellSamples(4)
    for cell, us in enumerate((100, 200, 300, 400)):
        samples.loaded[cell] = [us * 1000] * 10
        samples.quiet[cell] = [us * 900] * 3
    samples.overhead = [*[50_000] * 90, *[80_000] * 10]
    busy = Conditions(worker_waited=0.5)
    profile = build_profile(samples, DEVICE, "hash", (1, 4), {"small": 70.0, "large": 80.0}, conditions=busy)
    assert (profile.device, profile.conditions) == (DEVICE, busy)
    assert (profile.model_hash, profile.batches, profile.dispatch_overhead_us) == ("hash", (1, 4), 80.0)
    small, large = profile.subnets
    assert (small.id, small.accuracy, small.p50_us, small.quiet_p50_us) == ("small", 70.0, (100, 200), (90, 180))
    assert (large.id, large.accuracy, large.p95_us, large.p99_us) == ("large", 80.0, (300, 400), (300, 400))


def test_a_device_beside_the_processor_has_its_own_times_in_the_profile() -> None:
    """Per cell, whether measured under load or not; of other engines there are none."""
    samples = CellSamples(4)
    for cell, us in enumerate((100, 200, 300, 400)):
        samples.loaded[cell], samples.quiet[cell] = [us * 1000], [us * 1000]
    samples.overhead = [1]
    accuracies = {"small": 70.0, "large": 80.0}
    profile = build_profile(samples, DEVICE, "hash", (1, 4), accuracies)
    assert [subnet.device_p50_us for subnet in profile.subnets] == [(), ()]
    samples.device = [[us * 500, us * 600, us * 900] for us in (100, 200, 300, 400)]
    profile = build_profile(samples, DEVICE, "hash", (1, 4), accuracies)
    assert [subnet.device_p50_us for subnet in profile.subnets] == [(60, 120), (180, 240)]
    assert [subnet.device_p50_us for subnet in profile.repaired().subnets] == [(60, 120), (180, 240)]


def test_a_profile_as_measured_shows_its_violations() -> None:
    samples = CellSamples(2)
    samples.loaded = [[200_000] * 3, [100_000] * 3]
    samples.quiet = [[1], [1]]
    samples.overhead = [1]
    assert len(build_profile(samples, DEVICE, "hash", (1, 2), {"a": 70.0}).violations()) == 3


def test_bundled_test_data_is_measured_with(tmp_path: Path) -> None:
    folder = ModelFolder(write_digits_like_folder(tmp_path))
    rows = example_rows(folder, folder.config.inputs, np.random.default_rng(0))
    inputs, _ = folder.test_data()
    assert rows[5] == [inputs[5].tobytes()]
    assert len(rows) == 64


@pytest.mark.parametrize("datatype", ["UINT8", "INT64", "FP32", "FP16", "BOOL"])
def test_without_fitting_test_data_numbers_are_made_up_that_any_model_takes(tmp_path: Path, datatype: str) -> None:
    folder = ModelFolder(write_digits_like_folder(tmp_path))
    specs = (TensorSpec("a", datatype, (-1, 3)), TensorSpec("b", "FP32", (-1,)))
    rows = example_rows(folder, specs, np.random.default_rng(0))
    assert [len(tensor) for tensor in rows[0]] == [specs[0].row_bytes, 4]
    values = np.frombuffer(b"".join(row[0] for row in rows), specs[0].dtype).astype(float)
    assert values.min() >= 0
    assert values.max() <= 1
    assert values.std() > 0.1


def test_each_length_has_a_table_of_its_own() -> None:
    """Cells come with the shortest texts first."""
    samples = CellSamples(4)
    for cell, us in enumerate((100, 200, 300, 400)):
        samples.loaded[cell], samples.quiet[cell] = [us * 1000] * 10, [us * 900] * 3
    samples.overhead = [50_000]
    shorter = [Texts(8, 0.25, [b""])]
    profile = build_profile(samples, DEVICE, "hash", (1,), {"small": 70.0, "large": 80.0}, shorter=shorter)
    assert [subnet.p50_us for subnet in profile.subnets] == [(300,), (400,)]
    (bucket,) = profile.shorter
    assert (bucket.length, bucket.share) == (8, 0.25)
    assert [(subnet.id, subnet.p50_us) for subnet in bucket.subnets] == [("small", (100,)), ("large", (200,))]
