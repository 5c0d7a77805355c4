import pytest

from superserve.clock import NS_PER_MS, ManualClock
from superserve.frontend.dashboard.headroom import headroom, row_ns
from superserve.serving.dataplane import ServedModel
from superserve.serving.fake_pool import FakePool
from support.serving import make_model, make_router


def served(slo_ms: float = 50.0, wait_ms: float = 0.0, policy: str = "slackfit") -> ServedModel:
    """Batch 1 takes 1 or 4 ms, batch 4 takes 2 or 8 ms; its batches are waited for as long as given."""
    model = make_model(make_router(FakePool(), ManualClock(), policy=policy), slo_ms=slo_ms)
    if wait_ms:
        model.router.telemetry.wait.observe(round(wait_ms * NS_PER_MS), 3)
    return model


@pytest.mark.parametrize(
    ("model", "expected_ms"),
    [
        (served(), 0.5),  # four rows in 2 ms
        (served(slo_ms=1.5), 1.0),  # four rows would be late
        (served(slo_ms=0.5), 1.0),  # everything is late
        (served(wait_ms=2.0), 1.0),
        (served(slo_ms=3.5, wait_ms=2.0), 3.0),  # with the wait, four rows would be late
        (served(policy="fixed:largest"), 2.0),  # its policy has no faster one
    ],
)
def test_a_row_costs_what_it_does_in_the_best_batch_in_time(model: ServedModel, expected_ms: float) -> None:
    """Of the fastest subnet that the policy may use, the time between batches included."""
    assert row_ns(model) == pytest.approx(expected_ms * NS_PER_MS)


def test_all_models_draw_on_the_same_workers() -> None:
    """Below 0, more comes than can be done; where nothing comes, all is left."""
    assert headroom([(served(), 500.0), (served(slo_ms=1.5), 250.0)], 1) == pytest.approx(0.5)
    assert headroom([(served(), 6000.0)], 2) == pytest.approx(-0.5)
    assert headroom([], 1) == 1.0
